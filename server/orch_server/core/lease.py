"""Leases: how long a silent client still counts as alive. Pure; `now` is monotonic seconds.

Two signals make two verdicts. Silence: the lease ends. A broken stream: the client is suspect at
once and has only the grace to come back. A lease is renewed by any frame of its own epoch; a frame
of an older epoch is an error, since a newer client holds the agent.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from math import inf

from orch_server.core.errors import StaleEpoch
from orch_server.core.pace import Pace


@dataclass(slots=True)
class _Lease:
    epoch: int
    deadline: float


class LeaseTable:
    """The leases of all clients, in memory only. Renewing one is a dictionary access."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._leases: dict[str, _Lease] = {}
        self._heap: list[tuple[float, str]] = []
        self._queued: dict[str, float] = {}  # the earliest entry of each agent in the heap

    def change_pace(self, pace: Pace) -> None:
        """From now on this pace. When leases grow, all grow at once; when they shrink, none does:
        a client still beats at the pace that it was told last, see `renew`."""
        longer = pace.lease - self.pace.lease
        self.pace = pace
        if longer > 0:
            self.extend_all(longer)

    def grant(self, agent: str, epoch: int, now: float) -> None:
        """Starts the lease of a new connection and ends the one before."""
        self._put(agent, _Lease(epoch, now + self.pace.lease))

    def await_return(self, agent: str, epoch: int, now: float) -> None:
        """Amnesty after a start of the server: at most two leases to come back."""
        self._put(agent, _Lease(epoch, now + 2 * self.pace.lease))

    def renew(self, agent: str, epoch: int, now: float, told: float = 0.0) -> None:
        """A frame came from a client that was told of a lease of so many seconds, which may be
        longer than the present one. Raises StaleEpoch when a newer connection holds the agent."""
        lease = self._leases.get(agent)
        if lease is None or lease.epoch != epoch:
            raise stale_epoch(epoch)
        deadline = now + max(told, self.pace.lease)
        if deadline < lease.deadline:  # after an amnesty or an extension: it must be seen in time
            self._put(agent, _Lease(epoch, deadline))
        else:
            lease.deadline = deadline

    def broke(self, agent: str, epoch: int, now: float, forgiven: bool = False) -> bool:
        """The stream ended without goodbye. True when that was the newest connection. `forgiven`:
        it may be the server's own fault, so that the amnesty holds instead of the grace."""
        lease = self._leases.get(agent)
        if lease is None or lease.epoch != epoch:
            return False
        wait = 2 * self.pace.lease if forgiven else self.pace.grace
        self._put(agent, _Lease(epoch, now + wait))
        return True

    def left(self, agent: str, now: float) -> float | None:
        """How many seconds are left of a lease; None when there is none."""
        lease = self._leases.get(agent)
        return None if lease is None else max(0.0, lease.deadline - now)

    def end(self, agent: str, epoch: int) -> bool:
        """The client said goodbye. True when that was the newest connection."""
        lease = self._leases.get(agent)
        if lease is None or lease.epoch != epoch:
            return False
        del self._leases[agent]
        return True

    def expire(self, now: float) -> list[tuple[str, int]]:
        """Removes and returns (agent, epoch) of each lease that has ended."""
        ended = []
        while self._heap and self._heap[0][0] <= now:
            queued, agent = heapq.heappop(self._heap)
            if self._queued.get(agent) != queued:
                continue  # an earlier entry of this agent came first
            del self._queued[agent]
            lease = self._leases.get(agent)
            if lease is None:
                continue
            if lease.deadline > now:
                self._queue(agent, lease.deadline)
                continue
            del self._leases[agent]
            ended.append((agent, lease.epoch))
        return ended

    def extend_all(self, seconds: float) -> None:
        """The server itself stood still for so long: nobody is blamed for it."""
        for lease in self._leases.values():
            lease.deadline += seconds

    def next_check(self) -> float | None:
        """When `expire` should run next; None when nobody has a lease."""
        return self._heap[0][0] if self._heap else None

    def _put(self, agent: str, lease: _Lease) -> None:
        self._leases[agent] = lease
        if lease.deadline < self._queued.get(agent, inf):
            self._queue(agent, lease.deadline)

    def _queue(self, agent: str, deadline: float) -> None:
        self._queued[agent] = deadline
        heapq.heappush(self._heap, (deadline, agent))


def stale_epoch(epoch: int) -> StaleEpoch:
    """The error for a frame or report of an older connection."""
    return StaleEpoch(
        f"Connection {epoch} of this agent was replaced by a newer one; this client must end.",
        epoch=str(epoch),
    )
