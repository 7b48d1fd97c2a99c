"""The backup of what is read: a private tar beside our own backups, read back before it counts."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import IO

from orch_server.core.errors import StartupError
from orch_server.core.legacy import Source

_PORTION = 1 << 20
_SAFE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def write(source: Source, target: Path) -> None:
    """Writes the files of the old system into a tar, which is there whole or not at all. Raises
    StartupError, also when a session's file or the queue is not any more what was read."""
    partial = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in target.parent.glob("import-*.tar.part"):  # of one that was killed
            left.unlink()
        with _root(Path(source.root)) as base, _private(partial) as file:
            sums = dict(_add(base, source.files, file))
            file.flush()
            os.fsync(file.fileno())
        found = dict(_read_back(partial))
        if found != sums:
            raise OSError("it does not read back as it was written")
        _check(source, sums)
        partial.rename(target)
    except (OSError, tarfile.TarError, ValueError) as exc:
        with suppress(OSError):
            partial.unlink()
        raise StartupError(
            f"The backup {target} could not be made ({exc}), so nothing was imported."
        ) from exc


def _check(source: Source, sums: Mapping[str, str]) -> None:
    """Raises OSError unless the files that were backed up are those that were read."""
    changed = "was changed meanwhile; end the old system's processes first"
    for name, read in source.digests.items():
        if sums.get(name) != read:
            raise OSError(f"{name} {changed}")
    below = {name.partition("/")[2]: found for name, found in sums.items()}
    for session in source.sessions:
        name = f"projects/{session.directory}/session_state.json"
        if below.get(name) != session.digest:
            raise OSError(f"{name} {changed}")


@contextmanager
def _root(path: Path) -> Iterator[int]:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield number
    finally:
        os.close(number)


@contextmanager
def _private(path: Path) -> Iterator[IO[bytes]]:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as file:
        yield file


def _add(base: int, files: Sequence[str], target: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Adds each file; says its name and the digest of what was read."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in files:
            with _opened(base, name) as file:
                status = os.fstat(file.fileno())
                if not S_ISREG(status.st_mode):
                    raise OSError(f"{name!r} is no regular file")
                info = tarfile.TarInfo(name)
                info.size, info.mtime, info.mode = status.st_size, int(status.st_mtime), 0o600
                read = _Read(file)
                tar.addfile(info, read)
                yield name, read.sum.hexdigest()


class _Read:
    """A file that is summed up as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        found = self._file.read(size)
        self.sum.update(found)
        return found


@contextmanager
def _opened(base: int, name: str) -> Iterator[IO[bytes]]:
    """Opens a file below a folder without following a symbolic link anywhere."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise OSError(f"{name!r} leads outside")
    folders: list[int] = []
    try:
        for part in parts[:-1]:
            at = folders[-1] if folders else base
            folders.append(os.open(part, _SAFE | os.O_DIRECTORY, dir_fd=at))
        at = folders[-1] if folders else base
        number = os.open(parts[-1], _SAFE | os.O_NONBLOCK, dir_fd=at)
    finally:
        for folder in folders:
            os.close(folder)
    with os.fdopen(number, "rb") as file:
        yield file


def _read_back(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            content = tar.extractfile(info)
            if content is None:
                raise OSError(f"{info.name!r} is no file in it")
            found, size = hashlib.sha256(), 0
            while portion := content.read(_PORTION):
                found.update(portion)
                size += len(portion)
            if size != info.size:
                raise OSError(f"{info.name!r} is cut")
            yield info.name, found.hexdigest()
