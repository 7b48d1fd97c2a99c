"""What the tests of liveness share: agents by number, and a server whose pulse a test drives."""

from __future__ import annotations

from orch.v1 import agent_pb2, heartbeat_pb2
from orch_server.core.pulse import PULSE
from tests.transport.harness import PATIENCE, Serving, Stream

L = agent_pb2.Liveness


def pulses(at: Serving, seconds: float, busy: float = 0.4) -> None:
    """Lets the server run for so long, using this share of a core."""
    for _ in range(int(seconds / PULSE)):
        at.clock.advance(PULSE, busy)
        at.core.heartbeat.pulse()
    at.clock.advance(seconds % PULSE, busy)


async def alive(at: Serving, count: int, client: str = "", first: int = 0) -> list[Stream]:
    """Streams of the roles agentN; of one client when it is named, else of one each."""
    return [
        await at.alive(f"agent{n}", f"%{n}", client_id=client or f"client{n}")
        for n in range(first, first + count)
    ]


async def break_off(at: Serving, *streams: Stream) -> None:
    """The streams break, and the server has noticed it."""
    for stream in streams:
        stream.call.cancel()
    for stream in streams:
        assert stream.welcome is not None
        await at.until(f"atlas:{stream.welcome.role}", L.LIVENESS_SUSPECT)


async def liveness_of(at: Serving, number: int) -> int:
    return (await at.agent(f"atlas:agent{number}")).liveness


async def expire(at: Serving, seconds: float) -> None:
    """Time passes while the server runs, and what has ended is looked at."""
    pulses(at, seconds)
    await at.core.heartbeat.expire()


async def events(at: Serving, kind: str) -> list[str]:
    """The details of all events of this kind, when all that was begun is written."""
    await at.core.store.write(lambda tx: None)
    sql = "select detail from event where kind = ? order by number"
    rows = await at.core.store.read(lambda db: db.execute_sql(sql, (kind,)).fetchall())
    return [row[0] for row in rows]


async def why(at: Serving, number: int) -> str:
    request = heartbeat_pb2.GetAgentRequest(agent=f"atlas:agent{number}")
    answer = await at.heartbeat.GetAgent(request, timeout=PATIENCE)
    return str(answer.explanation.liveness_rule)
