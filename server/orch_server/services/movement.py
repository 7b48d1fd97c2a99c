"""When each agent last moved: its screen, as clients tell, or a hook of a turn. In memory only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: A screen has moved when it stands still since so much later than before; less is inexactness.
_MOVED = 1.0


@dataclass(slots=True)
class _Moves:
    """Times are monotonic. `epoch` is of the connection that said since when the screen stands."""

    epoch: int = -1
    stands_since: float = 0.0
    last: float | None = None


class Movement:
    """The last movement of every agent. `listeners` are told the time of each, by agent id."""

    def __init__(self) -> None:
        self._moves: dict[str, _Moves] = {}
        self.listeners: dict[str, Callable[[float], None]] = {}

    def last(self, agent_id: str) -> float | None:
        """When it last moved; None when that is not known."""
        known = self._moves.get(agent_id)
        return known.last if known is not None else None

    def moved(self, agent_id: str, at: float) -> None:
        """The agent did something."""
        self._note(self._of(agent_id), agent_id, at)

    def stands_since(self, agent_id: str, epoch: int, since: float) -> None:
        """A client says since when the screen does not move. What a connection says first only
        begins the count: a new client knows of no movement before it came."""
        known = self._of(agent_id)
        first = known.epoch != epoch
        if first or since > known.stands_since + _MOVED:
            known.epoch, known.stands_since = epoch, since
            if not first:
                self._note(known, agent_id, since)

    def forget(self, agent_id: str) -> None:
        """The agent is deleted, or lives in another pane."""
        self._moves.pop(agent_id, None)

    def _of(self, agent_id: str) -> _Moves:
        known = self._moves.get(agent_id)
        if known is None:
            known = self._moves[agent_id] = _Moves()
        return known

    def _note(self, known: _Moves, agent_id: str, at: float) -> None:
        known.last = at if known.last is None else max(at, known.last)
        listener = self.listeners.get(agent_id)
        if listener is not None:
            listener(at)
