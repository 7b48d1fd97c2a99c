"""The server's first start after an import: nothing comes in a burst, and nothing is lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

from orch_server.core.clock import ManualClock
from tests.legacy.parts import Place
from tests.legacy.samples import (
    EPOCH,
    MESSAGE_QUEUE,
    ROLES,
    agent_state,
    session_state,
    waiting_for,
    write_queue,
)
from tests.transport.harness import Serving, run

ATLAS = "atlas-impl-1a2b3c4d"
MINUTE = 60_000_000
DAY = 86_400_000_000


async def _nothing(_: Serving) -> None:
    return


def test_messages_come_one_a_minute_and_live_from_then_on(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    sent = [
        {
            "agent_id": f"{ATLAS}:{n % 2 + 1}",
            "message": f"{n}",
            "enqueued_at": EPOCH,
            "priority": 100 * (n == 59),
        }
        for n in range(60)
    ]
    write_queue(place.old, {"message_queue": (MESSAGE_QUEUE, sent)})
    place.bring("--execute")
    start = ManualClock(datetime.now().astimezone() + timedelta(days=3))
    run(place.home, _nothing, clock=start)
    rows = place.rows("select agent_id, not_before, text from delivery where state = 'PENDING'")
    assert len(rows) == 60
    for agent in {row[0] for row in rows}:
        mine = sorted(row[1:] for row in rows if row[0] == agent)
        assert [b - a for (a, _), (b, _) in pairwise(mine)] == [MINUTE] * 29
        if "59" in {text for _, text in mine}:
            assert mine[0][1] == "59"  # what is urgent comes first
    first = int((start.now() + timedelta(minutes=1)).timestamp() * 1_000_000)
    assert sorted(row[1] for row in rows)[:2] == [first, first + MINUTE // 2]
    assert place.rows("select distinct expires_at - not_before from delivery") == [(DAY,)]
    start.advance(60)
    run(place.home, _nothing, clock=start)
    assert set(place.rows("select agent_id, not_before, text from delivery")) == set(rows)


def test_who_waited_too_long_by_the_first_start_is_not_told(place: Place) -> None:
    now = datetime.now().astimezone().replace(microsecond=0, tzinfo=None)
    wait = waiting_for("orchestrator", since=now.isoformat(), timeout_minutes=600)
    agents = {
        role: agent_state(role, at, waiting_for=wait if at else None)
        for at, role in enumerate(ROLES)
    }
    place.state("atlas", session_state(ATLAS, agents=agents))
    place.bring("--execute")
    found = "select state, count(*) from authorization group by state"
    assert place.rows(found) == [("PENDING", len(ROLES) - 1)]
    run(place.home, _nothing, clock=ManualClock(datetime.now().astimezone() + timedelta(days=3)))
    assert place.rows(found) == [("EXPIRED", len(ROLES) - 1)]
    assert place.rows("select count(*) from delivery") == [(0,)]
