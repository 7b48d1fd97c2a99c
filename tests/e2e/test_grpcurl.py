"""docs/howto/grpcurl.md is run as it stands: its own commands, in its order, by the real grpcurl.

Once over the Unix socket as printed, once over TCP with the two changes that the page names. One
bash runs all blocks, as a person's shell does; a `grpcurl` before the real one on PATH writes down
each call and its exit status.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, ROOT, Block, blocks
from tests.support import BIN, Home, Server

pytestmark = pytest.mark.grpcurl

PAGE = DOCS / "howto" / "grpcurl.md"
_FIRST_LINES = 'ORCH_HOME="${ORCH_HOME:-', 'ORCH_TCP="${ORCH_TCP:-'
_OPERATOR = "-expand-headers -H 'authorization: Bearer ${ORCH_TOKEN}'"
_STATUS = re.compile(r"^exit status (\d+)$", re.MULTILINE)
_RECORDING = """#!/usr/bin/env bash
"$GRPCURL" "$@"
status=$?
{ printf '%s\\x1f' "$BLOCK" "$status" "$@"; printf '\\x1e'; } >>"$CALLS"
exit $status
"""


@dataclass(frozen=True, slots=True)
class Example:
    """A block of commands, and what the page says that they print."""

    commands: Block
    expected: str

    @property
    def status(self) -> int:
        """The exit status of grpcurl that the page shows; 0 when it shows none."""
        shown = _STATUS.search(self.expected)
        return int(shown[1]) if shown else 0


@dataclass(frozen=True, slots=True)
class Call:
    """One call of grpcurl: the block it stands in, its exit status, its arguments."""

    block: int
    status: int
    arguments: tuple[str, ...]

    @property
    def by_socket(self) -> bool:
        """Whether it went through the Unix socket."""
        return "-unix" in self.arguments or any(a.endswith(".sock") for a in self.arguments)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of running the page. `outputs` and `statuses` are those of the examples."""

    transport: str
    outputs: list[str]
    statuses: list[int]
    calls: list[Call]
    methods: dict[str, list[str]]


def examples() -> list[Example]:
    """The bash blocks of the page, each with the text block that follows it, if one does."""
    found = [block for block in blocks(PAGE) if block.language in ("bash", "text")]
    following = [*found[1:], Block("", "", 0)]
    return [
        Example(block, after.text if after.language == "text" else "")
        for block, after in zip(found, following, strict=True)
        if block.language == "bash"
    ]


def over_tcp(commands: str) -> str:
    """The same commands over TCP, by the rule that the page gives."""
    assert commands.count("-unix") <= 1, "the rule is for one call at a time"
    has_header = " -H " in commands
    changed = commands.replace('"$ORCH_HOME/orch.sock"', '"$ORCH_TCP"')
    return changed.replace("-unix", "" if has_header else _OPERATOR)


@pytest.fixture(scope="module")
def grpcurl() -> str:
    """The real grpcurl."""
    found = shutil.which("grpcurl") or shutil.which("grpcurl", path=str(ROOT / ".tools" / "bin"))
    if found is None and shutil.which("go") is None:
        pytest.skip("neither grpcurl nor Go is here; install one of them")
    assert found, "grpcurl is not here, but Go is; run: make tools"
    return found


@pytest.fixture(scope="module", params=["unix", "tcp"])
def run(request: pytest.FixtureRequest, grpcurl: str) -> Iterator[Run]:
    """Runs the whole page against a server of its own."""
    home = Home(beat=1)
    server = Server(home, *_server_arguments(home))
    try:
        server.start()
        port = re.search(r" 127\.0\.0\.1:\d+ ", server.ready_line)
        assert port, server.ready_line
        yield _run(home, port[0].strip(), grpcurl, request.param)
    finally:
        server.end()
        home.remove()


def _server_arguments(home: Home) -> list[str]:
    """The arguments of the server as the page starts it, on a free port."""
    (start,) = [block.text for block in blocks(PAGE) if block.language == "sh"]
    words = start.replace('"', "").split()
    assert words[:2] == ["orch-server", "run"]
    values = {"$ORCH_HOME": str(home.path), "$ORCH_TCP": "127.0.0.1:0"}
    return [re.sub(r"\$\w+", lambda name: values[name[0]], word) for word in words[2:]]


