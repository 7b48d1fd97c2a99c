"""A fake agent host: it does with a hook before a tool what the real Claude Code was seen to do.

Exit status 2 blocks the tool, and so does 0 with a JSON "deny". With everything else the tool runs:
another status, a signal, garbage, a hook that is not done in time. As a program it does that in a
pane: `gate_host.py SPEC`, where SPEC is a file with the uses of a tool, one after the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_LOOK = 0.02


@dataclass(frozen=True)
class Outcome:
    """Whether the tool ran, the hook's exit status (None: not done in time), and what it said."""

    ran: bool
    status: int | None
    said: str


class Use:
    """One use of a tool: the hook runs from now on. `tool` is what runs unless it is blocked."""

    def __init__(
        self,
        hook: str,
        call: bytes,
        tool: str,
        env: dict[str, str],
        patience: float,
        *,
        keeps_open: bool = False,
        full: str = "",
    ) -> None:
        self._tool, self._env, self._patience = tool, env, patience
        # Files, not pipes: nothing that outlives the hook can hold the host up.
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        streams: dict[str, Any] = {"stdout": self._out, "stderr": self._err}
        with Path("/dev/full").open("wb") as nowhere:
            streams |= dict.fromkeys(full.split(), nowhere)
            self.process = subprocess.Popen(
                ["sh", "-c", hook],
                stdin=subprocess.PIPE,
                env=env,
                start_new_session=True,
                **streams,
            )
        self._feeder = threading.Thread(target=self._feed, args=(call, keeps_open), daemon=True)
        self._feeder.start()

    def _feed(self, call: bytes, keeps_open: bool) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(call)
            self.process.stdin.flush()
        if not keeps_open:
            self._close()

    def _close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def members(self) -> dict[int, str]:
        """Each process of the hook, by its id: its command line."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    stat = (folder / "stat").read_text().rpartition(")")[2].split()
                    if int(stat[3]) == self.process.pid and stat[0] != "Z":
                        line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                        found[int(folder.name)] = line.decode(errors="replace")
        return found

    def signal(self, number: int, who: str = "orch-client") -> bool:
        """Signals the hook's client or its "timeout", once it is there; whether it was."""
        while self.process.poll() is None:
            for pid, line in self.members().items():
                words = [os.path.basename(word) for word in line.split()[:2]]  # noqa: PTH119
                if words[:1] == [who] or (words[1:2] == [who] and words[0] != "timeout"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                        return True
            time.sleep(_LOOK)
        return False

    def finish(self) -> Outcome:
        """Waits for the hook, as long as a host does; then the tool runs or is blocked."""
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(self._patience)
        ran = not self._is_blocked(status)
        if ran:
            subprocess.run(["sh", "-c", self._tool], env=self._env, timeout=10, check=True)
        self.end()
        said = self._read(self._err)
        self._out.close()
        self._err.close()
        return Outcome(ran, status, said)

    def end(self) -> None:
        """Ends what is left of the hook, by process id."""
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self._feeder.join(10)
        self._close()

    def _is_blocked(self, status: int | None) -> bool:
        if status == 2:
            return True
        try:
            said = json.loads(self._read(self._out))
            return status == 0 and said["hookSpecificOutput"]["permissionDecision"] == "deny"
        except (ValueError, KeyError, TypeError):
            return False

    @staticmethod
    def _read(file: Any) -> str:
        file.seek(0)
        return bytes(file.read()).decode(errors="replace")


def main() -> None:
    """Uses each tool of the spec when its file "go" is there, and writes what came of it."""
    for number, one in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        while not Path(one["go"]).exists():
            time.sleep(_LOOK)
        env = {**os.environ, **one["env"]}
        use = Use(one["hook"], one["call"].encode(), one["tool"], env, one["patience"])
        result = Path(f"{sys.argv[1]}.{number}")
        result.with_suffix(".new").write_text(json.dumps(asdict(use.finish())))
        result.with_suffix(".new").replace(result)


if __name__ == "__main__":
    main()
