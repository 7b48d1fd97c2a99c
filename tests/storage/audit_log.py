"""A log of the audit to look at: authorizations that were asked for, decided and used."""

from __future__ import annotations

import asyncio
import shutil
from datetime import timedelta
from pathlib import Path

import apsw

from orch_server.core.authorization import Action, Authorization, Level, Proof
from orch_server.core.authorization import AuthorizationState as State
from orch_server.core.policy import AuthorizationPriority
from orch_server.storage import authorizations
from orch_server.storage.store import Transaction
from tests.storage.parts import START, Opened, add_agent, agent, opened

REQUESTS = 21


def asked(name: str, seconds: float = 0.0) -> Authorization:
    """A request of the agent dev with this id."""
    at = START + timedelta(seconds=seconds)
    return Authorization(
        id=name,
        agent_id="dev",
        session="atlas",
        requester_role="dev",
        requester_pane="pane",
        approver_role="lead",
        action=f"do {name}",
        priority=AuthorizationPriority.LOW,
        priority_derived=True,
        state=State.PENDING,
        created_at=at,
        deadline_at=at + timedelta(minutes=30),
        action_class="routine",
        approvers=("lead", "orchestrator"),
        human=False,
        reason_required=False,
        lapse=timedelta(minutes=15),
        bound=Action("", f"do {name}", "/srv"),
        digest=name * 5,
        levels=(
            Level("orchestrator", at + timedelta(minutes=10)),
            Level("human", at + timedelta(minutes=20)),
        ),
    )


async def ask(at: Opened, name: str) -> None:
    """Writes the request."""
    since = (at.clock.now() - START).total_seconds()
    await at.store.write(lambda tx: authorizations.insert(tx, asked(name, since), ""))


async def decide(at: Opened, name: str, state: State = State.APPROVED) -> None:
    """Approves or denies it, as the role lead."""

    def unit(tx: Transaction) -> None:
        found = authorizations.get(tx.db, name)
        authorizations.resolve(tx, found, state, "atlas:lead", "since", Proof.ROLE)

    await at.store.write(unit)


async def use(at: Opened, name: str) -> None:
    """Uses the approval."""

    def unit(tx: Transaction) -> None:
        found = authorizations.get(tx.db, name)
        authorizations.close(tx, found, State.CONSUMED, "atlas:dev", f"use-{name}")

    await at.store.write(unit)


async def fill(at: Opened, first: int = 0, count: int = REQUESTS) -> None:
    """Asks, tells a level, decides and uses, a minute apart; each fourth stays as it was asked."""
    for number in range(first, first + count):
        name = f"{number:012x}"
        at.clock.advance(60)
        await ask(at, name)
        if number % 4 == 3:
            continue
        if number % 3 == 0:
            await at.store.write(
                lambda tx, name=name: authorizations.tell_level(
                    tx, authorizations.get(tx.db, name), 0, "operator", passed_over=False
                )
            )
        await decide(at, name, State.DENIED if number % 5 == 0 else State.APPROVED)
        if number % 5:
            await use(at, name)


def filled(folder: Path, *, pruned: bool = False) -> Path:
    """A closed database with some sixty links in this new folder; with `pruned`, the first ones
    have been pruned. Beside it lie, as `old-N.db`, what it was before."""
    folder.mkdir()

    async def body() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())
            for part in range(3):
                await fill(at, part * 7, 7)
                _snapshot(folder, folder / f"old-{part}.db")
            if pruned:
                await decide(at, f"{3:012x}", State.DENIED)
                assert await at.store.prune_audit(START + timedelta(minutes=6)) > 10

    asyncio.run(body())
    return folder / "orch.db"


def _snapshot(folder: Path, target: Path) -> None:
    """A copy of a database that may be in use."""
    source, copy = apsw.Connection(str(folder / "orch.db")), apsw.Connection(str(target))
    with copy.backup("main", source, "main") as backup:
        backup.step()
    copy.close()
    source.close()


def copied(folder: Path, target: Path) -> Path:
    """A copy of a closed database with its key and head; returns the database."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "audit", target / "audit")
    return Path(shutil.copy(folder / "orch.db", target))


def rows(path: Path, sql: str, *params: object) -> list[tuple[object, ...]]:
    """Runs a statement on the file itself and returns its rows."""
    connection = apsw.Connection(str(path))
    try:
        connection.execute("pragma synchronous = off")
        return connection.execute(sql, params).fetchall()
    finally:
        connection.close()
