"""The kinds of cases at the gate: those without a fault, what is decided, what stands on input.

gate_deaths.py and gate_broken.py enter the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.gate_fakes import Relay
from tests.faults.gate_host import Outcome
from tests.faults.gate_stand import AT_ONCE, PATIENT, SHORT, Case, Pane, Times
from tests.support import until

Act = Callable[[Case], Outcome]
#: What must come of a case: the tool does not run; runs; runs if an approval of it was used.
BLOCKED, RUNS, EITHER = "blocked", "runs", "either"


@dataclass(frozen=True)
class Kind:
    """A kind of case; it is drawn `weight` times as often as one of weight 1."""

    name: str
    expects: str
    act: Act
    weight: int = 1


KINDS: list[Kind] = []


def kind(name: str, expects: str = BLOCKED, weight: int = 2) -> Callable[[Act], Act]:
    """Enters a kind."""

    def enter(act: Act) -> Act:
        KINDS.append(Kind(name, expects, act, weight))
        return act

    return enter


def word(case: Case) -> str:
    """The beginning of a command that the policy allows, or that it has somebody asked for."""
    return case.dice.choice(("free", "ask"))


# ---- no fault ----


@kind("control: allowed by the policy", RUNS, weight=3)
def allowed(case: Case) -> Outcome:
    return case.use(case.call("free"), PATIENT)


@kind("control: approved while it waits", RUNS, weight=3)
def approved(case: Case) -> Outcome:
    use = case.start(case.call(), PATIENT)
    case.approve(case.pending(use))
    return use.finish()


@kind("control: approved after a block, tried again", RUNS)
def again(case: Case) -> Outcome:
    first = case.use(case.call(), SHORT)
    assert not first.ran, first
    case.approve(next(iter(case.asked("PENDING")), "") or case.ask(case.call()))
    return case.use(case.call(), PATIENT)


@kind("control: approved, keys in another order", RUNS, weight=1)
def reordered(case: Case) -> Outcome:
    call = json.loads(case.call())
    case.approve(case.ask(case.call()))
    turned = dict(reversed(call["tool_input"].items()))
    return case.use(case.call(tool_input=turned), PATIENT)


@kind("control: approved after the server's restart", RUNS)
def over_a_restart(case: Case) -> Outcome:
    with Relay(case.stand.address) as relay:
        use = case.start(case.call(), PATIENT, env={"ORCH_ADDRESS": relay.address})
        asked = case.pending(use)
        # A gate that has not heard "pending" yet gives up sooner than a server starts.
        until(lambda: b"/WaitAuthorization" in relay.said, "the gate's wait")
        case.stand.server.kill()
        case.stand.heal()
        case.approve(asked)
        return use.finish()


@kind("control: allowed in a pane", RUNS, weight=1)
def allowed_in_a_pane(case: Case) -> Outcome:
    return case.pane((case.call("free"), PATIENT)).use()


@kind("control: approved in a pane", RUNS, weight=1)
def approved_in_a_pane(case: Case) -> Outcome:
    wait = case.pane((case.call(), PATIENT)).start()
    case.approve(case.pending())
    return wait()


# ---- decisions ----


@kind("denied while it waits")
def denied(case: Case) -> Outcome:
    use = case.start(case.call(), PATIENT)
    case.deny(case.pending(use))
    return use.finish()


@kind("denied before")
def denied_before(case: Case) -> Outcome:
    case.deny(case.ask(case.call()))
    return case.use(case.call(), SHORT)


@kind("denied by the policy")
def never(case: Case) -> Outcome:
    return case.use(case.call("never"))


@kind("expired while it waits")
def expired(case: Case) -> Outcome:
    return case.use(case.call("quick"), PATIENT)


@kind("cancelled while it waits")
def cancelled(case: Case) -> Outcome:
    use = case.start(case.call(), PATIENT)
    case.cancel(case.pending(use))
    return use.finish()


@kind("nobody decides", weight=3)
def nobody(case: Case) -> Outcome:
    return case.use(case.call(), AT_ONCE)


@kind("approved too late")
def late(case: Case) -> Outcome:
    outcome = case.use(case.call(), AT_ONCE)
    if case.asked("PENDING"):
        case.approve(case.pending())
    return outcome


@kind("approved for one other byte")
def other_byte(case: Case) -> Outcome:
    case.approve(case.ask(case.call()))
    told = json.loads(case.call())["tool_input"]
    at = case.dice.randrange(len(told["description"]))
    said = told["description"]
    turned = said[:at] + chr(ord(said[at]) ^ 1) + said[at + 1 :]
    return case.use(case.call(tool_input={**told, "description": turned}), AT_ONCE)


@kind("approved for another tool", weight=1)
def other_tool(case: Case) -> Outcome:
    case.approve(case.ask(case.call()))
    return case.use(case.call(tool_name="Bash2"), AT_ONCE)


@kind("approved for another folder")
def other_folder(case: Case) -> Outcome:
    case.approve(case.ask(case.call()))
    return case.use(case.call(cwd=case.dice.choice(["/srv/atlas/", "/srv", ""])), AT_ONCE)


@kind("approved for another agent")
def other_agent(case: Case) -> Outcome:
    case.approve(case.ask(case.call()))
    other = case.stand.case()
    return case.use(case.call(), AT_ONCE, env={"ORCH_TOKEN": other.token})


def _tries(case: Case) -> list[tuple[bytes, Times]]:
    """More uses than it takes on a busy machine until one of them gets as far as to ask."""
    return [(case.call(), AT_ONCE)] * 12


def _asked_in(case: Case, pane: Pane) -> str:
    """Uses the tool in the pane until it was asked for; returns the request's id."""
    while not (asked := case.asked("PENDING")):
        pane.use()
    return asked[0]


