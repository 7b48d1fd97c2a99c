"""The audit's chain: each part of a link counts, and what does not fit is found."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from orch_server.core.audit import (
    Link,
    Place,
    Seal,
    Told,
    ToldLevel,
    Walk,
    facts_text,
    levels_fact,
)

SEAL = Seal(b"k" * 32, "store")
LINK = Link(7, 1000, "noun.past", "s", "atlas", "dev", "operator", "why", '{"x":1}')


def _chain(count: int, seal: Seal = SEAL) -> list[Link]:
    links: list[Link] = []
    for number in range(count):
        after = Place(links[-1].number, links[-1].hash) if links else seal.beginning
        links.append(seal.link(replace(LINK, event=number), after))
    return links


def _walked(links: list[Link], start: Place = SEAL.beginning, *wanted: int) -> tuple[Walk, str]:
    walk = Walk(SEAL, start, wanted)
    return walk, "; ".join(filter(None, map(walk.take, links)))


def _place(link: Link) -> Place:
    return Place(link.number, link.hash)


@pytest.mark.parametrize("name", [field.name for field in fields(Link) if field.name != "hash"])
def test_the_hash_covers_each_part_of_a_link(name: str) -> None:
    was = getattr(LINK, name)
    other = replace(LINK, **{name: was + 1 if isinstance(was, int) else f"{was} "})
    assert SEAL.hash(other, "") != SEAL.hash(LINK, "")


def test_the_hash_covers_the_link_before_the_key_and_the_store() -> None:
    made = {
        SEAL.hash(LINK, "a"),
        SEAL.hash(LINK, "b"),
        Seal(b"j" * 32, "store").hash(LINK, "a"),
        Seal(b"k" * 32, "other").link(LINK, Seal(b"k" * 32, "other").beginning).hash,
        SEAL.link(LINK, SEAL.beginning).hash,
    }
    assert len(made) == 5


def test_what_moves_from_one_part_to_the_next_is_another_link() -> None:
    moved = replace(LINK, subject="", session="satlas")
    assert SEAL.hash(moved, "") != SEAL.hash(LINK, "")


def test_facts_have_one_text() -> None:
    assert facts_text({"b": 1, "a": "ä"}) == facts_text({"a": "ä", "b": 1}) == '{"a":"ä","b":1}'


def test_a_log_as_it_was_written_has_no_fault() -> None:
    links = _chain(5)
    walk, found = _walked(links, SEAL.beginning, 5)
    assert (found, walk.links, walk.end) == ("", 5, _place(links[-1]))
    assert walk.fault(SEAL.head(walk.end)) == ""


@pytest.mark.parametrize(
    ("links", "found"),
    [
        ([], ""),
        ([0, 2, 3], "link 2 is missing before link 3"),
        ([0, 3], "links 2 to 3 are missing before link 4"),
        ([1, 2], "link 1 is missing before link 2"),
        ([0, 0, 1], "link 1 lies before the log's beginning: it was put in"),
    ],
)
def test_missing_and_put_in_links_are_named(links: list[int], found: str) -> None:
    chain = _chain(4)
    assert _walked([chain[index] for index in links])[1] == found


def test_a_link_that_was_changed_put_in_or_moved_is_named() -> None:
    chain = _chain(4)
    changed = [*chain[:2], replace(chain[2], detail="other"), chain[3]]
    said = "link 3 is not as the server wrote it: changed, put in or moved"
    assert _walked(changed)[1] == said
    swapped = [chain[0], replace(chain[2], number=2), replace(chain[1], number=3), chain[3]]
    assert "link 2 is not" in _walked(swapped)[1]
    forged = [*chain, Seal(b"?" * 32, "store").link(LINK, _place(chain[3]))]
    assert "link 5 is not" in _walked(forged)[1]


def test_a_walk_can_begin_at_a_checkpoint() -> None:
    chain = _chain(6)
    walk, found = _walked(chain[3:], _place(chain[2]), 3)
    assert found == ""
    assert walk.fault(SEAL.head(_place(chain[2]))) == ""
    assert "put in" in _walked(chain[2:], _place(chain[2]))[1]


def test_a_head_that_does_not_fit_says_why() -> None:
    chain = _chain(4)
    told = {
        "": SEAL.head(_place(chain[2])),
        "another database": Seal(SEAL.key, "other").head(_place(chain[3])),
        "was changed": replace(SEAL.head(_place(chain[3])), at=_place(chain[2])),
        "not written by this server": Seal(b"?" * 32, "store").head(_place(chain[3])),
        "cut off": SEAL.head(Place(5, "?")),
        "written anew": SEAL.head(Place(4, "?")),
    }
    for said, head in told.items():
        walk, _ = _walked(chain, SEAL.beginning, head.at.number)
        fault = walk.fault(head)
        assert said in fault
        assert bool(said) == bool(fault)


def test_a_checkpoint_is_the_servers_own() -> None:
    made = SEAL.checkpoint(Place(3, "h"), 1000)
    assert SEAL.made(made)
    for other in (
        replace(made, at=Place(4, "h")),
        replace(made, at=Place(3, "i")),
        replace(made, before=1001),
        Seal(SEAL.key, "other").checkpoint(made.at, 1000),
        replace(made, mac=SEAL.head(made.at).mac),
        replace(made, mac="ä"),
    ):
        assert not SEAL.made(other)


# ---- what the links of an authorization tell ----

LEVELS = [ToldLevel("orchestrator", 10), ToldLevel("human", 20)]


def _step(what: str, at: int = 1, agent: str = "dev", **facts: str | int) -> Link:
    kind, text = f"authorization.{what}", facts_text(facts)
    return Link(7, at, kind, "z", "atlas", agent, "operator", "why", text)


def _requested(state: str = "PENDING") -> Link:
    return _step("requested", state=state, digest="d", human=0, levels=levels_fact(LEVELS))


def _told(*links: Link) -> Told:
    told = Told()
    assert "".join(map(told.take, links)) == ""
    return told


def test_the_links_tell_each_column_as_it_was_left() -> None:
    told = _told(_requested())
    assert (told.facts["resolved_at"], told.facts["reason"], told.facts["human"]) == (None, "", 0)
    decided = _step("approved", 5, state="APPROVED", digest="d", lapses_at=9)
    told = _told(_requested(), decided)
    assert [told.facts[name] for name in ("resolved_at", "reason", "lapses_at")] == [5, "why", 9]
    used = _step("consumed", 7, state="CONSUMED", consume_request="once")
    told = _told(_requested(), decided, used)
    assert [told.facts[name] for name in ("closed_at", "consume_request")] == [7, "once"]
    told = _told(_requested(), decided, _step("lapsed", 9, state="LAPSED", consume_request=""))
    assert told.facts["consume_request"] is None
    assert _told(_step("denied", 5)).facts["lapses_at"] is None


def test_a_level_is_open_until_it_was_told_or_the_request_decided() -> None:
    passed = _step("escalated", 12, level=1, passed_over=1)
    assert _told(_requested(), passed).rows() == [
        (1, "orchestrator", 10, 12, 0, 1),
        (2, "human", 20, None, 1, 0),
    ]
    rows = _told(_requested(), passed, _step("expired", 30, state="EXPIRED")).rows()
    assert rows is not None
    assert [row[4] for row in rows] == [0, 0]
    assert _told(passed).rows() is None


def test_what_no_link_may_tell_anew_is_a_contradiction() -> None:
    told = _told(_requested())
    assert told.take(_step("approved", digest="e")) == "link 0 tells another digest"
    assert told.take(_step("expired", agent="other")) == "link 0 tells another agent_id"
    assert told.take(_step("moved", agent="other")) == ""
    assert told.facts["agent_id"] == "other"


@pytest.mark.parametrize(
    "facts", ["", "[]", "[" * 9999, '{"a":[]}', '{"a":1.5}', '{"a":true}', '{"a":null}', "{"]
)
def test_facts_that_no_server_wrote_tell_nothing(facts: str) -> None:
    told = Told()
    assert told.take(replace(_requested(), facts=facts)) == ""
    assert told.facts == {}
