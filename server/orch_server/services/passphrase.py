"""The operator's passphrase: kept as a salted scrypt hash in ORCH_HOME/passphrase.

Without one the server runs in open mode. One check runs at a time, a wrong passphrase costs a
second, and more than a few callers that wait for their turn are refused: guessing is slow, and
shows.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

from orch_server.core.errors import LimitReached, NotAllowed, PassphraseRequired

_COST = {"n": 2**15, "r": 8, "p": 1, "maxmem": 2**26}
#: What a wrong passphrase costs, in seconds.
PENALTY = 1.0
_MOST_WAITING = 3


class Passphrase:
    """Sets and checks the passphrase."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._attempts: set[asyncio.Task[bool]] = set()
        self.on_wrong: Callable[[str], Awaitable[None]] = _nobody_is_told

    def is_set(self) -> bool:
        """Whether there is one; without, the server is in open mode."""
        return self._path.exists()

    def set(self, passphrase: str) -> None:
        """Replaces the passphrase."""
        salt = secrets.token_bytes(16)
        digest = hashlib.scrypt(passphrase.encode(), salt=salt, **_COST)
        fresh = self._path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(f"scrypt {salt.hex()} {digest.hex()}\n")
        fresh.replace(self._path)

    def matches(self, given: str) -> bool:
        """Whether this is the passphrase; takes about 0.1 s. NotAllowed for a damaged file."""
        try:
            _, salt, digest = self._path.read_text().split()
            found = hashlib.scrypt(given.encode(), salt=bytes.fromhex(salt), **_COST)
        except ValueError as exc:
            raise NotAllowed(
                f"The file {self._path} is damaged; remove it and set the passphrase anew."
            ) from exc
        return hmac.compare_digest(found.hex(), digest)

    async def demand(self, given: str, what: str) -> None:
        """Passes in open mode or with the right passphrase.

        Raises PassphraseRequired when none was given, NotAllowed when it is wrong, LimitReached
        when too many are being checked. `on_wrong` hears what a wrong one was given for.
        """
        if not self.is_set():
            return
        if not given:
            raise PassphraseRequired(f"The operator's passphrase is needed to {what}.")
        if self._waiting >= _MOST_WAITING:
            raise LimitReached(
                "Too many passphrases are being checked; try again in a few seconds."
            )
        self._waiting += 1
        attempt = asyncio.create_task(self._attempt(given, what))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._done)
        if not await asyncio.shield(attempt):
            raise NotAllowed(f"The passphrase is wrong; it is needed to {what}.")

    async def _attempt(self, given: str, what: str) -> bool:
        """One check and its penalty. It goes on when its caller is gone: else who hangs up in time
        would guess for nothing, and unseen."""
        async with self._lock:
            if await asyncio.to_thread(self.matches, given):
                return True
            await self.on_wrong(what)  # first, lest an end of the server in the penalty hides it
            await asyncio.sleep(PENALTY)
        return False

    def _done(self, attempt: asyncio.Task[bool]) -> None:
        self._waiting -= 1
        self._attempts.discard(attempt)
        if not attempt.cancelled():
            attempt.exception()  # its caller heard of it, unless he is gone


async def _nobody_is_told(what: str) -> None:
    """There is no store to write it to."""
