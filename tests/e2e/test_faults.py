"""What is killed, stopped or restarted: nothing is lost, nothing is doubled, nothing is pretended.

`make faults` does it ten thousand times, to agents that misbehave: tests/faults/.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tests.e2e.record import arrived
from tests.support import BIN, Client, Home, Server, Tmux, agent, hold, liveness, until

ROUNDS = 12


def test_a_killed_client_is_lost_in_about_a_second(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    server.stop()
    home.configure("beat_interval = 60\n")  # a lease would last three minutes
    server.start()
    client = heartbeat(tmux.pane("atlas", "developer"))
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the client")
    client.signal(signal.SIGKILL)
    until(lambda: liveness(home, "atlas:developer") == "LOST", "the loss")


def test_a_stopped_client_is_lost_when_its_lease_ends_and_comes_back(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    client = heartbeat(tmux.pane("atlas", "developer"))
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the client")
    before = agent(home, "atlas:developer")
    client.signal(signal.SIGSTOP)
    lost = until(lambda: _in_state(home, "LOST"), "the loss")
    silent = _seconds(lost["liveness_change_time"]) - _seconds(lost["last_check_in_time"])
    assert silent >= 3, "a lease is three beats of 1 s"
    client.signal(signal.SIGCONT)
    again = until(lambda: _in_state(home, "ALIVE"), "the return")
    assert int(again["epoch"]) > int(before["epoch"])


def test_a_stopped_server_blames_nobody(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    heartbeat(tmux.pane("atlas", "developer"))
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the client")
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    until(lambda: _process_state(server.process.pid) == "T", "the stop")
    hold(6.5)  # longer than two leases
    server.process.send_signal(signal.SIGCONT)
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the client again")
    with sqlite3.connect(home.path / "orch.db") as db:
        verdicts = db.execute("select count(*) from event where kind = 'agent.lost'").fetchone()
    db.close()
    assert verdicts == (0,)


def test_over_tcp_too_a_server_that_stands_still_for_a_while_is_there(home: Home) -> None:
    server = Server(home, "--listen", home.address, "--listen", "127.0.0.1:0").start()
    try:
        port = re.search(r"127\.0\.0\.1:(\d+)", server.ready_line)
        assert port is not None
        assert server.process is not None
        made = ["orch-server", "token", "create", "--session", "atlas", "--role", "developer"]
        token = subprocess.check_output(made, env=home.env(), text=True, timeout=20).strip()
        server.process.send_signal(signal.SIGSTOP)
        asking = subprocess.Popen(
            [str(BIN / "orch-client"), "agents"],
            env=home.env(ORCH_ADDRESS=f"127.0.0.1:{port[1]}", ORCH_TOKEN=token),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        hold(3.5)
        server.process.send_signal(signal.SIGCONT)
        _, err = asking.communicate(timeout=30)
        assert (asking.returncode, err) == (0, "")
    finally:
        server.end()


def test_sigterm_drains_and_clients_come_back(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    heartbeat(tmux.pane("atlas", "developer"))
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the client")
    assert server.stop() == 0
    assert not (home.path / "orch.sock").exists()
    assert (home.path / "orch.db-wal").stat().st_size == 0 if _has_wal(home) else True
    server.start()
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the client again")
    assert "agent.lost" not in _kinds(home)


def test_a_wait_survives_a_restart_and_expires_by_itself(
    home: Home, tmux: Tmux, server: Server
) -> None:
    developer = tmux.pane("atlas", "developer")
    tmux.type(developer, 'orch-client authorize --wait "Deploy"; echo "exit=$?"')
    found = until(lambda: home.json("pending"), "the request")[0]["id"]
    server.kill()
    with sqlite3.connect(home.path / "orch.db") as db:  # its five minutes shall end now
        soon = int((time.time() + 1.5) * 1e6)
        db.execute("update authorization set deadline_at = ? where id = ?", (soon, found))
    db.close()
    server.start()
    tmux.wait_for(developer, "exit=11")
    assert home.json("authorization", found)["state"] == "AUTHORIZATION_STATE_EXPIRED"
    tmux.wait_for(developer, f"Authorization {found} expired")


def test_a_wait_that_nobody_answers_in_time_says_so(home: Home, tmux: Tmux, server: Server) -> None:
    developer = tmux.pane("atlas", "developer")
    ask = 'orch-client authorize --wait --timeout 0.3s "Deploy"; echo "exit=$?"'
    tmux.type(developer, ask)
    tmux.wait_for(developer, "exit=13")
    tmux.type(developer, f'orch-client withdraw {home.json("pending")[0]["id"]}; echo "gone=$?"')
    tmux.wait_for(developer, "gone=0")
    assert home.json("pending") == []


def test_what_waited_when_tmux_died_comes_to_the_pane_that_the_agent_has_then(
    home: Home, tmux: Tmux, server: Server
) -> None:
    pane = tmux.pane("atlas", "tester")
    tmux.run("copy-mode", "-t", pane)
    tmux.type(tmux.pane("atlas", "boss"), "orch-client send atlas:tester hello after all")
    sent = until(lambda: home.json("messages"), "the message")[0]["id"]
    until(lambda: home.json("delivery", sent)["reason"].endswith("COPY_MODE"), "the refusal")
    died = int(tmux.run("display-message", "-p", "#{pid}"))
    os.kill(died, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{died}").exists(), "the end of tmux")
    # Every 10 s the server looks for the pane of what waits.
    tmux.wait_for(tmux.pane("atlas", "tester"), "hello after all", 40)
    until(lambda: home.json("delivery", sent)["state"].endswith("CONFIRMED"), "the outcome")


def test_a_dead_tmux_leaves_what_was_offered_unconfirmed(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    client = heartbeat(tmux.pane("atlas", "developer"))
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the client")
    pid = int(tmux.run("display-message", "-p", "#{pid}"))
    os.kill(pid, signal.SIGSTOP)  # tmux takes the offer and says nothing
    try:
        task = home.json("schedule", "0", "who knows", "--to", "atlas:developer")["id"]
        until(lambda: _delivery(home, task) == "OFFERED", "the offer")
    finally:
        client.signal(signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
    until(lambda: liveness(home, "atlas:developer") in ("LOST", "ENDED"), "the loss")
    tmux.socket.unlink()
    heartbeat(tmux.pane("atlas", "developer"))
    until(lambda: _delivery(home, task) == "UNCONFIRMED", "the doubt")
    assert "who knows" not in tmux.screen("%0")


def test_notes_survive_a_storm_of_kills(
    home: Home, tmux: Tmux, server: Server, heartbeat: Callable[..., Client]
) -> None:
    """Each round schedules notes, then kills server, client or both at a random moment."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    record = home.path / "orch-record"
    pane = tmux.recorder("atlas", "tester", record)
    client = heartbeat(pane, "--kind", "generic")
    until(lambda: liveness(home, "atlas:tester") == "ALIVE", "the client")
    accepted: list[str] = []
    for number in range(ROUNDS):
        for note in range(4):
            text = f"note-{number}-{note}."
            minutes = str(chance.uniform(0, 0.01))
            done = home.client("schedule", minutes, text, "--to", "atlas:tester")
            assert done.returncode == 0, done.stderr
            accepted.append(text)
        victim = chance.choice(("server", "client", "both"))
        hold(chance.uniform(0, 0.6))
        if victim in ("client", "both"):
            client.signal(signal.SIGKILL)
            client.wait()
            client = heartbeat(pane, "--kind", "generic")
        if victim in ("server", "both"):
            server.kill()
            server.start()
    until(lambda: _settled(home, len(accepted)), f"all deliveries; seed {seed}", 60)
    all_of_it = "".join(f"{text}\r" for text in accepted).encode()
    seen = Counter(arrived(record, all_of_it).decode().split("\r"))
    seen.pop("")
    states = Counter(t["delivery_state"] for t in home.json("tasks"))
    assert seen == Counter(accepted), f"seed {seed}: {states}"
    assert set(states) == {"DELIVERY_STATE_CONFIRMED"}, f"seed {seed}: {states}"


