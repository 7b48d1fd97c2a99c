"""More kinds of faults around the gate: a client that is missing or broken, a home that cannot be
read, servers that are none."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import gate_fakes
from tests.faults.gate_fakes import ANSWERS, PEERS, SETTINGS, SILENT, STATUSES, WAITS, Peer, Strange
from tests.faults.gate_host import Outcome
from tests.faults.gate_kinds import kind, word
from tests.faults.gate_stand import AT_ONCE, SHORT, Case

_STRANGE: list[Strange] = []


def strange() -> Strange:
    """The one server with strange answers; `close` ends it."""
    if not _STRANGE:
        _STRANGE.append(Strange("gate"))
    return _STRANGE[0]


def close() -> None:
    """Ends what these kinds have started."""
    while _STRANGE:
        _STRANGE.pop().close()


@contextmanager
def folder() -> Iterator[Path]:
    """An empty one with a short path, private to this user."""
    made = Path(tempfile.mkdtemp(prefix="orch-g-", dir="/tmp"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


# ---- the client ----

#: What stands in the place of orch-client. None exits with 0, which is all that a shell is told.
_PROGRAMS = {
    "crashes": "#!/usr/bin/env python3\nimport orch_client.nothing_of_this_name\n",
    "faults": "#!/bin/sh\nkill -SEGV $$\n",
    "no-interpreter": "#!/nothing/here\n",
    "no-program": "\x7fELF and no more\n",
    "hangs": "#!/bin/sh\nexec sleep 60\n",
    "fails": "#!/bin/sh\nexit 1\n",
}


@kind("there is no orch-client", weight=3)
def missing(case: Case) -> Outcome:
    return case.use(case.call(word(case)), env={"PATH": "/usr/bin:/bin"})


@kind("orch-client is broken", weight=4)
def broken(case: Case) -> Outcome:
    name = case.dice.choice(sorted(_PROGRAMS))
    with folder() as path:
        program = path / "orch-client"
        program.write_text(_PROGRAMS[name])
        program.chmod(0o755)
        if case.dice.random() < 0.2:
            program.chmod(0o644)
        env = {"PATH": f"{path}:/usr/bin:/bin"}
        return case.use(case.call(word(case)), AT_ONCE, env=env)


@kind("a module of orch-client's cannot be imported", weight=4)
def unimportable(case: Case) -> Outcome:
    name = case.dice.choice(["grpc", "orch", "google", "argparse", "json", "signal", "orch_client"])
    faults = ["raise ImportError", "not python", "1 / 0", "raise KeyboardInterrupt"]
    if name in ("grpc", "orch", "google"):  # what ends with 0 before the gate begins is no client
        faults.append("raise SystemExit(0)")
    fault = case.dice.choice(faults)
    with folder() as path:
        (path / f"{name}.py").write_text(fault)
        env = {"PYTHONPATH": str(path)}
        return case.use(case.call(word(case)), env=env)


@kind("orch-client has no file to open left", weight=1)
def no_files(case: Case) -> Outcome:
    most = case.dice.randrange(4, 12)
    hook = f"ulimit -n {most}; {AT_ONCE.hook}"
    return case.use(case.call(), hook=hook)


@kind("orch-client has no memory", weight=1)
def no_memory(case: Case) -> Outcome:
    hook = f"ulimit -v {case.dice.randrange(10_000, 120_000)}; {AT_ONCE.hook}"
    return case.use(case.call(), hook=hook)


@kind("a deadline that is none", weight=1)
def odd_deadline(case: Case) -> Outcome:
    given = case.dice.choice(["0", "-1", "nan", "inf", "1e9", "soon", "", "1 2", "--no"])
    return case.use(case.call("free"), hook=f"orch-client gate --deadline {given} || exit 2")


# ---- where the server is said to be ----


@kind("ORCH_HOME cannot be read", weight=3)
def odd_home(case: Case) -> Outcome:
    with folder() as path:
        (path / "file").touch()
        (path / "loop").symlink_to(path / "loop")
        (path / "closed").mkdir(mode=0)
        name = case.dice.choice(["file", "loop", "closed", "none", "x" * 300, "empty/\udcff"])
        env = {"ORCH_HOME": f"{path}/{name}", "ORCH_ADDRESS": ""}
        return case.use(case.call(word(case)), AT_ONCE, env=env)


@kind("ORCH_ADDRESS or ORCH_TOKEN is wrong", weight=3)
def odd_address(case: Case) -> Outcome:
    env = case.dice.choice(
        [
            {"ORCH_ADDRESS": "nonsense"},
            {"ORCH_ADDRESS": "127.0.0.1:99999"},
            {"ORCH_ADDRESS": "nowhere.invalid:50051"},
            {"ORCH_ADDRESS": "unix:/nothing/orch.sock"},
            {"ORCH_TOKEN": ""},
            {"ORCH_TOKEN": "nonsense"},
            {"ORCH_TOKEN": case.token[:-1]},
            {"ORCH_TOKEN": "with\nline"},
        ]
    )
    return case.use(case.call(word(case)), AT_ONCE, env=env)


@kind("no socket", weight=1)
def no_socket(case: Case) -> Outcome:
    with folder() as path:
        env = {"ORCH_HOME": str(path), "ORCH_ADDRESS": ""}
        return case.pane((case.call(word(case)), AT_ONCE), env=env).use()


@kind("sockets that nobody serves", weight=2)
def unserved(case: Case) -> Outcome:
    with (
        folder() as path,
        gate_fakes.unserved(path / "orch.sock"),
        gate_fakes.unserved(path / "orch-id.sock"),
    ):
        (path / "orch.db").touch()  # a server was there: it is waited for
        env = {"ORCH_HOME": str(path), "ORCH_ADDRESS": ""}
        return case.use(case.call(word(case)), SHORT, env=env)


@kind("a port that nobody serves", weight=2)
def no_port(case: Case) -> Outcome:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        return case.use(case.call(word(case)), SHORT, env={"ORCH_ADDRESS": address})


# ---- servers that are none ----


@kind("the identity socket is half open, or says nonsense", weight=4)
def odd_identity(case: Case) -> Outcome:
    with folder() as path:
        how = case.dice.choice(PEERS)
        said = gate_fakes.identity(case.dice)
        with Peer(path / "orch-id.sock", how, case.dice, said):
            env = {"ORCH_HOME": str(path), "ORCH_ADDRESS": ""}
            return case.use(case.call(word(case)), AT_ONCE, env=env)


@kind("the identity socket is good, the server is not", weight=3)
def odd_server(case: Case) -> Outcome:
    with folder() as path:
        first = gate_fakes.known(case.token)
        with (
            Peer(path / "orch-id.sock", "whole", case.dice, first),
            Peer(path / "orch.sock", case.dice.choice(PEERS), case.dice, SETTINGS),
        ):
            env = {"ORCH_HOME": str(path), "ORCH_ADDRESS": ""}
            return case.use(case.call(word(case)), AT_ONCE, env=env)


@kind("another server has the port", weight=4)
def odd_port(case: Case) -> Outcome:
    with Peer(None, case.dice.choice(PEERS), case.dice, SETTINGS) as peer:
        return case.use(case.call(word(case)), AT_ONCE, env={"ORCH_ADDRESS": peer.address})


def _strange(case: Case, how: str) -> Outcome:
    env = {"ORCH_ADDRESS": strange().address, "ORCH_TOKEN": how}
    return case.use(case.call(word(case)), AT_ONCE, env=env)


@kind("the server answers what is not understood", weight=10)
def odd_answer(case: Case) -> Outcome:
    return _strange(case, case.dice.choice(sorted(ANSWERS)))


@kind("the server answers so while the gate waits", weight=4)
def odd_wait(case: Case) -> Outcome:
    return _strange(case, case.dice.choice(sorted(WAITS)))


@kind("the server answers with an error", weight=5)
def error(case: Case) -> Outcome:
    return _strange(case, case.dice.choice(STATUSES).name)


@kind("the server is too old for the gate")
def unimplemented(case: Case) -> Outcome:
    return _strange(case, "UNIMPLEMENTED")


@kind("the server never answers", weight=2)
def silent(case: Case) -> Outcome:
    return _strange(case, SILENT)
