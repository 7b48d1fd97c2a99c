"""The whole product as users meet it: real server, real tmux, real clients, real signals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.support import RECORDER, Client, Home, Server, Tmux, agent, liveness, until


def test_three_heartbeats_and_a_note_that_survives_a_killed_server(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    orchestrator = tmux.pane("atlas", "orchestrator")
    developer = tmux.pane("atlas", "developer")
    record = home.path / "orch-record"
    tester = tmux.recorder("atlas", "tester", record)
    tmux.type(orchestrator, "orch-client heartbeat")
    tmux.type(developer, "orch-client heartbeat &")
    heartbeat(tester, "--kind", "generic")
    for role in ("orchestrator", "developer", "tester"):
        until(lambda role=role: liveness(home, f"atlas:{role}") == "ALIVE", f"{role} to be alive")

    text = "look at the build; $HOME #(touch /tmp/x) 'quoted' äöü"
    home.json("schedule", "0.02", text, "--to", "atlas:developer")
    home.json("schedule", "0.02", text, "--to", "atlas:tester")
    tmux.wait_for(developer, text)
    until(lambda: record.read_bytes().endswith(b"\r"), "Enter in the recorder")
    assert record.read_bytes() == text.encode() + b"\r"
    assert tmux.screen(developer).count(text) == 1
    assert text not in tmux.screen(orchestrator)

    second = "the second note"
    home.json("schedule", "0.02", second, "--to", "atlas:tester")
    home.json("schedule", "0.02", second, "--to", "atlas:orchestrator")
    server.kill()
    server.start()
    tmux.wait_for(orchestrator, second)
    until(lambda: record.read_bytes().count(second.encode() + b"\r") == 1, "the second note")
    until(lambda: _all_confirmed(home), "all deliveries to be confirmed")
    assert record.read_bytes() == text.encode() + b"\r" + second.encode() + b"\r"
    assert tmux.screen(orchestrator).count(second) == 1
    assert agent(home, "atlas:tester")["epoch"] == "2"


def _all_confirmed(home: Home) -> bool:
    return all(t.get("delivery_state") == "DELIVERY_STATE_CONFIRMED" for t in home.json("tasks"))


def test_authorize_wait_is_approved_from_another_pane(
    home: Home, tmux: Tmux, server: Server
) -> None:
    orchestrator = tmux.pane("atlas", "orchestrator")
    developer = tmux.pane("atlas", "developer")
    for pane in (orchestrator, developer):
        tmux.type(pane, "orch-client heartbeat &")
    until(lambda: liveness(home, "atlas:orchestrator") == "ALIVE", "the orchestrator")
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the developer")

    ask = 'orch-client authorize --wait --priority high "Deploy to production"; echo "exit=$?"'
    tmux.type(developer, ask)
    found = until(lambda: home.json("pending"), "the request")[0]
    waiting = agent(home, "atlas:developer")["waiting_for"]
    assert (waiting["role"], waiting["authorization_id"]) == ("orchestrator", found["id"])
    tmux.type(orchestrator, f"orch-client approve {found['id']}")
    tmux.wait_for(developer, "exit=0")
    tmux.wait_for(developer, f"Authorization {found['id']} approved by atlas:orchestrator")
    assert "waiting_for" not in agent(home, "atlas:developer")

    tmux.type(developer, 'orch-client authorize --wait "Drop the schema"; echo "exit=$?"')
    found = until(lambda: home.json("pending"), "the second request")[0]
    assert found["priority"] == "AUTHORIZATION_PRIORITY_MEDIUM"
    tmux.type(orchestrator, f'orch-client deny {found["id"]} --reason "no backup yet"')
    tmux.wait_for(developer, "exit=10")
    tmux.wait_for(developer, "no backup yet")


def test_a_requester_cannot_approve_his_own_request(home: Home, tmux: Tmux, server: Server) -> None:
    developer = tmux.pane("atlas", "developer")
    tmux.type(developer, "orch-client heartbeat &")
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the developer")
    tmux.type(developer, 'orch-client authorize "Deploy to production"')
    found = until(lambda: home.json("pending"), "the request")[0]["id"]
    attempts = (
        f"orch-client approve {found}",
        f"env -u TMUX -u TMUX_PANE orch-client approve {found}",
        f"TMUX_PANE=%999 ORCH_TOKEN=x orch-client approve {found}",
        f"env -i PATH=$PATH ORCH_HOME=$ORCH_HOME orch-client approve {found}",
        f"(orch-client approve {found})",
        f"rm -f $ORCH_HOME/orch-x; ((orch-client approve {found}; echo $? >$ORCH_HOME/orch-x) &);"
        " until [ -s $ORCH_HOME/orch-x ]; do :; done; (exit $(cat $ORCH_HOME/orch-x))",
    )
    for number, attempt in enumerate(attempts):
        tmux.type(developer, f'{attempt}; echo "try-{number}=$?"')
        tmux.wait_for(developer, f"try-{number}=5")
    take = "orch-client heartbeat --role orchestrator --take-over --once"
    tmux.type(developer, f'{take}; orch-client approve {found}; echo "other-role=$?"')
    tmux.wait_for(developer, "other-role=5")
    assert home.json("authorization", found)["state"] == "AUTHORIZATION_STATE_PENDING"


def test_a_session_ends_with_its_panes(home: Home, tmux: Tmux, server: Server) -> None:
    developer = tmux.pane("atlas", "developer")
    tmux.pane("atlas", "other")
    tmux.type(developer, "orch-client heartbeat &")
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the developer")
    tmux.run("kill-pane", "-t", developer)
    until(lambda: liveness(home, "atlas:developer") == "ENDED", "the end")


def test_the_paths_of_a_note_are_recorded(home: Home, tmux: Tmux, server: Server) -> None:
    """A pane without a client is served by the server's own courier."""
    pane = tmux.pane("atlas", "notes")
    tmux.type(pane, 'orch-client schedule 0.01 "to myself"')
    tmux.wait_for(pane, "\nto myself")
    task = until(lambda: [t for t in home.json("tasks") if t.get("delivery_state")], "a firing")[0]
    assert task["creator"] == "atlas:notes"
    assert liveness(home, "atlas:notes") == "UNMANAGED"
    assert Path(home.path / "orch.db").exists()