def test_clients_started_before_the_server_wait_for_it(home: Home, tmux: Tmux) -> None:
    server = Server(home).start()
    server.stop()
    client = Client(tmux, tmux.pane("atlas", "developer"))
    try:
        until(lambda: client.process.poll() is None, "the client")
        server.start()
        until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the client")
        assert client.process.poll() is None
    finally:
        client.end()
        server.end()


def test_ten_clients_of_one_command_line_do_not_starve(home: Home, server: Server) -> None:
    """Concurrent one-shot commands all get their answer."""
    command = [str(BIN / "orch-client"), "agents", "--json"]
    running = [
        subprocess.Popen(command, env=home.env(), stdout=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    for process in running:
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "[]\n")


def _in_state(home: Home, state: str) -> dict[str, str]:
    found = agent(home, "atlas:developer")
    return found if found["liveness"] == f"LIVENESS_{state}" else {}


def _delivery(home: Home, task: str) -> str:
    return str(home.json("task", task).get("delivery_state", "")).removeprefix("DELIVERY_STATE_")


def _settled(home: Home, count: int) -> bool:
    done = ("DELIVERY_STATE_CONFIRMED", "DELIVERY_STATE_UNCONFIRMED")
    tasks = home.json("tasks")
    return len(tasks) == count and all(t.get("delivery_state") in done for t in tasks)


def _kinds(home: Home) -> set[str]:
    with sqlite3.connect(home.path / "orch.db") as db:
        found = {row[0] for row in db.execute("select kind from event")}
    db.close()
    return found


def _has_wal(home: Home) -> bool:
    return (home.path / "orch.db-wal").exists()


def _process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
