"""Mass death: when most clients are lost at once, the fault is first looked for on our side.

What is counted is clients, that is processes, not streams: one that served a hundred panes is one
loss. Those who say goodbye are no losses. Pure; `now` is monotonic seconds. Each call costs the
same, however many were lost, since they may all be lost in one moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_LEAST = 3


@dataclass(slots=True)
class _Loss:
    at: float
    agents: set[str] = field(default_factory=set)


class PartitionWatch:
    """Who is connected and who was lost lately. `suspected`: more than half, and at least three,
    were lost within one lease, and have not come back."""

    def __init__(self) -> None:
        self.suspected = False
        self._streams: dict[str, set[str]] = {}  # client -> agents
        self._losses: dict[str, _Loss] = {}  # by client, the latest last
        self._lost_by: dict[str, str] = {}  # agent -> the client that was lost with it
        self._partly = 0  # clients that lost streams and still have others

    def joined(self, client: str, agent: str) -> None:
        """A stream was welcomed; whoever served the agent before is not missing any more."""
        if client not in self._streams:
            self._streams[client] = set()
            self._partly += client in self._losses
        self._streams[client].add(agent)
        self._forgive(agent)

    def left(self, client: str, agent: str) -> None:
        """A stream ended with a goodbye, or was replaced."""
        agents = self._streams.get(client)
        if agents is not None:
            agents.discard(agent)
            if not agents:
                del self._streams[client]
                self._partly -= client in self._losses

    def lost(self, client: str, agent: str, now: float) -> None:
        """A stream broke or fell silent. The client is lost with the last of its streams."""
        self._forgive(agent)
        loss = self._losses.pop(client, None)
        if loss is None:
            loss = _Loss(now)
            self._partly += client in self._streams
        loss.at = now
        loss.agents.add(agent)
        self._losses[client] = loss
        self._lost_by[agent] = client
        self.left(client, agent)

    def judge(self, now: float, lease: float) -> bool | None:
        """True when the suspicion begins, False when it is over, None when nothing changed.

        It is over when at most half are missing, or two leases after the last loss.
        """
        if not self.suspected or self._last(now) <= now - 2 * lease:
            self._forget(now - lease)
        connected, missing = self.counts
        if self.suspected and missing <= connected:
            self.suspected = False
            return False
        if not self.suspected and missing >= _LEAST and missing > connected:
            self.suspected = True
            return True
        return None

    @property
    def counts(self) -> tuple[int, int]:
        """How many clients are connected, and how many are missing."""
        return len(self._streams), len(self._losses) - self._partly

    def _last(self, now: float) -> float:
        return next((loss.at for loss in reversed(self._losses.values())), now)

    def _forget(self, until: float) -> None:
        """Losses of that long ago do not count any more."""
        while self._losses:
            client, loss = next(iter(self._losses.items()))
            if loss.at > until:
                return
            for agent in loss.agents:
                del self._lost_by[agent]
            self._drop(client)

    def _forgive(self, agent: str) -> None:
        """The agent is served again, or lost by another client: the loss is one agent smaller."""
        client = self._lost_by.pop(agent, None)
        if client is not None:
            agents = self._losses[client].agents
            agents.discard(agent)
            if not agents:
                self._drop(client)

    def _drop(self, client: str) -> None:
        del self._losses[client]
        self._partly -= client in self._streams