def test_a_note_made_before_the_heartbeat_follows_the_pane_to_its_role(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    first, second = tmux.pane("atlas", "one"), tmux.pane("atlas", "two")
    lost = heartbeat(tmux.pane("atlas", "three"), "--role", "tester")
    until(lambda: liveness(home, "atlas:tester") == "ALIVE", "the tester")
    lost.end()
    until(lambda: liveness(home, "atlas:tester") == "LOST", "the loss")
    notes = {first: "developer", second: "tester"}
    for pane, role in notes.items():
        tmux.type(pane, f'orch-client schedule 60 "for the {role}"; echo made-it')
        tmux.wait_for(pane, "\nmade-it")
        tmux.type(pane, f"orch-client heartbeat --role {role} &")
        until(lambda r=role: liveness(home, f"atlas:{r}") == "ALIVE", role)
    for task in home.json("tasks"):
        assert home.client("run-now", task["id"]).returncode == 0
    for pane, role in notes.items():
        tmux.wait_for(pane, f"\nfor the {role}")
        assert agent(home, f"atlas:{role}")["pane"]["pane_id"] == pane
    assert liveness(home, "atlas:one") == ""


def test_what_a_program_may_leave_unread_is_not_typed_in_front_of_a_shell(
    home: Home, tmux: Tmux, server: Server
) -> None:
    pane = tmux.pane("atlas", "tool")
    tmux.type(pane, "orch-client heartbeat --kind generic &")
    until(lambda: liveness(home, "atlas:tool") == "ALIVE", "the client")
    tmux.type(pane, "sleep 1000")
    until(lambda: agent(home, "atlas:tool").get("foreground_program") == "sleep", "sleep")
    task = home.json("schedule", "0", "touch $ORCH_HOME/orch-run", "--to", "atlas:tool")["id"]
    refused = until(lambda: home.json("task", task).get("delivery_detail"), "a refusal")
    assert "the shell behind it would run" in refused
    record = home.path / "orch-record"
    tmux.run("send-keys", "-t", pane, "C-c")
    tmux.type(pane, f"{sys.executable} {RECORDER} {record}")
    until(lambda: record.exists() and record.read_bytes().endswith(b"\r"), "the text")
    assert record.read_bytes() == b"touch $ORCH_HOME/orch-run\r"
    assert not (home.path / "orch-run").exists()
