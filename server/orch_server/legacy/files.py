"""Reads files of the old system without trusting what lies where.

A folder is held by its descriptor and everything in it is opened by name relative to that, so that
nothing on the way can be swapped. Symbolic links are never followed, nothing but a regular file is
read, and nothing is ever written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK = 1024 * 1024
_DEPTH = 20
_LINK = "a symbolic link; links are not followed"


class Denied(Exception):
    """Something is not read; says why, in a few words."""


class Missing(Denied):
    """There is nothing of that name."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file was written to."""

    inode: int
    size: int
    modified: int


class Folder:
    """A folder that is held open. Use it with `with`, or end it with close()."""

    def __init__(self, descriptor: int, path: str = "") -> None:
        self._fd = descriptor
        self._path = path

    @classmethod
    def at(cls, path: Path) -> Self:
        """The folder at a path that the user named; links on the way to it are followed.

        Raises Denied.
        """
        with _told(str(path)):
            return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of it."""
        os.close(self._fd)

    def enter(self, name: str) -> Folder:
        """A folder in this one. Raises Denied, Missing when there is none."""
        with _told(path := f"{self._path}/{name}"):
            try:
                return Folder(os.open(name, _FOLDER, dir_fd=self._fd), path)
            except NotADirectoryError as exc:
                found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    raise Denied(_LINK) from exc
                raise

    def entries(self) -> list[os.DirEntry[str]]:
        """What is in it, by name. Raises Denied."""
        with _told(self._path), os.scandir(self._fd) as found:
            return sorted(found, key=lambda entry: entry.name)

    def read(self, name: str, limit: int) -> bytes:
        """The content of a regular file in it. Raises Denied, Missing when there is none."""
        with _told(f"{self._path}/{name}"):
            descriptor = self._open(name, limit)
            try:
                return b"".join(_chunks(descriptor, limit))
            finally:
                os.close(descriptor)

    def first(self, name: str, count: int) -> bytes:
        """The first bytes of a regular file in it. Raises Denied, Missing when there is none."""
        with _told(f"{self._path}/{name}"):
            descriptor = self._open(name, None)
            try:
                return os.read(descriptor, count)
            finally:
                os.close(descriptor)

    def check(self, name: str) -> None:
        """Raises Denied unless this is a regular file in it that can be read."""
        with _told(f"{self._path}/{name}"):
            os.close(self._open(name, None))

    def copy(self, name: str, target: Path, limit: int) -> Stamp:
        """Copies a regular file in it to a new file, and returns the stamp it had before.

        Raises Denied, Missing when there is none, and OSError when the copy cannot be written.
        """
        with _told(f"{self._path}/{name}"):
            descriptor = self._open(name, limit)
        try:
            found = _stamp(os.fstat(descriptor))
            with target.open("xb") as copy:
                for chunk in _chunks(descriptor, limit):
                    copy.write(chunk)
            return found
        finally:
            os.close(descriptor)

    def stamp(self, name: str) -> Stamp | None:
        """The stamp of what has that name now; None when nothing has. Raises Denied."""
        try:
            with _told(f"{self._path}/{name}"):
                return _stamp(os.stat(name, dir_fd=self._fd, follow_symlinks=False))
        except Missing:
            return None

    def _open(self, name: str, limit: int | None) -> int:
        descriptor = os.open(name, _FILE, dir_fd=self._fd)
        found = os.fstat(descriptor)
        regular = stat.S_ISREG(found.st_mode)
        if regular and (limit is None or found.st_size <= limit):
            return descriptor
        os.close(descriptor)
        if regular and limit:
            raise Denied(f"larger than {limit // _CHUNK:,} MiB ({found.st_size:,} bytes)")
        raise Denied("not a regular file")


@dataclass(slots=True)
class Walked:
    """The regular files below a folder, and how much was left out; `denied` has the paths of what
    cannot be read, and why."""

    files: list[str]
    denied: list[tuple[str, str]]
    worktrees: int = 0
    links: int = 0
    others: int = 0


def walk(folder: Folder, prefix: str) -> Walked:
    """All regular files below a folder, their paths beginning with `prefix`. Left out: folders
    named worktrees (checkouts of whole repositories), links, what is no file or cannot be read, and
    what lies more than 20 folders deep."""
    found = Walked([], [])
    _walk(folder, prefix, found, _DEPTH)
    return found


def _walk(folder: Folder, prefix: str, found: Walked, depth: int) -> None:
    for entry in folder.entries():
        path = f"{prefix}/{entry.name}"
        if entry.is_symlink():
            found.links += 1
        elif entry.is_file(follow_symlinks=False):
            _file(folder, entry.name, path, found)
        elif not entry.is_dir(follow_symlinks=False) or not depth:
            found.others += 1
        elif entry.name == "worktrees" and not prefix.endswith("projects"):
            found.worktrees += 1
        else:
            try:
                with folder.enter(entry.name) as below:
                    _walk(below, path, found, depth - 1)
            except Denied as exc:
                found.denied.append((path, str(exc)))


def _file(folder: Folder, name: str, path: str, found: Walked) -> None:
    try:
        folder.check(name)
        found.files.append(path)
    except Denied as exc:
        found.denied.append((path, str(exc)))


def _chunks(descriptor: int, limit: int) -> Iterator[bytes]:
    left = limit
    while chunk := os.read(descriptor, _CHUNK):
        left -= len(chunk)
        if left < 0:
            raise Denied(f"larger than {limit // _CHUNK:,} MiB")
        yield chunk


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


class _told:
    """Turns the system's errors into Denied; `path` is what could not be read, whole."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, FileNotFoundError):
            raise Missing("not there") from error
        if isinstance(error, OSError):
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise Denied(_LINK) from error
            if error.errno == errno.ENXIO:
                raise Denied("not a regular file") from error
            raise Denied(f"{self._path} cannot be read: {error.strerror}") from error
        if isinstance(error, ValueError):  # a NUL in a name
            raise Denied("has a name that no file can have") from error
