"""What is a difference between the store and tmux, what is safe, and what says nothing."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orch_server.core import sync, sync_advice, sync_names
from orch_server.core.agent import HELD, Agent, Liveness
from orch_server.core.identity import Incarnation, Pane
from orch_server.core.session import AgentDetail, Completion, Session
from orch_server.core.sync import GRACE, MismatchKind
from orch_server.core.sync_view import (
    Answer,
    StoreView,
    TmuxServer,
    TmuxSession,
    tmux_spelling,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
CREATED = int(NOW.timestamp()) - 7200
DEFAULT, OTHER = "/tmp/default", "/tmp/other"
LIFE = (100, 1_700_000_000)


def _at(pane: str, life: tuple[int, int] = LIFE, **more: str) -> Incarnation:
    return Incarnation(more.get("host", "here"), more.get("socket", DEFAULT), *life, pane)


def _agent(role: str, at: Incarnation | None, **more: Any) -> Agent:
    base = Agent(
        id=f"id-{role}",
        session="atlas",
        role=role,
        kind="",
        incarnation=at,
        pane_pid=7,
        epoch=1,
        liveness=Liveness.UNMANAGED,
        liveness_changed_at=NOW,
        last_check_in_at=None,
        client_version="",
        created_at=NOW,
    )
    return replace(base, **more)


def _session(name: str = "atlas", **more: Any) -> Session:
    return Session(name=name, created_at=NOW, updated_at=NOW, **more)


def _store(*agents: Agent, sessions: tuple[Session, ...] = (), **more: Any) -> StoreView:
    base = StoreView(
        host="here",
        generation="gen",
        default_socket=DEFAULT,
        backups="/home/backups",
        sessions={s.name: s for s in sessions or (_session(),)},
        agents=agents,
        details={},
    )
    return replace(base, **more)


def _pane(pane: str, session: str, life: tuple[int, int] = LIFE, **more: Any) -> Pane:
    base = Pane(_at(pane, life), 7, session, 1, "dev", "")
    return replace(base, **more)


def _server(*panes: Pane, life: tuple[int, int] = LIFE, **more: Any) -> TmuxServer:
    names = list(dict.fromkeys(pane.session for pane in panes))
    found = tuple(TmuxSession(f"${n}", name, CREATED) for n, name in enumerate(names))
    base = TmuxServer(DEFAULT, Answer.ANSWERED, *life, found, panes)
    return replace(base, **more)


DOWN = TmuxServer(DEFAULT, Answer.NOT_RUNNING)
SILENT = TmuxServer(DEFAULT, Answer.UNANSWERED)


def _found(store: StoreView, *servers: TmuxServer) -> list[tuple[str, str, bool]]:
    tmux = {server.socket: server for server in servers or (_server(_pane("%9", "else")),)}
    found = sync.compare(store, tmux, NOW)
    return [(m.kind.value, m.subject, m.safe) for m in found]


DEV = _agent("dev", _at("%1"))
TESTER = _agent("tester", _at("%2"))
GONE = ("SESSION_GONE", "atlas", False)
LATER = (200, 1_800_000_000)
HERE = _server(_pane("%1", "atlas"), _pane("%2", "atlas"))
DETAIL = AgentDetail(1, 1, "dev")


@pytest.mark.parametrize(
    ("store", "servers", "expected"),
    [
        (_store(DEV, TESTER), (HERE,), []),
        (_store(DEV), (SILENT,), []),
        (_store(DEV), (DOWN,), [GONE]),
        (_store(DEV), (_server(),), [GONE]),
        (_store(DEV), (_server(_pane("%1", "new", LATER), life=LATER),), [GONE]),
        (_store(DEV, living=frozenset({100})), (DOWN,), []),
        (_store(DEV, living=frozenset({100})), (_server(_pane("%1", "a", LATER), life=LATER),), []),
        (_store(DEV, sessions=(_session(completion=Completion.COMPLETED),)), (DOWN,), []),
        (_store(DEV, sessions=(_session(name_missing=True),)), (SILENT,), []),
        (_store(replace(DEV, incarnation=_at("%1", host="far"))), (DOWN,), []),
        (_store(DEV, _agent("far", _at("%1", host="far"))), (_server(),), [
            ("PANE_GONE", "atlas:dev", True)]),
        (_store(_agent("ci", None, epoch=0)), (DOWN,), []),
        (_store(_agent("ci", None)), (DOWN,), []),
        (_store(_agent("old", None, epoch=0), details={"id-old": DETAIL}), (DOWN,), [GONE]),
        (_store(_agent("old", None, epoch=0), details={"id-old": DETAIL}), (SILENT,), []),
        # nobody said where it was: it may be in the one that is silent
        (_store(_agent("old", None, epoch=0), details={"id-old": DETAIL}),
            (DOWN, replace(SILENT, socket=OTHER)), []),
        (_store(_agent("ci", None), known={(*GONE[:2], DEFAULT): NOW}), (DOWN,), [GONE]),
        (_store(_agent("ci", None), known={(*GONE[:2], OTHER): NOW}), (DOWN,), []),
        (_store(DEV, TESTER), (_server(_pane("%1", "atlas")),), [
            ("PANE_GONE", "atlas:tester", True)]),
        (_store(DEV), (_server(_pane("%1", "atlas", LATER), life=LATER),), [
            ("PANE_GONE", "atlas:dev", True)]),
        (_store(DEV), (_server(_pane("%1", "zeus"),),), [("SESSION_RENAMED", "atlas", False)]),
        (_store(DEV, TESTER), (_server(_pane("%1", "zeus"), _pane("%2", "hera")),), []),
        (_store(DEV), (_server(_pane("%1", "zeus"), _pane("%9", "atlas")),), []),
        (_store(DEV, details={DEV.id: DETAIL}), (HERE,), []),
        (_store(DEV, details={DEV.id: replace(DETAIL, window_index=2)}), (HERE,), [
            ("WINDOW_CHANGED", "atlas:dev", True)]),
        (_store(DEV, details={DEV.id: DETAIL}),
         (_server(_pane("%1", "grouped", window_index=4), _pane("%1", "atlas")),), []),
        (_store(DEV), (_server(_pane("%1", "atlas", role_option="Dev")),), []),
        (_store(DEV), (_server(_pane("%1", "atlas", role_option="boss")),), [
            ("ROLE_CHANGED", "atlas:dev", False)]),
        (_store(_agent("pane1", _at("%1"))),
         (_server(_pane("%1", "atlas", role_option="boss")),), []),
        (_store(DEV, details={DEV.id: AgentDetail(worktree_path="/w")},
                lost_paths=frozenset({"/w"})), (SILENT,), [
            ("WORKTREE_MISSING", "atlas:dev", False)]),
        (_store(DEV, details={DEV.id: AgentDetail(worktree_path="/w")},
                lost_paths=frozenset({"/w"}), worktrees={7: "/new"}), (HERE,), [
            ("WORKTREE_MISSING", "atlas:dev", True)]),
    ],
)  # fmt: skip
def test_each_kind_is_told_when_it_is_certain_and_only_then(
    store: StoreView, servers: tuple[TmuxServer, ...], expected: list[tuple[str, str, bool]]
) -> None:
    assert _found(store, *servers) == expected


@pytest.mark.parametrize("liveness", list(Liveness))
def test_a_pane_is_taken_only_from_an_agent_without_a_client(liveness: Liveness) -> None:
    store = _store(DEV, replace(TESTER, liveness=liveness))
    (found,) = _found(store, _server(_pane("%1", "atlas")))
    assert found == ("PANE_GONE", "atlas:tester", liveness not in HELD)


@pytest.mark.parametrize(
    ("names", "label", "repaired"),
    [
        (["my-shop-impl-0123abcd"], "My Shop", "my-shop-impl-0123abcd"),
        (["my-shop-impl-0123abcd", "my-shop-impl-1"], "My Shop", None),
        (["your-shop-impl"], "My Shop", None),
        ([], "My Shop", None),
    ],
)
def test_a_missing_name_is_repaired_when_exactly_one_fits(
    names: list[str], label: str, repaired: str | None
) -> None:
    store = _store(sessions=(_session("label", project_name=label, name_missing=True),))
    tmux = {DEFAULT: _server(*(_pane("%9", name) for name in names))}
    name, fitting = sync_names.missing_names(store, tmux)["label"]
    assert name == repaired
    assert _found(store, tmux[DEFAULT]) == [("NAME_MISSING", "label", repaired is not None)]
    told = sync_names.why_unnamed(store.sessions["label"], store, fitting)
    assert told.endswith(f"several fit: {', '.join(names)}" if fitting else "nothing known fits")


def test_a_name_that_two_sessions_could_have_is_nobodys_and_one_in_the_store_is_taken() -> None:
    one = _session("one", project_name="shop", name_missing=True)
    tmux = {DEFAULT: _server(_pane("%9", "shop-impl-1"))}
    twins = _store(sessions=(one, replace(one, name="two")))
    assert [name for name, _ in sync_names.missing_names(twins, tmux).values()] == [None, None]
    taken = _store(sessions=(one, _session("shop-impl-1")))
    assert sync_names.missing_names(taken, tmux)["one"] == (None, [])
    why = sync_names.why_unnamed(one, taken, [])
    assert why.endswith("what fits is a session of its own here: shop-impl-1")
    heard = _store(sessions=(one,), names=("shop-impl-2",))
    assert sync_names.missing_names(heard, {})["one"][0] == "shop-impl-2"


def _orphan(mark: str = "gen:lost", since: timedelta | None = None, **more: Any) -> list[Any]:
    made = TmuxSession("$3", "odd; name", CREATED, mark)
    key = (MismatchKind.ORPHAN, "odd; name", DEFAULT)
    known = {} if since is None else {key: NOW - since}
    store = _store(**{"known": known, **more})
    server = TmuxServer(DEFAULT, Answer.ANSWERED, *LIFE, (made,), (_pane("%1", "odd; name"),))
    return sync.compare(store, {DEFAULT: server}, NOW)


@pytest.mark.parametrize(("since", "told"), [(None, False), (GRACE / 2, False), (GRACE, True)])
def test_an_orphan_is_told_when_its_grace_is_over(since: timedelta | None, told: bool) -> None:
    (found,) = _orphan(since=since)
    assert (found.kind, found.in_grace) == (MismatchKind.ORPHAN, not told)
    assert found.since == NOW - (since or timedelta())


def test_the_grace_of_a_later_session_of_the_same_name_is_its_own() -> None:
    (found,) = _orphan(since=timedelta(hours=3))  # its tmux session is two hours old
    assert (found.since, found.in_grace) == (NOW, True)


@pytest.mark.parametrize(
    ("mark", "more"),
    [
        ("", {}),
        ("lost", {}),
        ("elsewhere:lost", {}),
        ("gen:", {}),
        ("gen:atlas", {}),
        ("gen:lost", {"agents": (replace(DEV, liveness=Liveness.ALIVE),)}),
    ],
)
def test_what_is_not_ours_or_is_accounted_for_is_no_orphan(mark: str, more: Any) -> None:
    found = _orphan(mark, since=GRACE, **more)
    assert MismatchKind.ORPHAN not in {m.kind for m in found}


@pytest.mark.parametrize(
    ("name", "imported", "completion", "told"),
    [
        ("atlas-impl-1a2b3c4d", NOW, Completion.FAILED, True),
        ("atlas-impl-1a2b3c4d", NOW, Completion.PENDING, False),
        ("atlas-impl-1a2b3c4d", NOW - timedelta(hours=3), Completion.FAILED, False),  # made since
        ("my own", NOW, Completion.FAILED, False),
    ],
)
def test_what_the_old_system_made_before_its_import_is_ours(
    name: str, imported: datetime, completion: Completion, told: bool
) -> None:
    known = {(MismatchKind.ORPHAN, name, DEFAULT): NOW - GRACE}
    over = _session(name, completion=completion)
    store = _store(sessions=(over,), imported={name: imported}, known=known)
    found = sync.compare(store, {DEFAULT: _server(_pane("%9", name))}, NOW)
    assert (MismatchKind.ORPHAN in {m.kind for m in found}) == told


def test_the_session_of_one_that_is_over_is_an_orphan() -> None:
    ended = (_session("lost", completion=Completion.FAILED),)
    (found,) = _orphan(since=GRACE, sessions=ended)
    assert (found.session, found.in_grace) == ("lost", False)


@pytest.mark.parametrize(
    ("path", "learned", "lost", "found"),
    [
        ("", False, False, "/new"),
        ("/w", False, False, ""),
        ("/w", False, True, "/new"),
        ("/w", True, False, "/new"),
        ("/new", True, False, ""),
    ],
)
def test_the_panes_worktree_is_taken_unless_somebody_said_another_that_is_there(
    path: str, learned: bool, lost: bool, found: str
) -> None:
    known = AgentDetail(worktree_path=path, worktree_learned=learned)
    store = _store(
        DEV,
        details={DEV.id: known},
        worktrees={7: "/new"},
        lost_paths=frozenset({path} if lost else ()),
    )
    assert sync.new_worktree(DEV, store, {DEFAULT: HERE}) == found


def test_a_difference_has_the_time_at_which_it_was_first_seen() -> None:
    known = {(MismatchKind.SESSION_GONE, "atlas", DEFAULT): NOW - GRACE}
    (found,) = sync.compare(_store(DEV, known=known), {DEFAULT: DOWN}, NOW)
    assert found.since == NOW - GRACE
    assert sync.compare(_store(DEV), {DEFAULT: DOWN}, NOW)[0].since == NOW


def test_a_name_is_compared_as_tmux_spells_it() -> None:
    store = _store(replace(DEV, session="my.shop"), sessions=(_session("my.shop"),))
    assert _found(store, _server(_pane("%1", "my_shop"))) == []
    assert _found(store, DOWN) == [("SESSION_GONE", "my.shop", False)]
    (gone,) = sync.compare(store, {DEFAULT: DOWN}, NOW)
    assert " new-session -d -s my_shop " in gone.advice
    assert gone.advice.endswith(" -- my.shop")
    (renamed,) = sync.compare(store, {DEFAULT: _server(_pane("%1", "zeus"))}, NOW)
    assert renamed.kind is MismatchKind.SESSION_RENAMED
    assert renamed.advice.endswith(" -- my_shop")


def test_a_missing_name_is_found_as_tmux_spells_it_unless_it_is_taken() -> None:
    one = _session("label", project_name="my.shop", name_missing=True)
    tmux = {DEFAULT: _server(_pane("%9", "my_shop-impl"))}
    assert sync_names.missing_names(_store(sessions=(one,)), tmux)["label"][0] == "my_shop-impl"
    taken = _store(sessions=(one, _session("my.shop-impl")))
    assert sync_names.missing_names(taken, tmux)["label"] == (None, [])
    own = replace(one, name="my.shop-impl")  # a label takes no name
    assert sync_names.missing_names(_store(sessions=(own,)), tmux)[own.name][0] == "my_shop-impl"
    heard = _store(sessions=(one,), names=("my.shop-impl",))
    assert sync_names.missing_names(heard, tmux)["label"][0] == "my_shop-impl"


def test_the_old_systems_session_is_known_as_tmux_spells_it() -> None:
    over = _session("my.shop-impl", completion=Completion.FAILED)
    known = {(MismatchKind.ORPHAN, "my_shop-impl", DEFAULT): NOW - GRACE}
    store = _store(sessions=(over,), imported={over.name: NOW}, known=known)
    (found,) = sync.compare(store, {DEFAULT: _server(_pane("%9", "my_shop-impl"))}, NOW)
    assert (found.kind, found.session) == (MismatchKind.ORPHAN, "my.shop-impl")


@example(name="end;")
@given(name=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40))
def test_a_name_is_one_word_of_the_command_whatever_it_is(name: str) -> None:
    words = shlex.split(sync_advice.rename_back("/tmp/a b", "$3", name))
    assert words[:6] == ["tmux", "-u", "-S", "/tmp/a b", "rename-session", "-t"]
    assert words[6:8] == ["$3", "--"]
    spelled = tmux_spelling(name)
    assert words[8] == (f"{spelled[:-1]}\\;" if name.endswith(";") else spelled)
    assert len(words) == 9