def _run(home: Home, tcp: str, grpcurl: str, transport: str) -> Run:
    folder = home.path / "orch-page"
    (folder / "bin").mkdir(parents=True)
    recording = folder / "bin" / "grpcurl"
    recording.write_text(_RECORDING)
    recording.chmod(0o700)
    calls = folder / "calls"
    calls.touch()
    env = home.env(GRPCURL=grpcurl, CALLS=str(calls), ORCH_TCP=tcp)
    env["PATH"] = f"{recording.parent}:{BIN}:{os.environ['PATH']}"
    if transport == "tcp":
        env["ORCH_TOKEN"] = _command([str(BIN / "orch-server"), "token", "create"], env)
    texts = [example.commands.text for example in examples()]
    if transport == "tcp":
        texts = [over_tcp(text) for text in texts]
    done = subprocess.run(
        ["bash", "-c", _script(texts, folder)],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Run(
        transport,
        [(folder / f"{number}.out").read_text() for number in range(len(texts))],
        [int((folder / f"{number}.status").read_text()) for number in range(len(texts))],
        _calls(calls),
        _methods(grpcurl, home.path / "orch.sock", env),
    )


def _script(texts: list[str], folder: Path) -> str:
    """All blocks for one bash, the output and the status of each in files of its own."""
    lines = ["set -o pipefail"]
    for number, text in enumerate(texts):
        lines += [
            f"export BLOCK={number}",
            "{",
            text.rstrip("\n"),
            f"}} >{folder}/{number}.out 2>&1",
        ]
        lines.append(f"echo $? >{folder}/{number}.status")
    return "\n".join(lines) + "\n"


def _calls(log: Path) -> list[Call]:
    records = [record.split("\x1f") for record in log.read_text().split("\x1e") if record]
    return [Call(int(r[0]), int(r[1]), tuple(r[2:-1])) for r in records]


def _methods(grpcurl: str, socket: Path, env: dict[str, str]) -> dict[str, list[str]]:
    """The methods of each of our services, by reflection: `list` and `describe` must agree."""
    base = [grpcurl, "-plaintext", "-unix", str(socket)]
    services = [s for s in _command([*base, "list"], env).split() if s.startswith("orch.")]
    found = {}
    for service in services:
        listed = _command([*base, "list", service], env).split()
        described = re.findall(r"^ *rpc (\w+) ", _command([*base, "describe", service], env), re.M)
        assert sorted(listed) == sorted(f"{service}.{name}" for name in described)
        found[service] = described
    return found


def _command(words: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def _missing_line(expected: str, output: str) -> str:
    """The first line of `expected` that does not follow in the output; "" when all do.

    Lines between may be left out, … stands for anything, blanks are compared as one.
    """
    left = iter(output.splitlines())
    for line in expected.splitlines():
        pattern = re.compile(".*".join(re.escape(part) for part in _flat(line).split("…")))
        if not any(pattern.fullmatch(_flat(real)) for real in left):
            return line
    return ""


def _flat(line: str) -> str:
    return " ".join(line.split())


def test_every_command_ends_as_the_page_says(run: Run) -> None:
    for number, example in enumerate(examples()):
        where = f"{PAGE.name}:{example.commands.line} over {run.transport}"
        output = run.outputs[number]
        assert run.statuses[number] == 0, f"{where}: {output}"
        ends = [call.status for call in run.calls if call.block == number]
        assert len(ends) == example.commands.text.count("grpcurl -"), f"{where}: {output}"
        assert set(ends) <= {example.status}, f"{where}: {output}"


def test_every_command_prints_what_the_page_says(run: Run) -> None:
    for number, example in enumerate(examples()):
        missing = _missing_line(example.expected, run.outputs[number])
        where = f"{PAGE.name}:{example.commands.line} over {run.transport}"
        assert not missing, f"{where}: no line {missing!r} in\n{run.outputs[number]}"


def test_the_page_calls_every_method_of_every_service(run: Run) -> None:
    assert sorted(run.methods) == [
        "orch.v1.AuthorizationService",
        "orch.v1.EventService",
        "orch.v1.HeartbeatService",
        "orch.v1.MessagingService",
        "orch.v1.MetricsService",
        "orch.v1.SchedulerService",
        "orch.v1.SessionStateService",
        "orch.v1.SupervisionService",
    ]
    called = {
        call.arguments[-1]
        for call in run.calls
        if call.by_socket is (run.transport == "unix") and call.status in (0, 68)
    }
    there = {f"{service}/{name}" for service, names in run.methods.items() for name in names}
    assert there <= called
    assert there <= set(re.findall(r"orch\.v1\.\w+/\w+", PAGE.read_text()))


def test_only_the_run_over_the_socket_uses_the_socket(run: Run) -> None:
    assert any(call.by_socket for call in run.calls) is (run.transport == "unix")


def test_the_first_block_takes_the_variables_that_are_set() -> None:
    first = examples()[0].commands.text
    assert all(start in first for start in _FIRST_LINES), first
