"""Whatever somebody without the key does to the audit, `orch-server audit verify` finds it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apsw
import pytest

from orch_server.core.audit import Link, Place, Seal
from orch_server.core.errors import StartupError
from orch_server.storage.audit_check import verify
from tests.storage.audit_log import copied, fill, filled
from tests.storage.parts import opened

COLUMNS = tuple("number event at kind subject session agent actor detail facts hash".split())  # noqa: SIM905
LEVEL = ("authorization_id", "level", "receiver", "due_at", "told_at", "open", "passed_over")
NOT_TOLD = ("number", "request_id")


@dataclass
class Victim:
    """A copy of a database with its head, to be spoilt."""

    path: Path
    chance: random.Random
    db: apsw.Connection

    @property
    def head(self) -> Path:
        return self.path.parent / "audit" / "head"

    def run(self, sql: str, *params: object) -> list[tuple[object, ...]]:
        return self.db.execute(sql, params).fetchall()

    def numbers(self) -> list[int]:
        return [row[0] for row in self.db.execute("select number from audit order by number")]

    def any_number(self) -> int:
        return self.chance.choice(self.numbers())

    def shift(self, first: int, by: int) -> None:
        """Gives all links from this one on another number, in steps that do not collide."""
        self.run("update audit set number = -number where number >= ?", first)
        self.run("update audit set number = -number + ? where number < 0", by)


def _other(chance: random.Random, value: object) -> object:
    """The value with one character or bit changed."""
    if isinstance(value, int):
        return value ^ (1 << chance.randrange(40))
    text = str(value)
    if not text or chance.random() < 0.3:
        place = chance.randrange(len(text) + 1)
        return text[:place] + chance.choice(" x0\0é") + text[place:]
    place = chance.randrange(len(text))
    if chance.random() < 0.3:
        return text[:place] + text[place + 1 :]
    return text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]


def edit_a_link(at: Victim) -> None:
    number, column = at.any_number(), at.chance.choice(COLUMNS)
    value = at.run(f"select {column} from audit where number = ?", number)[0][0]
    changed = _other(at.chance, value)
    if column == "number" and changed in at.numbers():
        changed = -number
    at.run(f"update audit set {column} = ? where number = ?", changed, number)


def change_a_type(at: Victim) -> None:
    column = at.chance.choice(COLUMNS[3:])
    spoilt = at.chance.choice(("cast({} as blob)", "cast(x'ff' || {} as text)"))
    sql = f"update audit set {column} = {spoilt.format(column)} where number = ?"
    at.run(sql, at.any_number())


def remove_links(at: Victim) -> None:
    first, length = at.any_number(), at.chance.choice((1, 1, 2, 5, 20))
    at.run("delete from audit where number >= ? and number < ?", first, first + length)


def remove_links_and_renumber(at: Victim) -> None:
    first = at.any_number()
    at.run("delete from audit where number = ?", first)
    at.shift(first, -1)


def put_a_copy_in(at: Victim) -> None:
    source = at.any_number()
    target = at.chance.choice((max(at.numbers()) + 1, at.any_number(), 0, -3))
    at.shift(target, 1) if target > 0 else None
    row = list(at.run("select * from audit where number = ?", source + (0 < target <= source))[0])
    at.run(f"insert into audit values ({', '.join('?' * len(row))})", target, *row[1:])


def forge_a_link(at: Victim) -> None:
    target = at.chance.choice((max(at.numbers()) + 1, at.any_number()))
    at.shift(target, 1)
    seal = Seal(at.chance.randbytes(32), "store")
    made = seal.link(Link(1, 1, "authorization.approved", "x"), Place(target - 1, "x"))
    values = [getattr(made, column) for column in COLUMNS]
    at.run(f"insert into audit values ({', '.join('?' * len(values))})", *values)


def swap_two(at: Victim) -> None:
    one, two = at.chance.sample(at.numbers(), 2)
    for source, target in ((one, -1), (two, one), (-1, two)):
        at.run("update audit set number = ? where number = ?", target, source)


def cut_the_end(at: Victim) -> None:
    at.run("delete from audit where number >= ?", at.any_number())


def remove_all(at: Victim) -> None:
    at.run("delete from audit")
    if at.chance.random() < 0.5:
        at.run("delete from audit_checkpoint")
    if at.chance.random() < 0.5:
        at.head.unlink()


def cut_the_beginning(at: Victim) -> None:
    numbers = at.numbers()
    cut = at.chance.choice(numbers[1:])
    at.run("delete from audit where number < ?", cut)
    if at.chance.random() < 0.7:
        row = at.run("select number, hash from audit where number = ?", cut)[0]
        number, own = int(str(row[0])), row[1]
        at.run(
            "insert or replace into audit_checkpoint values (1, ?, ?, ?, ?)",
            number - at.chance.choice((0, 1)),
            at.chance.randrange(2**50),
            own,
            at.chance.randbytes(32).hex(),
        )


def spoil_the_checkpoint(at: Victim) -> None:
    if not at.run("select 1 from audit_checkpoint"):
        at.run("insert into audit_checkpoint values (1, 0, 0, 'x', 'y')")
        return
    column = at.chance.choice(("number", "at", "hash", "mac", ""))
    if not column:
        at.run("delete from audit_checkpoint")
        return
    value = at.run(f"select {column} from audit_checkpoint")[0][0]
    at.run(f"update audit_checkpoint set {column} = ?", _other(at.chance, value))


def spoil_the_head(at: Victim) -> None:
    kept = json.loads(at.head.read_text())
    way = at.chance.choice(("store", "count", "hash", "mac", "forged", "gone", "empty", "cut"))
    if way in kept:
        at.head.write_text(json.dumps({**kept, way: _other(at.chance, kept[way])}))
    elif way == "forged":
        head = Seal(at.chance.randbytes(32), kept["store"]).head(Place(kept["count"], kept["hash"]))
        at.head.write_text(json.dumps({**kept, "mac": head.mac}))
    elif way == "gone":
        at.head.unlink()
    else:
        text = at.head.read_text()
        at.head.write_text("" if way == "empty" else text[: at.chance.randrange(len(text) - 1)])


def write_the_chain_anew(at: Victim) -> None:
    """As somebody would who knows how, but not the key; the head goes with it."""
    numbers = at.numbers()
    first = at.chance.choice(numbers)
    keyed = at.chance.random() < 0.5
    store = str(at.run("select generation from store")[0][0])
    seal = Seal(at.chance.randbytes(32), store)
    at.run("update audit set detail = detail || '!' where number = ?", first)
    previous = "" if first == numbers[0] else _hash_at(at, first - 1)
    for number in numbers[numbers.index(first) :]:
        (row,) = at.run("select * from audit where number = ?", number)
        link = Link(*row[1:10], number=number)  # type: ignore[arg-type]
        if keyed:
            own = seal.hash(link, previous)
        else:
            own = hashlib.sha256(json.dumps([previous, *row[:10]]).encode()).hexdigest()
        at.run("update audit set hash = ? where number = ?", own, number)
        previous = own
    made = seal.head(Place(numbers[-1], previous))
    kept = {"store": store, "count": numbers[-1], "hash": previous, "mac": made.mac}
    if at.chance.random() < 0.5:
        at.head.write_text(json.dumps(kept))


def _hash_at(at: Victim, number: int) -> str:
    return str(at.run("select hash from audit where number = ?", number)[0][0])


def _whole(at: Victim) -> list[object]:
    """The ids of the authorizations of which no link was pruned."""
    kind = "authorization.requested"
    rows = at.run("select subject from audit where kind = ? order by number", kind)
    return [row[0] for row in rows]


def _columns(at: Victim) -> list[str]:
    names = [str(row[0]) for row in at.run("select name from pragma_table_info('authorization')")]
    return [name for name in names if name not in NOT_TOLD]


def change_an_authorization(at: Victim, column: str = "") -> None:
    column = column or at.chance.choice(_columns(at))
    name = at.chance.choice(_whole(at))
    value = at.run(f"select {column} from authorization where id = ?", name)[0][0]
    changed = at.chance.choice(_unlike(at.chance, value))
    at.run(f"update or ignore authorization set {column} = ? where id = ?", changed, name)
    if at.db.changes() == 0:  # the column takes no NULL
        changed = _other(at.chance, value)
        at.run(f"update authorization set {column} = ? where id = ?", changed, name)


def _unlike(chance: random.Random, value: object) -> list[object]:
    """Other values, also such as are taken for this one where NULL, 0, "" and blobs are one."""
    likes: list[object] = [None, "", 0, 1, b"", str(value).encode(), _other(chance, value)]
    return [like for like in likes if like != value]


def change_a_level(at: Victim, column: str = "") -> None:
    column = column or at.chance.choice(LEVEL)
    name = at.chance.choice(_whole(at))
    sql = f"select number, {column} from authorization_level where authorization_id = ?"
    number, value = at.chance.choice(at.run(sql, name))
    changed = None if column == "told_at" and at.chance.random() < 0.5 else value
    while changed == value:
        changed = _other(at.chance, at.chance.randrange(9) if value is None else value)
    sql = f"update or replace authorization_level set {column} = ? where number = ?"
    at.run(sql, changed, number)


def put_a_level_in(at: Victim) -> None:
    name = at.chance.choice((*_whole(at), "nobody"))
    sql = (
        "insert into authorization_level (authorization_id, level, receiver, due_at, told_at, open)"
    )
    number = at.chance.choice((-1, 0, 3, 1000))
    at.run(f"{sql} values (?, ?, 'tester', 1, 1, 0)", name, number)


def remove_a_level(at: Victim) -> None:
    name = at.chance.choice(_whole(at))
    which = at.chance.choice(("", " and level = 1", " and level = 2"))
    at.run(f"delete from authorization_level where authorization_id = ?{which}", name)


def put_an_authorization_in(at: Victim) -> None:
    """One that says that it was approved."""
    at.run("create temp table one as select * from authorization where state <> 'PENDING' limit 1")
    at.run(
        "update one set number = ?, id = 'abcdefabcdef', state = 'APPROVED', request_id = null,"
        " consume_request = null",
        at.chance.choice((-5, 0, 1000)),
    )
    at.run("insert into authorization select * from one")


def put_back_an_older_database(at: Victim, source: Path) -> None:
    at.db.close()
    shutil.copy(source.parent / f"old-{at.chance.randrange(2)}.db", at.path)


def spoil_the_key(at: Victim) -> None:
    key = at.path.parent / "audit" / "key"
    way = at.chance.choice(("gone", "other", "short"))
    if way == "gone":
        key.unlink()
    else:
        key.write_text(at.chance.randbytes(32 if way == "other" else 31).hex())


MUTATIONS: tuple[tuple[int, Callable[[Victim], None]], ...] = (
    (110, edit_a_link),
    (20, change_a_type),
    (50, remove_links),
    (30, remove_links_and_renumber),
    (25, put_a_copy_in),
    (25, forge_a_link),
    (25, swap_two),
    (25, cut_the_end),
    (10, remove_all),
    (25, cut_the_beginning),
    (30, spoil_the_checkpoint),
    (30, spoil_the_head),
    (30, write_the_chain_anew),
    (60, change_an_authorization),
    (30, change_a_level),
    (10, put_a_level_in),
    (10, remove_a_level),
    (10, put_an_authorization_in),
    (10, spoil_the_key),
)
REPLAYS = 10


def _spoilt(source: Path, target: Path, mutate: Callable[[Victim], None], seed: int) -> str:
    """What is found in a copy that was spoilt; "" when nothing is."""
    path = copied(source.parent, target)
    victim = Victim(path, random.Random(seed), apsw.Connection(str(path)))
    victim.db.execute("pragma synchronous = off; pragma journal_mode = memory")
    mutate(victim)
    victim.db.close()
    return "; ".join(verify(path).findings)


@pytest.mark.timeout(600)  # a thousand copies of a database, each read whole
def test_every_one_of_a_thousand_mutations_is_found(folder: Path) -> None:
    missed, tried = [], 0
    for source in (filled(folder / "whole"), filled(folder / "pruned", pruned=True)):
        replay = partial(put_back_an_older_database, source=source)
        for times, mutate in (*MUTATIONS, (REPLAYS, replay)):
            for number in range(times):
                tried += 1
                if not _spoilt(source, folder / "copy", mutate, tried):
                    missed.append((source.parent.name, mutate, number))
            report = verify(copied(source.parent, folder / "copy"))
            assert (report.faults, report.findings, report.notes) == (0, [], [])
    assert missed == []
    assert tried >= 1000


def test_a_change_of_any_column_is_found(folder: Path) -> None:
    source, missed = filled(folder / "log"), []
    columns = _columns(Victim(source, random.Random(0), apsw.Connection(str(source))))
    assert {"agent_id", "requester_pane", "reason", "lapse", "consume_request"} < set(columns)
    changes: list[Callable[[Victim], None]] = [
        *(partial(change_an_authorization, column=column) for column in columns),
        *(partial(change_a_level, column=column) for column in LEVEL),
    ]
    for change in changes:
        for seed in range(6):
            if not _spoilt(source, folder / "copy", change, seed):
                missed.append((change, seed))
    assert missed == []


@pytest.mark.parametrize("mutate", [mutate for _, mutate in MUTATIONS])
def test_a_start_of_the_server_covers_nothing_up(
    folder: Path, mutate: Callable[[Victim], None]
) -> None:
    async def restart() -> None:
        async with opened(folder / "copy") as at:
            await fill(at, 100, 1)

    source = filled(folder / "log")
    for seed in range(3):
        _spoilt(source, folder / "copy", mutate, seed)
        with contextlib.suppress(StartupError):  # then nothing was written
            asyncio.run(restart())
        assert verify(folder / "copy" / "orch.db").faults, seed
