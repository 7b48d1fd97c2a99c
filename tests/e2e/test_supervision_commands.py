"""The commands of the supervision against a real server, as a person and as an agent use them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import BIN, Client, Home, Tmux, agent, liveness, until


@pytest.fixture
def pane(home: Home, tmux: Tmux, heartbeat: Callable[..., Client]) -> str:
    """The pane of atlas:tester, a shell, with a client that names its account."""
    made = tmux.pane("atlas", "tester")
    heartbeat(made, "--kind", "shell", "--credential", "claude@work")
    until(lambda: liveness(home, "atlas:tester") == "ALIVE", "the tester")
    return made


def test_why_explains_an_agent_and_its_client(home: Home, pane: str) -> None:
    done = home.client("why", "atlas:tester")
    assert done.returncode == 0, done.stderr
    fields = dict(line.split(maxsplit=1) for line in done.stdout.split("\n\n")[0].splitlines())
    assert fields["agent"] == "atlas:tester"
    assert fields["client"] == "alive"
    assert fields["account"] == "claude@work"
    said = home.json("why", "atlas:tester")
    assert said["agent"]["role"] == "tester"
    assert said["explanation"]["state_rule"]
    assert said["explanation"]["liveness_rule"]
    gone = home.client("why", "atlas:nobody")
    assert gone.returncode == 4
    assert gone.stderr.startswith("orch-client: There is no agent 'atlas:nobody'")


def test_an_agent_announces_a_long_operation_and_ends_it(home: Home, tmux: Tmux, pane: str) -> None:
    tmux.type(pane, f"{BIN / 'orch-client'} extend 30m 'running migrations'")
    until(lambda: "operation" in agent(home, "atlas:tester"), "the operation")
    assert agent(home, "atlas:tester")["operation"]["reason"] == "running migrations"
    assert "busy with  running migrations until" in home.client("why", "atlas:tester").stdout
    tmux.type(pane, f"{BIN / 'orch-client'} extend 3h more; echo status $?")
    tmux.wait_for(pane, "status 2")
    tmux.type(pane, f"{BIN / 'orch-client'} extend 0")
    until(lambda: "operation" not in agent(home, "atlas:tester"), "its end")
    outside = home.client("extend", "30m", "x")
    assert outside.returncode == 5
    assert len(outside.stderr.splitlines()) == 1


def test_an_account_is_held_and_released_by_hand(home: Home, pane: str) -> None:
    assert home.client("credit").stdout == "No account is held.\n"
    done = home.client("credit", "hold", "atlas:tester", "--for", "2h")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("claude@work held until ")
    (hold,) = home.json("credit")
    assert (hold["credential"], hold["source"]) == ("claude@work", "operator")
    assert [a["role"] for a in hold["agents"]] == ["tester"]
    assert ", held" in home.client("agents").stdout
    assert "held until" in home.client("why", "atlas:tester").stdout
    assert home.client("credit", "hold", "claude@work", "--for", "32d").returncode == 2
    assert home.client("credit", "release", "claude@work").returncode == 0
    assert home.json("credit") == []
    assert home.client("credit", "release", "nobody@nowhere").returncode == 4


def test_on_a_quiet_server_nothing_was_told_or_sent(home: Home, pane: str) -> None:
    assert home.client("alerts").stdout == "No alerts.\n"
    assert home.client("escalations", "--all").stdout == "No escalations.\n"
    nudges = home.client("nudges", "--since", "1h", "--agent", "atlas:tester")
    assert nudges.stdout.startswith("No nudges.\n\n0 sent, ")
    assert home.json("alerts") == home.json("escalations") == []
    assert "nudges" not in home.json("nudges")
    assert home.client("nudges", "--agent", "atlas:nobody").returncode == 4


def test_without_a_server_each_command_says_so(home: Home) -> None:
    for argv in (
        ("why", "x"),
        ("extend", "1m", "x"),
        ("waiting",),
        ("alerts",),
        ("nudges",),
        ("escalations",),
        ("credit",),
        ("credit", "release", "x"),
    ):
        done = home.client(*argv)
        assert done.returncode == 3, argv
        assert "no orch-server answers" in done.stderr
        assert done.stdout == ""
