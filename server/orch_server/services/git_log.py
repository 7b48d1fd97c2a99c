"""When commits were made, as git says.

The directories belong to agents, and so do their repositories: nothing in one may run a program.
`rev-list` is plumbing: it knows no aliases, pagers, hooks or signatures; what is left (fetching
what a partial clone lacks, by a helper that its configuration names) is forbidden by the
environment, of which git gets no more than it needs: a GIT_DIR of ours would lead it astray.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from orch_server.core.text import one_line

#: More commits of one directory than this are not counted, but told.
MOST = 10_000
_DEADLINE = 5.0
_WALK = 90 * 86_400  # seconds before the time asked for at which the walk ends all the same
_KILLED = 1.0
_AT_ONCE = 2
_ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",  # no transport at all; configuration cannot override it
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_SETTINGS = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}")
_NO_COMMIT_YET = "bad revision 'HEAD'"
_NOT_THERE = "cannot change to"


class _Unreadable(Exception):
    """Why a directory's commits are not known."""


async def commits(
    paths: Iterable[str], since: datetime, until: datetime, patience: float
) -> tuple[dict[str, dict[str, datetime]], dict[str, str]]:
    """The commits of each directory that were committed from `since` to `until`: their hashes and
    times; and for the directories whose commits are not known, why. Takes at most about so many
    seconds as `patience`."""
    found: dict[str, dict[str, datetime]] = {}
    faults: dict[str, str] = {}
    room = asyncio.Semaphore(_AT_ONCE)
    end = asyncio.get_running_loop().time() + patience

    async def one(path: str) -> None:
        async with room:
            left = end - asyncio.get_running_loop().time()
            try:
                found[path] = await _read(path, since, until, min(_DEADLINE, left))
            except _Unreadable as exc:
                faults[path] = str(exc)

    async with asyncio.TaskGroup() as group:
        for path in sorted(set(paths)):
            group.create_task(one(path))
    return found, faults


async def _read(
    path: str, since: datetime, until: datetime, deadline: float
) -> dict[str, datetime]:
    if "\0" in path or not Path(path).is_absolute():
        raise _Unreadable("it is no absolute path")
    if deadline <= 0:
        raise _Unreadable("there was no time left to read it")
    out = await _git(path, since, until, deadline)
    found: dict[str, datetime] = {}
    for line in out.splitlines():
        seconds, _, name = line.partition(" ")
        at = datetime.fromtimestamp(int(seconds), UTC)
        if since <= at < until:
            found[name] = at
    if len(found) > MOST:
        raise _Unreadable(f"it has more than {MOST:,} commits in this time")
    return found


async def _git(path: str, since: datetime, until: datetime, deadline: float) -> str:
    settings = [word for one in _SETTINGS for word in ("-c", one)]
    first, last = int(since.timestamp()), int(until.timestamp())
    # A filter: an older date on a newer commit, as a rebase may leave it, does not end the walk.
    filters = (f"--since-as-filter=@{first} +0000", f"--min-age={last}")
    bound = f"--max-age={first - _WALK}"
    words = ["rev-list", "--timestamp", bound, *filters, f"--max-count={MOST + 1}", "HEAD", "--"]
    try:
        process = await asyncio.create_subprocess_exec(
            *("git", "--no-pager", *settings, "-C", path, *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT | {k: os.environ[k] for k in ("PATH", "HOME") if k in os.environ},
        )
    except OSError as exc:
        raise _Unreadable(f"git cannot be run ({exc.strerror})") from exc
    try:
        async with asyncio.timeout(deadline):
            out, error = await process.communicate()
    except TimeoutError as exc:
        raise _Unreadable(f"git did not answer within {deadline:.0f} s") from exc
    finally:
        if process.returncode is None:
            await _end(process)
    if process.returncode == 0:
        return out.decode("ascii", "replace")
    said = one_line(error.decode("utf-8", "replace"), 200)
    if _NO_COMMIT_YET in said:
        return ""
    if _NOT_THERE in said:
        raise _Unreadable("there is no such directory that can be read")
    raise _Unreadable(said or f"git ended with status {process.returncode}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kills it; what even that does not end, such as a dead network disk, is not waited for."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILLED):
            await process.wait()
