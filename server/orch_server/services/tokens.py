"""Tokens for callers whom the kernel cannot name: over TCP, from containers, by grpcurl.

Each is a file in ORCH_HOME/tokens that holds a hash of the secret, so that they can be made and
revoked with or without a running server. A token names one role of one session, or the operator.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orch_server.core.errors import NotFound, Unidentified

_TOKEN = re.compile(r"orch_([0-9a-f]{12})_([A-Za-z0-9_-]{43})\Z")


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A token as it is kept. Without session and role it is the operator's."""

    id: str
    session: str
    role: str
    created: str


class TokenFiles:
    """The folder with the tokens."""

    PREFIX = "orch_"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, session: str, role: str, created: str) -> str:
        """Makes a token and returns it; only its hash is kept. Without a role: the operator's."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        kept = {
            "session": session,
            "role": role,
            "operator": not role,
            "created": created,
            "sha256": _hash(secret),
        }
        path = self._folder / f"{token_id}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(kept) + "\n")
        return f"{self.PREFIX}{token_id}_{secret}"

    def list(self) -> list[TokenFile]:
        """All tokens, without their secrets; damaged files are left out, for they open nothing."""
        kept = ((path.stem, _kept(path)) for path in sorted(self._folder.glob("*.json")))
        return [TokenFile(i, k["session"], k["role"], k["created"]) for i, k in kept if k]

    def revoke(self, token_id: str) -> None:
        """Ends a token. Raises NotFound."""
        if token_id not in {path.stem for path in self._folder.glob("*.json")}:
            raise NotFound(f"There is no token '{token_id}'; 'orch-server token list' shows them.")
        (self._folder / f"{token_id}.json").unlink()

    async def read(self, token: str) -> tuple[str, str] | None:
        """The session and role of a token, None for the operator. Raises Unidentified."""
        return await asyncio.to_thread(self._read, token)

    def _read(self, token: str) -> tuple[str, str] | None:
        match = _TOKEN.match(token)
        kept = _kept(self._folder / f"{match[1]}.json") if match else None
        if not match or not kept or not hmac.compare_digest(kept["sha256"], _hash(match[2])):
            raise Unidentified(
                "The token is unknown or revoked; make one with 'orch-server token create'."
            )
        return None if kept["operator"] else (kept["session"], kept["role"])


def _kept(path: Path) -> dict[str, Any] | None:
    """What a token's file says; None when it is missing or does not say all of it."""
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    texts = ("session", "role", "created", "sha256")
    if not isinstance(kept, dict) or not all(isinstance(kept.get(key), str) for key in texts):
        return None
    whole = kept.get("operator") is True or bool(kept["session"] and kept["role"])
    return {"operator": False, **kept} if whole else None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
