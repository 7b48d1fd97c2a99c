"""The audit in the store: a change and its link are one, the head follows, faults are told."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from orch_server import cli, config
from orch_server.core.audit import Place, Seal
from orch_server.core.authorization import AuthorizationState as State
from orch_server.core.errors import Conflict, NotFound, StartupError, StoreUnavailable
from orch_server.services.audit import AuditService
from orch_server.storage import agents, alerts
from orch_server.storage.audit import Files
from orch_server.storage.audit_check import verify
from orch_server.storage.store import Transaction
from tests.storage.audit_log import ask, decide, fill, filled, rows, use
from tests.storage.parts import START, Opened, add_agent, agent, opened, writer_held

KINDS = "select kind from audit order by number"


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await body(at)

    asyncio.run(with_store())


def _kinds(folder: Path) -> list[object]:
    return [row[0] for row in rows(folder / "orch.db", KINDS)]


def _head(folder: Path) -> Path:
    return folder / "audit" / "head"


def _broken(folder: Path) -> list[str]:
    """What the server found at its starts."""
    sql = "select detail from audit where kind = 'audit.broken' order by number"
    return [str(row[0]) for row in rows(folder / "orch.db", sql)]


async def _prepared(at: Opened) -> None:
    await add_agent(at.store, agent())
    await ask(at, "a" * 12)


# ---- one transaction ----


def test_a_change_its_event_and_its_link_are_one(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _prepared(at)
        sql = "select e.number, e.kind from audit a join event e on e.number = a.event"
        assert rows(at.path, sql) == [(at.events[-1].number, "authorization.requested")]
        assert _kinds(folder) == ["audit.started", "authorization.requested"]
        assert verify(at.path).faults == 0

    _run(folder, body)


def test_a_unit_that_fails_leaves_no_link_and_takes_none_along(folder: Path) -> None:
    def fails(tx: Transaction) -> None:
        tx.audit("x.half", "half")
        raise Conflict("no")

    async def body(at: Opened) -> None:
        async with writer_held(at.store):
            units = (
                lambda tx: tx.audit("x.kept", "before", n=1),
                fails,
                lambda tx: tx.audit("x.kept", "after", n=2),
            )
            waiting = [asyncio.create_task(at.store.write(unit)) for unit in units]
            await asyncio.sleep(0)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), Conflict, type(None)]
        found = rows(at.path, "select number, event, subject, facts from audit where number > 1")
        assert found == [
            (2, at.events[-2].number, "before", '{"n":1}'),
            (3, at.events[-1].number, "after", '{"n":2}'),
        ]
        assert verify(at.path).faults == 0

    _run(folder, body)


def test_without_its_link_nothing_is_decided(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _prepared(at)
        published, before = len(at.events), verify(at.path).links
        refuse = "create trigger refuse before insert on audit begin select raise(abort, 'no'); end"
        await at.store.write(lambda tx: tx.execute(refuse))
        with pytest.raises(StoreUnavailable, match="audit took no link"):
            await decide(at, "a" * 12)
        assert rows(at.path, "select state, resolver from authorization") == [("PENDING", "")]
        assert len(at.events) == published
        await at.store.write(lambda tx: tx.execute("drop trigger refuse"))
        await decide(at, "a" * 12)
        assert rows(at.path, "select state from authorization") == [("APPROVED",)]
        assert (verify(at.path).links, verify(at.path).faults) == (before + 1, 0)

    _run(folder, body)


def test_the_head_is_written_before_the_answer_and_only_for_links(folder: Path) -> None:
    async def body(at: Opened) -> None:
        before = _head(folder).stat().st_mtime_ns
        await add_agent(at.store, agent())
        await at.store.write(lambda tx: tx.emit("x.told", "x"))
        assert _head(folder).stat().st_mtime_ns == before
        await ask(at, "a" * 12)
        assert json.loads(_head(folder).read_text())["count"] == 2

    _run(folder, body)


def test_key_and_head_are_the_users_own(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _prepared(at)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (folder / "audit").iterdir()}
        assert modes == {"key": 0o600, "head": 0o600}
        assert stat.S_IMODE((folder / "audit").stat().st_mode) == 0o700

    _run(folder, body)


def test_a_head_that_cannot_be_written_undoes_nothing_and_comes_later(folder: Path) -> None:
    head, block = folder / "audit" / "head", folder / "audit" / "head.new"

    async def body(at: Opened) -> None:
        await add_agent(at.store, agent())
        block.mkdir()
        kept = head.rename(head.with_name("kept"))
        await ask(at, "a" * 12)
        kept.rename(head)
        report = verify(at.path)
        assert (report.faults, len(report.notes)) == (0, 1)
        await ask(at, "b" * 12)
        assert verify(at.path).notes == []

    _run(folder, body)
    report = verify(folder / "orch.db")
    assert (report.links, report.faults, report.notes) == (3, 0, [])


# ---- starts ----


def test_a_restart_goes_on_with_the_chain(folder: Path) -> None:
    path = filled(folder / "log")
    before = verify(path)
    _run(folder / "log", lambda at: fill(at, 50, 2))
    after = verify(path)
    assert after.links > before.links > 50
    assert (after.faults, after.notes, _broken(folder / "log")) == (0, [], [])
    assert _kinds(folder / "log").count("audit.started") == 1


def test_a_server_killed_before_it_wrote_the_head_is_no_fault(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _prepared(at)
        (folder / "kept").write_text(_head(folder).read_text())
        await decide(at, "a" * 12)
        await use(at, "a" * 12)

    _run(folder, body)
    (folder / "kept").replace(_head(folder))
    report = verify(folder / "orch.db")
    assert report.faults == 0
    assert "the head counts 2 of 4 links" in report.notes[0]
    _run(folder, lambda at: ask(at, "b" * 12))
    report = verify(folder / "orch.db")
    assert (report.links, report.faults, report.notes) == (5, 0, [])


def test_a_new_log_that_was_killed_in_between_is_still_a_new_log(folder: Path) -> None:
    _run(folder, lambda at: add_agent(at.store, agent()))
    rows(folder / "orch.db", "delete from audit")
    store = str(rows(folder / "orch.db", "select generation from store")[0][0])
    seal = Seal(bytes.fromhex((folder / "audit" / "key").read_text()), store)
    Files(folder / "orch.db").put_head(seal.head(seal.beginning))
    for gone in ("", "key"):
        if gone:
            rows(folder / "orch.db", "delete from audit")
            Files(folder / "orch.db").put_head(seal.head(seal.beginning))
            (folder / "audit" / gone).unlink()
        _run(folder, _prepared if not gone else lambda at: ask(at, "b" * 12))
        assert _broken(folder) == []
        assert _kinds(folder) == ["audit.started", "authorization.requested"]


def _cut(folder: Path) -> None:
    rows(folder / "orch.db", "delete from audit where number > 50")


def _older(folder: Path) -> None:
    shutil.copy(folder / "old-0.db", folder / "orch.db")


def _new_database(folder: Path) -> None:
    (folder / "orch.db").unlink()


def _edit_last(folder: Path) -> None:
    rows(
        folder / "orch.db",
        "update audit set hash = 'x' where number = (select max(number) from audit)",
    )


def _add(folder: Path) -> None:
    rows(
        folder / "orch.db",
        "insert into audit select number + 1, event, at, kind, subject, session, agent, actor,"
        " detail, facts, hash from audit order by number desc limit 1",
    )


def _edit_head(folder: Path) -> None:
    kept = json.loads(_head(folder).read_text())
    _head(folder).write_text(json.dumps({**kept, "count": kept["count"] - 1}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut, "the end of the log was cut off"),
        (_older, "an older database was put in its place"),
        (_new_database, "it belongs to another database"),
        (_edit_last, "it names another link"),
        (_add, "is not as the server wrote it"),
        (_edit_head, "it was not written by this server, or was changed"),
        (lambda folder: _head(folder).unlink(), "the head is missing, or damaged"),
        (lambda folder: _head(folder).write_text("{"), "the head is missing, or damaged"),
        (lambda folder: (folder / "audit" / "key").unlink(), "the key is gone"),
        (lambda folder: shutil.rmtree(folder / "audit"), "the key is gone"),
    ],
)
def test_what_does_not_fit_at_a_start_is_the_next_link_and_an_alert(
    folder: Path, spoil: Callable[[Path], object], said: str
) -> None:
    path = filled(folder / "log")
    spoil(folder / "log")

    async def body(at: Opened) -> None:
        service = AuditService(at.store, at.clock, 400)
        for _ in range(2):  # the second look tells nothing new
            await service.run_due()
            found, _ = await at.store.read(lambda db: alerts.list_page(db, "", 10, ""))
            assert [(alert.kind, alert.severity) for alert in found] == [("audit", "CRITICAL")]
            assert said in found[0].text

    _run(folder / "log", body)
    (found,) = _broken(folder / "log")
    assert said in found
    facts = "select facts from audit where kind = 'audit.broken'"
    assert set(json.loads(str(rows(path, facts)[0][0]))) == {
        "head_count",
        "head_hash",
        "links",
        "hash",
    }
    assert any("at a start the server found this" in line for line in verify(path).findings)
    _run(folder / "log", lambda at: at.store.write(lambda tx: None))
    assert len(_broken(folder / "log")) == 1  # the head fits again, and what was found stays


def test_a_damaged_key_is_kept_beside_the_new_one(folder: Path) -> None:
    filled(folder / "log")
    (folder / "log" / "audit" / "key").write_text("no key")
    _run(folder / "log", lambda at: at.store.write(lambda tx: None))
    assert (folder / "log" / "audit" / "key.damaged").read_text() == "no key"
    assert "the key is gone" in _broken(folder / "log")[0]


def test_a_database_without_the_table_is_not_opened(folder: Path) -> None:
    path = filled(folder / "log")
    rows(path, "drop table audit")
    with pytest.raises(StartupError, match="audit"):
        _run(folder / "log", lambda at: at.store.write(lambda tx: None))
    assert "does not hold an audit" in verify(path).findings[0]


def test_what_was_decided_before_the_log_began_needs_no_link(folder: Path) -> None:
    path = filled(folder / "log")
    rows(path, "delete from audit")
    shutil.rmtree(folder / "log" / "audit")
    _run(folder / "log", lambda at: ask(at, "b" * 12))
    rows(path, "update authorization set state = 'LAPSED' where state = 'APPROVED'")
    assert verify(path).findings == []
    rows(path, "update authorization set state = 'APPROVED' where number = 2")
    assert verify(path).faults == 1


# ---- pruning ----


def test_pruning_stops_at_what_is_not_over(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent())
        for name, state in (("a" * 12, State.DENIED), ("b" * 12, State.APPROVED)):
            await ask(at, name)
            await decide(at, name, state)
        await ask(at, "c" * 12)
        at.clock.advance(3600)
        assert await at.store.prune_audit(START) == 0
        assert await at.store.prune_audit(at.clock.now()) == 3  # started, and the denied one
        assert await at.store.prune_audit(at.clock.now()) == 0
        await use(at, "b" * 12)
        assert await at.store.prune_audit(at.clock.now()) == 2
        await decide(at, "c" * 12, State.EXPIRED)
        at.clock.advance(1)
        assert await at.store.prune_audit(at.clock.now()) == 5
        assert _kinds(folder) == ["audit.pruned"]
        facts = json.loads(str(rows(at.path, "select facts from audit")[0][0]))
        assert facts == {"first": 6, "last": 10, "requests": 3}
        assert verify(at.path).findings == []

    _run(folder, body)
    _run(folder, lambda at: ask(at, "d" * 12))
    report = verify(folder / "orch.db")
    assert (report.links, report.findings, _broken(folder)) == (2, [], [])


def test_pruning_leaves_what_was_changed_to_be_seen(folder: Path) -> None:
    path = filled(folder / "log")
    rows(path, "update audit set detail = 'never' where number = 4")

    async def body(at: Opened) -> None:
        at.clock.advance(864_000)
        assert await at.store.prune_audit(at.clock.now()) == 3
        assert await at.store.prune_audit(at.clock.now()) == 0

    _run(folder / "log", body)
    assert "link 4 is not as the server wrote it" in verify(path).findings[0]


def test_a_forged_checkpoint_is_not_pruned_behind(folder: Path) -> None:
    path = filled(folder / "log", pruned=True)
    rows(path, "update audit_checkpoint set at = at + 1")

    async def body(at: Opened) -> None:
        at.clock.advance(864_000)
        assert await at.store.prune_audit(at.clock.now()) == 0

    _run(folder / "log", body)
    assert "checkpoint" in verify(path).findings[0]


def test_the_service_prunes_once_a_day_what_is_older_than_it_is_kept(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _prepared(at)
        await decide(at, "a" * 12, State.DENIED)
        at.clock.advance(86_400 * 3)
        for days, left in ((0, 3), (4, 3), (2, 1)):
            assert await AuditService(at.store, at.clock, days).run_due() == (
                at.clock.now() + timedelta(days=1)
            )
            assert len(_kinds(folder)) == left
        assert verify(at.path).faults == 0

    _run(folder, body)


@pytest.mark.parametrize("given", ["-1", "true", "1.5", "36501", '"400"'])
def test_how_long_links_are_kept_is_a_number_of_days(folder: Path, given: str) -> None:
    file = folder / "config.toml"
    file.write_text("audit_days = 0\n")
    environ = {"ORCH_CONFIG": str(file), "ORCH_HOME": "/nowhere"}
    assert config.load(environ=environ).audit_days == 0
    file.write_text(f"audit_days = {given}\n")
    with pytest.raises(StartupError, match="audit_days is"):
        config.load(environ=environ)


# ---- orch-server audit verify ----


def test_a_copy_of_the_head_shows_what_the_owner_of_both_has_cut(folder: Path) -> None:
    path, copy = filled(folder / "log"), folder / "copy"
    shutil.copy(_head(folder / "log"), copy)
    assert verify(path, copy).faults == 0
    _run(folder / "log", lambda at: fill(at, 50, 1))
    assert (verify(path, copy).faults, verify(path, copy).notes) == (0, [])
    ((store, own),) = rows(
        path, "select (select generation from store), hash from audit where number = 40"
    )
    key = bytes.fromhex((folder / "log" / "audit" / "key").read_text())
    later = "select subject from audit where number > 40"
    rows(path, f"delete from authorization_level where authorization_id in ({later})")
    rows(path, f"delete from authorization where id in ({later})")
    rows(path, "delete from audit where number > 40")
    Files(path).put_head(Seal(key, str(store)).head(Place(40, str(own))))
    assert verify(path).findings == []
    (found,) = verify(path, copy).findings
    assert "the copy of the head: the log ends with link 40, but it counts 55" in found


def _cli(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    try:
        status = cli.main(["audit", "verify", *args])
    except SystemExit as exc:
        status = int(str(exc.code))
    out = capsys.readouterr()
    return status, out.out + out.err


def test_the_command_tells_by_its_status(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_CONFIG", str(folder / "config.toml"))
    (folder / "config.toml").touch()
    home = folder / "log"
    assert _cli(capsys, "--home", str(home))[0] == 4
    path = filled(home)
    assert _cli(capsys, "--home", str(home)) == (
        0,
        "audit: 55 links, from 2026-11-21T12:00:00+00:00 to 2026-11-21T12:21:00+00:00, no fault\n",
    )
    assert _cli(capsys, "--home", str(home), "--head", str(path))[0] == 2
    assert _cli(capsys, "--what")[0] == 2
    rows(path, "update audit set actor = actor || 'x'")
    status, said = _cli(capsys, "--home", str(home))
    assert (status, len(said.splitlines())) == (1, 21)
    assert said.endswith(", 55 faults\n")
    status, said = _cli(capsys, "--home", str(home), "--json")
    shown = json.loads(said)
    assert (status, shown["links"], shown["faults"], len(shown["findings"])) == (1, 55, 55, 20)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            "insert into authorization_level (authorization_id, level, receiver, due_at, told_at,"
            " open) values ('aaaaaaaaaaaa', 3, 'tester', 1, 1, 0)",
            "aaaaaaaaaaaa has a level more than its 2: it was put in",
        ),
        (
            "insert into authorization_level (authorization_id, level, receiver, due_at)"
            " values ('nobody', 1, 'tester', 1)",
            "levels of no authorization were put in: 1",
        ),
        ("delete from authorization_level where level = 2", "aaaaaaaaaaaa has no level 2"),
        (
            "update authorization_level set told_at = 1 where level = 1",
            "says told_at of its level 1 is '1', but its links say NULL",
        ),
        (
            "update authorization_level set receiver = 'tester' where level = 1",
            "receiver of its level 1 is 'tester', but its links say 'orchestrator'",
        ),
        ("update authorization set agent_id = 'other', requester_pane = 'x'", "requester_pane 'x'"),
        (
            "update authorization set consume_request = ''",
            "consume_request '', but its links say NULL",
        ),
        ("update authorization set resolved_at = 0", "resolved_at '0', but its links say NULL"),
        ("update authorization set reason = x''", "says reason 'X"),
    ],
)
def test_a_request_that_was_edited_is_found_before_and_after_its_decision(
    folder: Path, edit: str, said: str
) -> None:
    async def body(at: Opened) -> None:
        await _prepared(at)
        assert verify(at.path).findings == []
        rows(at.path, edit)
        assert said in "; ".join(verify(at.path).findings)
        if not edit.endswith(("= 0", "= x''")):  # what the decision itself writes anew
            await decide(at, "a" * 12)
            assert verify(at.path).faults

    _run(folder, body)


def test_what_the_server_tells_on_of_an_edited_row_contradicts_the_request(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _prepared(at)
        rows(at.path, "update authorization set digest = 'x', session = 'y'")
        await decide(at, "a" * 12)
        rows(at.path, "update authorization set digest = ?, session = 'atlas'", "a" * 60)
        assert verify(at.path).findings == [
            "authorization aaaaaaaaaaaa: link 3 tells another digest, session"
        ]

    _run(folder, body)


def test_a_request_that_moves_with_its_pane_to_another_agent_is_no_fault(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _prepared(at)
        await add_agent(at.store, agent("new"))
        await at.store.write(lambda tx: agents.move_open_work(tx, "dev", "new"))
        assert verify(at.path).findings == []
        await decide(at, "a" * 12)
        assert verify(at.path).findings == []

    _run(folder, body)


def test_without_the_key_the_links_are_counted_all_the_same(folder: Path) -> None:
    path = filled(folder / "log")
    (folder / "log" / "audit" / "key").unlink()
    report = verify(path)
    assert (report.links, report.faults) == (verify(path).links, 1)
    assert report.links > 50
    assert report.first == START
    assert "the key is missing" in report.findings[0]
    path.write_bytes(b"no database at all " * 400)
    report = verify(path)
    assert (report.links, report.faults) == (0, 2)
    assert "the database does not hold an audit that can be read" in report.findings[1]


def test_a_log_that_is_being_written_has_no_fault(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent())
        writing = asyncio.create_task(fill(at, 0, 40))
        looks = 0
        while not writing.done():
            report = await asyncio.to_thread(verify, at.path)
            assert report.findings == []
            looks += 1
        await writing
        assert looks > 5

    _run(folder, body)


def test_what_is_no_database_is_told(folder: Path) -> None:
    with pytest.raises(NotFound, match="no database"):
        verify(folder / "orch.db")
    filled(folder / "log")
    (folder / "log" / "orch.db").write_bytes(b"no database at all " * 400)
    assert "does not hold an audit" in verify(folder / "log" / "orch.db").findings[0]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("authorization", "requester_pane", "x"),
        ("authorization", "approvers", "tester"),
        ("authorization", "human", 7),
        ("authorization", "action", "harmless"),
        ("authorization_level", "told_at", 1),
        ("authorization_level", "receiver", "tester"),
    ],
)
def test_a_row_that_is_changed_for_the_decision_and_back_after_it_is_found(
    folder: Path, table: str, column: str, value: object
) -> None:
    change = f"update {table} set {column} = ?"

    async def body(at: Opened) -> None:
        await _prepared(at)
        before = rows(at.path, f"select number, {column} from {table}")
        await at.store.write(lambda tx: tx.execute(change, (value,)))
        await decide(at, "a" * 12)
        back = f"{change} where number = ?"
        for number, was in before:
            await at.store.write(lambda tx, row=(was, number): tx.execute(back, row))

    _run(folder, body)
    assert any("tells another" in finding for finding in verify(folder / "orch.db").findings)
