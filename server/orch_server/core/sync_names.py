"""The names of sessions: those that are missing, and the mark of a tmux session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from orch_server.core.naming import candidates_for, repair_name
from orch_server.core.session import Session
from orch_server.core.sync_view import StoreView, TmuxSession, TmuxView, tmux_spelling
from orch_server.core.text import printable


def missing_names(store: StoreView, tmux: TmuxView) -> dict[str, tuple[str | None, list[str]]]:
    """For each session whose name is missing: the name it must have had, and all that may fit.

    A name that two of them could have had is nobody's.
    """
    nameless = [s for s in store.sessions.values() if s.name_missing and not s.ended]
    taken = {tmux_spelling(s.name) for s in store.sessions.values() if not s.name_missing}
    known: dict[str, str] = {}
    for name in _names(store, tmux):
        known.setdefault(tmux_spelling(name), name)
    names = [n for s, n in known.items() if s not in taken and n not in store.sessions]
    fitting = {s.name: candidates_for(_labels(s), names) for s in nameless}
    claims = Counter(name for those in fitting.values() for name in those)
    found: dict[str, tuple[str | None, list[str]]] = {}
    for session in nameless:
        only = repair_name(_labels(session), names)
        found[session.name] = (only if only and claims[only] == 1 else None, fitting[session.name])
    return found


def why_unnamed(session: Session, store: StoreView, fitting: list[str]) -> str:
    """Why a missing name could not be repaired."""
    others = [name for name, one in store.sessions.items() if not one.name_missing]
    taken = [] if fitting else candidates_for(_labels(session), others)
    why = "nothing known fits"
    if fitting:
        why = f"several fit: {printable(', '.join(fitting), 300)}"
    elif taken:
        why = f"what fits is a session of its own here: {printable(', '.join(taken), 300)}"
    return f"its session name is missing, and {why}"


def _names(store: StoreView, tmux: TmuxView) -> Iterable[str]:
    for server in tmux.values():
        for session in server.sessions:
            yield session.name
            if mark := marked(session, store.generation):
                yield mark
    yield from store.names


def _labels(session: Session) -> list[str]:
    folder = session.project_path.rstrip("/").rpartition("/")[2]
    labels = [label for label in (session.name, session.project_name, folder) if label.strip()]
    return [*labels, *map(tmux_spelling, labels)]


def marked(session: TmuxSession, generation: str) -> str:
    """The session in the store for which it was made; "" when it was not made by us."""
    whose, _, name = session.mark.partition(":")
    return name if whose == generation else ""
