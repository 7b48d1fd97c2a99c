"""docs/reference/events.md lists every kind of event that the server emits, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from orch_server.core.agent import Liveness
from orch_server.core.authorization import AuthorizationState
from orch_server.core.delivery import DeliveryState
from orch_server.core.task import Outcome
from orch_server.services.events import _DEPTH
from orch_server.storage import waits
from orch_server.storage.events import SPAN
from tests.docs.markdown import DOCS, ROOT

PAGE = (DOCS / "reference" / "events.md").read_text()
_FLOORS = ("storage", "services")
#: The words of the kinds that are put together, by their beginnings.
_MADE: dict[str, tuple[str, ...]] = {
    "agent.": tuple(Liveness),
    "authorization.": tuple(set(AuthorizationState) - {AuthorizationState.PENDING}),
    "delivery.": tuple(set(DeliveryState) - {DeliveryState.PENDING}),
    "dependency.": (waits.REMOVED, waits.EXPIRED),
    "escalation.": ("raised", "ended"),
    "task.": tuple(Outcome),
}


def _tellers() -> Iterator[ast.AST]:
    """The functions that emit events, and the constants of the modules."""
    for floor in _FLOORS:
        for source in (ROOT / "server" / "orch_server" / floor).rglob("*.py"):
            tree = ast.parse(source.read_text())
            yield from (node for node in tree.body if isinstance(node, ast.Assign))
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _emits(node):
                    yield node


def _emits(function: ast.AST) -> bool:
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    names = {getattr(call, "attr", getattr(call, "id", "")) for call in calls}
    return not names.isdisjoint({"emit", "audit", "tell", "_tell"})


def _words() -> Iterator[str]:
    """What may be a kind there; of those that are put together the beginning, up to the dot."""
    for teller in _tellers():
        for node in ast.walk(teller):
            begins = isinstance(node, ast.JoinedStr)
            first = node.values[0] if isinstance(node, ast.JoinedStr) else node
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                pattern = r"[a-z]+\." if begins else r"[a-z]+\.[a-z_]+"
                if re.fullmatch(pattern, first.value):
                    yield first.value


def test_the_page_lists_every_kind_of_event_and_no_other() -> None:
    found = set(_words())
    assert {word for word in found if word.endswith(".")} == set(_MADE)
    whole = {word for word in found if not word.endswith(".")}
    made = {start + word.lower() for start, words in _MADE.items() for word in words}
    listed = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", PAGE, re.M)
    assert len(listed) == len(set(listed))
    assert set(listed) == whole | made


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"looks at {SPAN:,} numbers" in PAGE
    assert f"when {_DEPTH:,} new events wait" in PAGE
