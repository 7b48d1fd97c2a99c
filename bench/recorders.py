"""Panes whose programs write down when they read a note, all served by one `heartbeat --all`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import BIN, Home, until

from bench.memory import open_panes, running, wait_alive

_PROGRAM = Path(__file__).parent / "recorder.py"
#: A kind of program into which text is typed, known by its name.
_KIND = f'kind = "recorder"\nversion = "1"\nway = "type"\nprograms = ["{_PROGRAM.name}"]\n'
_PATIENCE = 60.0
_NOTE = re.compile(rb"#(\d{6})#(\r?)")


@dataclass(frozen=True, slots=True)
class Read:
    """When a program had read all of a note, and the Enter behind it; nanoseconds since 1970."""

    text: int
    enter: int


class Records:
    """What the programs in the panes have written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def programs(self) -> int:
        """How many read by now."""
        return len({line.split(b" ")[1] for line in self._lines()})

    def wait(self, count: int) -> None:
        """Waits until so many notes were read since the last `clear`, with their Enters. It looks
        rarely, so as not to be in the way."""
        end = time.monotonic() + _PATIENCE
        while len(self.notes()) < count:
            if time.monotonic() > end:
                raise RuntimeError(f"{len(self.notes())} of {count} notes were typed")
            time.sleep(0.5)

    def notes(self) -> dict[int, Read]:
        """The notes that were read by their numbers. Raises RuntimeError when one came twice."""
        found: dict[int, Read] = {}
        for reads in self._streams().values():
            for number, read in _notes(reads):
                if number in found:
                    raise RuntimeError(f"note {number} was typed twice")
                found[number] = read
        return found

    def clear(self) -> None:
        """Forgets what was read."""
        with self._path.open("r+b") as file:
            file.truncate(0)

    def _streams(self) -> dict[bytes, list[tuple[int, bytes]]]:
        """For each program its reads: when, and what."""
        streams: dict[bytes, list[tuple[int, bytes]]] = {}
        for line in self._lines():
            at, program, data = line.split(b" ")
            streams.setdefault(program, []).append((int(at), bytes.fromhex(data.decode())))
        return streams

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().splitlines() if self._path.exists() else []


def text(number: int) -> str:
    """A note of its own for each number, all of one length."""
    return f"check whether the build is green #{number:06}#"


@contextmanager
def panes(at: Home, count: int) -> Iterator[Records]:
    """So many agents bench:agent-N, that one client serves; the server of this home runs."""
    record = at.path / "record"
    rules = at.config.parent / "screens"
    rules.mkdir()
    (rules / "recorder.toml").write_text(_KIND)
    command = f"exec {sys.executable} -S {_PROGRAM} {record}"
    with open_panes(at, count, command) as (tmux, _):
        records = Records(record)
        until(lambda: records.programs() == count, "the programs in the panes", _PATIENCE)
        env = at.env(TMUX=f"{tmux.socket},0,0")
        with running([str(BIN / "orch-client"), "heartbeat", "--all"], env):
            wait_alive(at, count)
            yield records


def _notes(reads: list[tuple[int, bytes]]) -> Iterator[tuple[int, Read]]:
    """The whole notes in the reads of one program."""
    ends, whole = [], b""
    for at, data in reads:
        whole += data
        ends.append((len(whole), at))
    for match in _NOTE.finditer(whole):
        if match[2]:
            times = [next(at for end, at in ends if end >= match.end(group)) for group in (1, 2)]
            yield int(match[1]), Read(*times)
