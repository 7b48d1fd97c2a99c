"""The operator's passphrase: kept as a salted scrypt hash in ORCH_HOME/passphrase.

Without one the server runs in open mode. One check runs at a time and a wrong passphrase costs a
second, so that guessing is slow.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from pathlib import Path

from orch_server.core.errors import NotAllowed, PassphraseRequired

_COST = {"n": 2**15, "r": 8, "p": 1, "maxmem": 2**26}
_PENALTY = 1.0


class Passphrase:
    """Sets and checks the passphrase."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()

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

        Raises PassphraseRequired when none was given, NotAllowed when it is wrong.
        """
        if not self.is_set():
            return
        if not given:
            raise PassphraseRequired(f"The operator's passphrase is needed to {what}.")
        async with self._lock:
            if await asyncio.to_thread(self.matches, given):
                return
            await asyncio.sleep(_PENALTY)
        raise NotAllowed(f"The passphrase is wrong; it is needed to {what}.")
