"""What each hook and each exit tells, line by line."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orch_server.core.agent_state import (
    AgentState,
    Exit,
    HookReport,
    told_by_exit,
    told_by_hook,
)

S = AgentState

HOOKS = [
    (HookReport("SessionStart", detail="startup"), S.IDLE),
    (HookReport("SessionStart", detail="resume"), S.IDLE),
    (HookReport("SessionStart", detail="clear"), S.IDLE),
    (HookReport("SessionStart", detail="compact"), None),
    (HookReport("UserPromptSubmit"), S.WORKING),
    (HookReport("PermissionRequest", detail="Bash"), S.WAITING_PERMISSION),
    (HookReport("PermissionRequest", detail="AskUserQuestion"), S.WAITING_ANSWER),
    (HookReport("PermissionRequest"), S.WAITING_PERMISSION),
    (HookReport("Notification", detail="permission_prompt"), S.WAITING_PERMISSION),
    (HookReport("Notification", detail="elicitation_dialog"), S.WAITING_ANSWER),
    (HookReport("Notification", detail="idle_prompt"), S.IDLE),
    (HookReport("Notification", detail="auth_success"), None),
    (HookReport("Notification"), None),
    (HookReport("Stop"), S.IDLE),
    (HookReport("Stop", continues=True), S.WORKING),
    (HookReport("StopFailure", detail="rate_limit"), S.USAGE_LIMITED),
    (HookReport("StopFailure", detail="billing_error"), S.USAGE_LIMITED),
    (HookReport("StopFailure", detail="authentication_failed"), S.AUTH_FAILED),
    (HookReport("StopFailure", detail="oauth_org_not_allowed"), S.AUTH_FAILED),
    (HookReport("StopFailure", detail="overloaded"), S.IDLE),
    (HookReport("StopFailure", detail="server_error"), S.IDLE),
    (HookReport("StopFailure"), S.IDLE),
    (HookReport("SessionEnd", detail="prompt_input_exit"), S.SHELL),
    (HookReport("SessionEnd", detail="logout"), S.SHELL),
    (HookReport("SessionEnd", detail="other"), S.SHELL),
    (HookReport("SessionEnd", detail="clear"), None),
    (HookReport("SessionEnd", detail="resume"), None),
    (HookReport("PreToolUse", detail="Bash"), None),
    (HookReport("SomethingNew"), None),
]


@pytest.mark.parametrize(("report", "state"), HOOKS, ids=lambda value: str(value)[:60])
def test_a_hook_tells_this_state(report: HookReport, state: AgentState | None) -> None:
    assert told_by_hook(report, S.WORKING) is state


def test_a_refusal_that_is_no_usage_limit_leaves_an_idle_agent() -> None:
    message = "Server is temporarily limiting requests (not your usage limit) · Rate limited"
    report = HookReport("StopFailure", detail="rate_limit", message=message)
    assert told_by_hook(report, S.WORKING) is S.IDLE


def test_the_notice_of_a_question_does_not_make_a_permission_of_it() -> None:
    notice = HookReport("Notification", detail="permission_prompt")
    assert told_by_hook(notice, S.WAITING_ANSWER) is None
    assert told_by_hook(notice, S.WAITING_PERMISSION) is S.WAITING_PERMISSION


@pytest.mark.parametrize("state", [S.USAGE_LIMITED, S.AUTH_FAILED])
def test_the_notice_that_it_waits_does_not_end_a_limit(state: AgentState) -> None:
    assert told_by_hook(HookReport("Notification", detail="idle_prompt"), state) is None


def _exit(status: int = 0, signal: int = 0, again: float | None = None, over: bool = False) -> Exit:
    return Exit(status, signal, None if again is None else timedelta(seconds=again), over)


@pytest.mark.parametrize(
    ("ended", "state", "detail"),
    [
        (_exit(), S.SHELL, "exited with status 0"),
        (_exit(1), S.DEAD, "exited with status 1"),
        (_exit(signal=9), S.DEAD, "killed by signal 9"),
        (_exit(signal=11), S.DEAD, "killed by signal 11"),
        (_exit(130), S.SHELL, "exited with status 130"),
        (_exit(signal=2), S.SHELL, "killed by signal 2"),
        (_exit(signal=15), S.SHELL, "killed by signal 15"),
        (_exit(1, again=4), S.STARTING, "exited with status 1; started again in 4 s"),
        (Exit(1, 0, None, False, wanted=True), S.SHELL, "exited with status 1"),
        (_exit(3, over=True), S.DEAD, "exited with status 3; given up after too many crashes"),
    ],
)
def test_an_exit_tells_a_crash_from_a_person_who_ended_it(
    ended: Exit, state: AgentState, detail: str
) -> None:
    assert told_by_exit(ended) == (state, detail)
