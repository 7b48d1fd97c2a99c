"""What is shown of the supervision: why, pages of what was done, and the loop that does it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orch.v1 import heartbeat_pb2, supervision_pb2
from tests.transport.harness import PATIENCE, fails
from tests.transport.overseen import Fleet, oversee, span


async def _why(fleet: Fleet, address: str) -> list[str]:
    request = heartbeat_pb2.GetAgentRequest(agent=address)
    answer = await fleet.at.heartbeat.GetAgent(request)
    return list(answer.explanation.supervision)


def test_why_tells_what_is_done_about_an_agent_and_when(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.agent("project_manager", "WORKING")
        dev = await fleet.agent("dev", "IDLE", credential="own")
        await fleet.minutes(1)
        assert await _why(fleet, "atlas:dev") == [
            "A nudge is considered in 4 min, if something has changed (never nudged)."
        ]
        await fleet.minutes(9)
        escalated, nudge = await _why(fleet, "atlas:dev")
        assert escalated == (
            "Escalated as unresponsive, level 1 of 3 told, the next one at 12:15 UTC:"
            " its last nudge came at 12:05 UTC."
        )
        assert nudge.endswith("(last nudged 5 min ago).")
        await fleet.at.heartbeat.ExtendOperation(
            heartbeat_pb2.ExtendOperationRequest(duration=span(600), reason="migrations"),
            metadata=fleet.at.token("atlas", "dev"),
        )
        await dev.shows("USAGE_LIMITED", detail="resets 2pm (UTC)")
        await fleet.looks()
        assert await _why(fleet, "atlas:dev") == [
            "Everything for it is held until 2026-11-21 14:00:00 UTC, with its account own.",
            "It has announced an operation until 12:20 UTC: migrations",
            "No nudge is due: it is not known to be idle, or nudges are switched off.",
        ]

    oversee(folder, body)


def test_lists_come_in_pages_the_newest_first(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        for n in range(5):
            one = await fleet.agent(f"dev{n}", "WORKING", session=f"s{n}")
            await one.shows("HUNG", source="PROCESS")
            await fleet.looks()
        seen, token = [], ""
        for size in (2, 2, 1):
            request = supervision_pb2.ListEscalationsRequest(page_size=2, page_token=token)
            page = await fleet.stub.ListEscalations(request)
            assert len(page.escalations) == size
            seen += [row.agent for row in page.escalations]
            token = page.next_page_token
        assert seen == [f"s{n}:dev{n}" for n in (4, 3, 2, 1, 0)]
        assert token == ""
        only = supervision_pb2.ListEscalationsRequest(session="s3", open_only=True)
        (row,) = (await fleet.stub.ListEscalations(only)).escalations
        assert row.agent == "s3:dev3"
        nobody = supervision_pb2.ListEscalationsRequest(session="nowhere")
        assert not (await fleet.stub.ListEscalations(nobody)).escalations

    oversee(folder, body)


@pytest.mark.parametrize("method", ["ListNudges", "ListEscalations", "ListAlerts"])
@pytest.mark.parametrize(("field", "value"), [("page_size", -1), ("page_token", "nonsense")])
def test_a_page_that_makes_no_sense_is_refused(
    folder: Path, method: str, field: str, value: Any
) -> None:
    async def body(fleet: Fleet) -> None:
        request = getattr(supervision_pb2, f"{method}Request")(**{field: value})
        failed = await fails(getattr(fleet.stub, method)(request))
        assert (failed.reason, failed.fields) == ("INVALID_INPUT", (field,))

    oversee(folder, body)


def test_the_loop_acts_on_a_change_by_itself(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        manager = await fleet.agent("project_manager", "WORKING")
        dev = await fleet.agent("dev", "WORKING")
        await dev.shows("HUNG", source="PROCESS")
        async with asyncio.timeout(PATIENCE):
            while not manager.got:  # noqa: ASYNC110 - what is looked at has no event
                await asyncio.sleep(0.01)
        assert "atlas:dev hangs" in manager.got[0]

    oversee(folder, body, loops=("mailbox", "supervision"))
