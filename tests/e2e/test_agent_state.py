"""What agents do, as people see it: hooks in real panes, processes, and a server that is killed."""

from __future__ import annotations

from typing import Any

from tests.support import Home, Server, Tmux, agent, until

DEV = "atlas:developer"


def _hook(event: str, **facts: str) -> str:
    """The line that runs a hook, as an agent CLI would."""
    said = ",".join(f'"{name}":"{value}"' for name, value in facts.items())
    return f"printf '{{{said}}}' | orch-client hook {event} >/dev/null"


def _in_state(home: Home, state: str) -> dict[str, Any]:
    def shown() -> dict[str, Any]:
        found = [a for a in home.json("agents") if f"{a['session']}:{a['role']}" == DEV]
        return found[0] if found and found[0].get("state") == f"AGENT_STATE_{state}" else {}

    return until(shown, f"the developer to be {state}")


def _sources(home: Home) -> set[str]:
    return {e["source"] for e in home.json("why", DEV)["explanation"]["evidence"]}


def test_hooks_in_a_pane_without_a_client_tell_its_state_over_a_killed_server(
    home: Home, tmux: Tmux, server: Server
) -> None:
    pane = tmux.pane("atlas", "developer")
    tmux.type(pane, _hook("UserPromptSubmit", session_id="s1"))
    working = _in_state(home, "WORKING")
    assert working["liveness"] == "LIVENESS_UNMANAGED"
    server.kill()
    server.start()
    kept = _in_state(home, "WORKING")
    assert kept["state_change_time"] == working["state_change_time"]
    said = "You have hit your session limit · resets in 2h"
    tmux.type(pane, _hook("StopFailure", error="rate_limit", last_assistant_message=said))
    limited = _in_state(home, "USAGE_LIMITED")
    assert limited["evidence"]["detail"] == said
    assert limited["evidence"]["reset_time"] > limited["state_change_time"]
    told = home.client("why", DEV).stdout
    assert "usage-limited" in told
    assert "StopFailure" in told
    assert said in told


def test_a_shell_in_the_place_of_an_agent_is_seen_within_a_beat_and_stays_fresh(
    home: Home, tmux: Tmux, server: Server
) -> None:
    pane = tmux.pane("atlas", "developer")
    tmux.type(pane, "orch-client heartbeat --kind claude &")
    shell = _in_state(home, "SHELL")
    assert shell["evidence"]["rule"] == "foreground"
    first = shell["evidence"]["observe_time"]
    until(lambda: agent(home, DEV)["evidence"]["observe_time"] > first, "the next beat")
    assert agent(home, DEV)["state_change_time"] == shell["state_change_time"]
    tmux.type(pane, _hook("SessionStart", source="startup"))
    until(lambda: "EVIDENCE_SOURCE_HOOK" in _sources(home), "the hook to be seen")
    _in_state(home, "SHELL")  # nothing has stayed in the foreground: it died at once
    assert "EVIDENCE_SOURCE_PROCESS" in _sources(home)
    tmux.run("kill-pane", "-t", pane)
    dead = _in_state(home, "DEAD")
    assert dead["evidence"]["rule"] == "pane"
