"""Who calls, and what a pane is.

A pane's number recurs after a restart of the tmux server, so a pane is named together with its
server: an incarnation. A caller is what the kernel says of him, never what he says of himself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of one pane. `started` is the tmux server's start, in seconds since 1970."""

    host: str
    socket: str
    server_pid: int
    started: int
    pane: str

    def key(self) -> str:
        """One string that is equal only for the same incarnation."""
        return f"{self.host}|{self.server_pid}.{self.started}|{self.socket}|{self.pane}"


@dataclass(frozen=True, slots=True)
class Pane:
    """A pane as tmux shows it now."""

    incarnation: Incarnation
    pid: int
    session: str
    window_index: int
    window_name: str
    role_option: str
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Operator:
    """A person: a local caller in no pane, or the bearer of an operator's token."""


@dataclass(frozen=True, slots=True)
class InPane:
    """A process in a pane, as the kernel and tmux prove it."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class TokenAgent:
    """The bearer of a token that was made for one role in one session."""

    session: str
    role: str


Caller = Operator | InPane | TokenAgent