@kind("approved for another pane", weight=1)
def other_pane(case: Case) -> Outcome:
    pane, other = (case.pane(*_tries(case)), case.pane((case.call(), AT_ONCE)))
    case.approve(_asked_in(case, pane))
    return other.use()


@kind("approved for the process that was in the pane before", weight=1)
def other_process(case: Case) -> Outcome:
    pane = case.pane(*_tries(case))
    case.approve(_asked_in(case, pane))
    pane.respawn()
    return pane.use()


@kind("approved, and used already")
def used_already(case: Case) -> Outcome:
    case.approve(case.ask(case.call()))
    case.ask(case.call())  # uses it
    assert case.count_consumed() == 1
    return case.use(case.call(), AT_ONCE)


@kind("approved, and lapsed", weight=1)
def lapsed(case: Case) -> Outcome:
    case.approve(case.ask(case.call("brief")))
    until(lambda: case.asked("LAPSED"), "the lapse")
    return case.use(case.call("brief"), AT_ONCE)


@kind("two at once, one approved", EITHER)
def twins(case: Case) -> Outcome:
    uses = [case.start(case.call(), SHORT) for _ in range(2)]
    case.approve(case.pending(uses[0]) or case.ask(case.call()))
    outcomes = [use.finish() for use in uses]
    return max(outcomes, key=lambda one: one.ran)


# ---- what comes on standard input ----

_ODD = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"\xff\xfe",
    b"not json",
    b"[" * 100_000,
    b'{"tool_name": "Bash"}',
    b'{"tool_name": "", "tool_input": {}}',
    b'{"tool_name": 7, "tool_input": {}}',
    b'{"tool_name": "Bash", "tool_input": []}',
    b'{"tool_name": "Bash", "tool_input": "free"}',
    b'{"tool_name": "Bash", "tool_input": {"command": "free"}, "cwd": 7}',
    b'{"tool_name": "Bash", "tool_input": {"command": "free", "n": NaN}}',
    b'{"tool_name": "Bash", "tool_input": {"command": "free", "n": 1e999}}',
    b'{"tool_name": "Bash", "tool_input": {"command": "free \\ud800"}}',
    b'{"tool_name": "Bash", "tool_input": {"command": "ask", "command": "free"}}',
    b'{"tool_name": "Bash", "tool_input": {"command": "free"}, "cwd": "\\udfff"}',
    b'{"tool_name": "' + b"x" * 300 + b'", "tool_input": {"command": "free"}}',
]


@kind("standard input is no call", weight=8)
def odd_input(case: Case) -> Outcome:
    return case.use(case.dice.choice(_ODD))


@kind("standard input is cut off", weight=3)
def truncated(case: Case) -> Outcome:
    call = case.call("free")
    return case.use(call[: case.dice.randrange(len(call) - 1)])


@kind("standard input is huge", weight=1)
def huge(case: Case) -> Outcome:
    sizes = [("ask ", 263_000), ("free ", 5_000_000), ("free ", 34_000_000)]
    word, size = case.dice.choice(sizes)  # what is allowed may be longer than what is asked for
    return case.use(case.call(word + "x" * size), PATIENT)


@kind("standard input never ends")
def endless(case: Case) -> Outcome:
    call = case.dice.choice([b"", case.call("free"), case.call("free")[:40]])
    return case.use(call, AT_ONCE, keeps_open=True)
