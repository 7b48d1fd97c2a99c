"""Settings: what is refused is told with key, value and cure, and without what may be a secret."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from orch_server import config
from orch_server.core.errors import StartupError
from orch_server.core.policy import (
    DEFAULT_GATE,
    DEFAULT_TIMEOUTS,
    ActionClass,
    AuthorizationPriority,
    GateRule,
    Policy,
    Rule,
    default_policy,
    pattern,
)
from tests.docs.markdown import DOCS, blocks
from tests.support import Home

_PAGE = DOCS / "reference" / "authorization.md"
_LOW, _MEDIUM, _HIGH = AuthorizationPriority
_MINUTE = timedelta(minutes=1)


def _webhook(folder: Path, given: str) -> str:
    file = folder / "config.toml"
    file.write_text(f'alert_webhook = "{given}"\n')
    environ = {"ORCH_CONFIG": str(file), "ORCH_HOME": "/nowhere"}
    return config.load(environ=environ).alert_webhook


@pytest.mark.parametrize(
    "given",
    [
        "http://user:secret@secret:99999/secret?secret",
        "http://user:secret@secret:0/secret",
        "http://user:secret@secret:secret/secret",
        "http://user:secret@[secret/secret",
        "http://user:secret@/secret",
        "ftp://user:secret@secret/secret",
        "secret",
    ],
)
def test_a_wrong_webhook_is_told_without_its_url(tmp_path: Path, given: str) -> None:
    with pytest.raises(StartupError) as error:
        _webhook(tmp_path, given)
    assert error.value.message == (
        "alert_webhook is no URL; use one such as https://example.org/hook, or leave it away."
    )


def test_a_webhook_may_hold_user_and_password(tmp_path: Path) -> None:
    given = "https://user:secret@example.org:8443/hook?x=y"
    assert _webhook(tmp_path, given) == given
    assert _webhook(tmp_path, "") == ""


# ---- the policy of authorization ----


def _policy(folder: Path, text: str) -> Policy:
    file = folder / "config.toml"
    file.write_text(text)
    environ = {"ORCH_CONFIG": str(file), "ORCH_HOME": "/nowhere"}
    return config.load(environ=environ).policy


def _refusal(folder: Path, text: str) -> str:
    with pytest.raises(StartupError) as error:
        _policy(folder, text)
    return error.value.message


def test_without_a_policy_the_built_in_one_holds_with_the_approver_roles(tmp_path: Path) -> None:
    assert _policy(tmp_path, "") == default_policy(("orchestrator", "project_manager"))
    assert _policy(tmp_path, "[authorization]") == _policy(tmp_path, "")
    mine = _policy(tmp_path, 'approver_roles = ["Security Ops"]')
    assert mine == default_policy(("security_ops",))
    assert mine.escalation == ("orchestrator", "human")
    assert (mine.gate, mine.timeouts) == (DEFAULT_GATE, DEFAULT_TIMEOUTS)


def test_the_example_of_the_page_is_read_as_it_says(tmp_path: Path) -> None:
    (example,) = [block.text for block in blocks(_PAGE) if block.language == "toml"]
    routine = ActionClass("routine", ("orchestrator", "project_manager"), 15 * _MINUTE)
    release = ActionClass(
        name="release",
        approvers=("orchestrator",),
        lapse=5 * _MINUTE,
        words=("production", "deploy"),
        priority=_HIGH,
        human=True,
        reason_required=True,
        timeout=10 * _MINUTE,
    )
    git = GateRule(Rule.ASK, pattern("Bash"), pattern("git push|rm -rf"), "release")
    assert _policy(tmp_path, example) == Policy(
        routine=routine,
        classes=(release,),
        timeouts={_HIGH: 5 * _MINUTE, _MEDIUM: 15 * _MINUTE, _LOW: 30 * _MINUTE},
        escalation=("orchestrator", "human"),
        escalate_at=(0.8, 0.9),
        gate=(git,),
        gate_default=Rule.ALLOW,
    )


def test_each_key_may_be_given_alone(tmp_path: Path) -> None:
    def of(text: str) -> Policy:
        return _policy(tmp_path, f"[authorization]\n{text}\n")

    assert of('timeouts = { low = "2h" }').timeouts == {**DEFAULT_TIMEOUTS, _LOW: 120 * _MINUTE}
    lapse = of('lapse = "90s"')
    assert {one.lapse for one in (*lapse.classes, lapse.routine)} == {timedelta(seconds=90)}
    assert of("escalation = []").escalation == ()
    assert of('escalation = ["Team Lead", "human"]').escalation == ("team_lead", "human")
    assert of("escalate_at = [0.5]").escalate_at == (0.5,)
    assert of('gate_default = "deny"').gate_default is Rule.DENY
    assert of("gate = []").gate == ()
    assert of("classes = []").classes == ()
    (rule,) = of('[[authorization.gate]]\nthen = "deny"').gate
    assert rule == GateRule(Rule.DENY)
    (named,) = of('[[authorization.classes]]\nname = "ops"\nwords = ["deploy"]').classes
    own = ("orchestrator", "project_manager")
    assert named == ActionClass("ops", own, 15 * _MINUTE, ("deploy",))
    changed = of('[[authorization.classes]]\nname = "routine"\nhuman = true')
    assert (changed.routine.human, changed.classes) == (True, ())


_CLASS = '[[authorization.classes]]\nname = "ops"\nwords = ["deploy"]\n'
_GATE = '[[authorization.gate]]\nthen = "ask"\n'
_A = "[authorization]\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("authorization = 5", "authorization is 5; use a table."),
        ("[[authorization]]", "authorization is [{}]; use a table."),
        (
            f"{_A}lapses = 5",
            "authorization has an unknown key 'lapses'; known are: timeouts, lapse, escalation,"
            " escalate_at, classes, gate, gate_default.",
        ),
        (
            f'{_A}"a\\u001b[2J" = 5',
            "authorization has an unknown key 'a?[2J'; known are: timeouts, lapse, escalation,"
            " escalate_at, classes, gate, gate_default.",
        ),
        (f"{_A}lapse = 5", 'authorization.lapse is 5; use 1 s to 24 h, such as "90s", "5m"'),
        (f"{_A}lapse = true", "authorization.lapse is True; use 1 s to 24 h"),
        (f'{_A}lapse = ""', "authorization.lapse is ''; use 1 s to 24 h"),
        (f'{_A}lapse = "0s"', "authorization.lapse is '0s'; use 1 s to 24 h"),
        (f'{_A}lapse = "25h"', "authorization.lapse is '25h'; use 1 s to 24 h"),
        (f'{_A}lapse = "1.5h"', "authorization.lapse is '1.5h'; use 1 s to 24 h"),
        (f'{_A}lapse = "-5m"', "authorization.lapse is '-5m'; use 1 s to 24 h"),
        (f'{_A}lapse = "5m\\n"', "authorization.lapse is '5m\\n'; use 1 s to 24 h"),
        (f'{_A}lapse = "9999999m"', "authorization.lapse is '9999999m'; use 1 s to 24 h"),
        (f"{_A}timeouts = 5", "authorization.timeouts is 5; use a table."),
        (
            f'{_A}timeouts = {{ urgent = "5m" }}',
            "authorization.timeouts has an unknown key 'urgent'; known are: low, medium, high.",
        ),
        (
            f'{_A}timeouts = {{ high = "soon" }}',
            "authorization.timeouts.high is 'soon'; use 1 s to 24 h",
        ),
        (f'{_A}escalation = "human"', "authorization.escalation is 'human'; use a list."),
        (f"{_A}escalation = [5]", "authorization.escalation has 5; use the name of a role."),
        (
            f'{_A}escalation = ["a/b"]',
            "authorization.escalation: 'a/b' is no role; use 1 to 64 of a-z",
        ),
        (
            f'{_A}escalation = ["human", "human"]',
            "authorization.escalation names a level twice; each is told once.",
        ),
        (
            f'{_A}escalation = ["Team Lead", "team_lead"]',
            "authorization.escalation names a level twice; each is told once.",
        ),
        (f"{_A}escalate_at = 0.8", "authorization.escalate_at is 0.8; use a list."),
        *(
            (
                f"{_A}escalate_at = {given}",
                f"authorization.escalate_at is {shown or given}; list shares of the time-out"
                " between 0 and 1, ascending, such as [0.8, 0.9].",
            )
            for given, shown in (
                ("[]", ""),
                ("[0.9, 0.8]", ""),
                ("[0]", ""),
                ("[1.0]", ""),
                ("[-0.5]", ""),
                ("[nan]", ""),
                ("[true]", "[True]"),
                ('["0.8"]', "['0.8']"),
            )
        ),
        (f"{_A}gate_default = true", "authorization.gate_default is True; use one of: allow, deny"),
        (f'{_A}gate_default = "no"', "authorization.gate_default is 'no'; use one of: allow, deny"),
        (f"{_A}classes = 5", "authorization.classes is 5; use a list."),
        (f"{_A}classes = [5]", "authorization.classes[1] is 5; use a table."),
        ("[authorization.classes]\nname = 5", "authorization.classes is {'name': 5}; use a list."),
        (f"{_CLASS}{_CLASS}", "authorization.classes has two classes 'ops'; rename one."),
        (
            f"{_CLASS}humans = true",
            "authorization.classes[1] has an unknown key 'humans'; known are: name, words,"
            " priority, human, approvers, reason_required, timeout, lapse.",
        ),
        (
            "[[authorization.classes]]",
            "authorization.classes[1].name is missing; use 1 to 40 of a-z",
        ),
        (
            f'{_CLASS}[[authorization.classes]]\nname = "Big One"',
            "authorization.classes[2].name is 'Big One'; use 1 to 40 of a-z, 0-9, '_' and '-'.",
        ),
        (
            f'[[authorization.classes]]\nname = "{"x" * 41}"',
            f"authorization.classes[1].name is '{'x' * 41}'; use 1 to 40",
        ),
        *(
            (
                f'[[authorization.classes]]\nname = "ops"\nwords = {given}',
                f"authorization.classes[1].words is {shown}; list the beginnings of the words that"
                ' make an action one of this class, in small letters, such as ["deploy"].',
            )
            for given, shown in (
                ("[]", "[]"),
                ('["Deploy"]', "['Deploy']"),
                ('["two words"]', "['two words']"),
                ('[""]', "['']"),
                ("[5]", "[5]"),
            )
        ),
        (
            '[[authorization.classes]]\nname = "ops"\nwords = "deploy"',
            "authorization.classes[1].words is 'deploy'; use a list.",
        ),
        (
            f"{_CLASS}priority = 3",
            "authorization.classes[1].priority is 3; use one of: low, medium",
        ),
        (f'{_CLASS}priority = "urgent"', "authorization.classes[1].priority is 'urgent'; use one"),
        (f'{_CLASS}human = "yes"', "authorization.classes[1].human is 'yes'; use true or false."),
        (f"{_CLASS}human = 1", "authorization.classes[1].human is 1; use true or false."),
        (
            f"{_CLASS}reason_required = 0",
            "authorization.classes[1].reason_required is 0; use true or false.",
        ),
        (
            f"{_CLASS}approvers = []",
            'authorization.classes[1].approvers is empty; list roles, such as ["orchestrator"].',
        ),
        (f'{_CLASS}approvers = "pm"', "authorization.classes[1].approvers is 'pm'; use a list."),
        (
            f'{_CLASS}approvers = ["human"]',
            "authorization.classes[1].approvers names 'human', which is no role but the last",
        ),
        (f'{_CLASS}timeout = "2d"', "authorization.classes[1].timeout is '2d'; use 1 s to 24 h"),
        (f"{_CLASS}lapse = 300", "authorization.classes[1].lapse is 300; use 1 s to 24 h"),
        (f'{_A}gate = "ask"', "authorization.gate is 'ask'; use a list."),
        (f"{_A}gate = [5]", "authorization.gate[1] is 5; use a table."),
        (
            f"{_GATE}[[authorization.gate]]\nif = 5",
            "authorization.gate[2] has an unknown key 'if'; known are: tool, input, then, class.",
        ),
        (
            '[[authorization.gate]]\ntool = "Bash"',
            "authorization.gate[1].then is missing; use one of: allow, deny, ask.",
        ),
        (
            '[[authorization.gate]]\nthen = "Ask"',
            "authorization.gate[1].then is 'Ask'; use one of: allow, deny, ask.",
        ),
        (f"{_GATE}tool = 5", "authorization.gate[1].tool is 5; use a regular expression."),
        (
            f'{_GATE}tool = "Bash("',
            "authorization.gate[1].tool is 'Bash(', which is no regular expression of RE2 (",
        ),
        (
            f'{_GATE}input = "*"',
            "authorization.gate[1].input is '*', which is no regular expression of RE2 (",
        ),
        (
            f'{_GATE}class = "release"',
            "authorization.gate[1].class is 'release'; there are: critical, routine, sensitive.",
        ),
        (f"{_GATE}class = 5", "authorization.gate[1].class is 5; there are: critical, routine"),
        (
            f'{_CLASS}{_GATE}class = "critical"',
            "authorization.gate[1].class is 'critical'; there are: ops, routine.",
        ),
    ],
)
def test_what_is_wrong_in_the_policy_is_told_with_key_value_and_cure(
    tmp_path: Path, text: str, says: str
) -> None:
    said = _refusal(tmp_path, text)
    assert said.startswith(says)
    assert said.endswith(".")
    assert "\n" not in said


# ---- tmux ----


@pytest.mark.parametrize(("given", "below"), [("", "/tmp"), ("tmp", "tmp"), ("none", "/tmp")])
def test_the_default_tmux_server_is_where_tmux_itself_has_it(
    tmp_path: Path, given: str, below: str
) -> None:
    (tmp_path / "tmp").mkdir()
    environ = {"ORCH_HOME": "/nowhere", "TMUX_TMPDIR": str(tmp_path / given) if given else ""}
    expected = f"{(tmp_path / below).resolve()}/tmux-{os.getuid()}/default"
    assert config.load(environ=environ).default_tmux == expected


def test_tmux_itself_agrees(home: Home) -> None:
    environ = home.env(TMUX_TMPDIR=str(home.path))
    told = ["display-message", "-p", "#{socket_path}", ";", "kill-server"]
    made = ["tmux", "-f", "/dev/null", "new-session", "-d", "exec sleep 60", ";", *told]
    done = subprocess.run(made, env=environ, capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.strip() == config.load(environ=environ).default_tmux
