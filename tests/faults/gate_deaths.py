"""More kinds of faults around the gate: the server dies or hangs, its disk is full, the client is
killed or stopped, at any moment."""

from __future__ import annotations

import signal
import threading

import grpc

from tests.faults.gate_host import Outcome, Use
from tests.faults.gate_kinds import EITHER, kind, word
from tests.faults.gate_stand import AT_ONCE, SHORT, STUCK, Case
from tests.support import hold

# ---- the server dies or hangs ----


@kind("the server is dead", weight=3)
def dead(case: Case) -> Outcome:
    case.stand.server.kill()
    return case.use(case.call(word(case)), SHORT)


@kind("the server is dead, in a pane", weight=1)
def dead_in_a_pane(case: Case) -> Outcome:
    pane = case.pane((case.call(word(case)), SHORT))
    case.stand.server.kill()
    return pane.use()


@kind("the server is stopped", weight=3)
def stopped(case: Case) -> Outcome:
    case.stand.signal(signal.SIGSTOP)
    return case.use(case.call(word(case)), AT_ONCE)


@kind("the server is stopped, in a pane", weight=1)
def stopped_in_a_pane(case: Case) -> Outcome:
    pane = case.pane((case.call(word(case)), AT_ONCE))
    case.stand.signal(signal.SIGSTOP)
    return pane.use()


@kind("the server is stopped during the wait", weight=3)
def stopped_during(case: Case) -> Outcome:
    use = case.start(case.call(), SHORT)
    case.pending(use)
    case.stand.signal(signal.SIGSTOP)
    return use.finish()


@kind("the server is killed during the wait", weight=3)
def killed_during(case: Case) -> Outcome:
    use = case.start(case.call(), SHORT)
    case.pending(use)
    case.stand.server.kill()
    return use.finish()


@kind("the server is killed during the wait, and back; nobody decides")
def back_again(case: Case) -> Outcome:
    use = case.start(case.call(), SHORT)
    case.pending(use)
    case.stand.server.kill()
    case.stand.heal()
    return use.finish()


@kind("the server is killed at any moment", weight=3)
def killed_at_any_moment(case: Case) -> Outcome:
    use = case.start(case.call(), SHORT)
    hold(case.dice.uniform(0.0, 0.6))
    case.stand.server.kill()
    return use.finish()


def _approve_beside(case: Case, asked: str) -> threading.Thread:
    """Approves in a thread; whether the server got to it is for the store to say."""

    def attempt() -> None:
        try:
            case.approve(asked)
        except grpc.RpcError:
            return  # it was killed first

    thread = threading.Thread(target=attempt)
    thread.start()
    return thread


@kind("the server is killed just as it is approved", EITHER, weight=4)
def killed_at_the_decision(case: Case) -> Outcome:
    use = case.start(case.call(), SHORT)
    asked = case.pending(use)
    deciding = _approve_beside(case, asked)
    hold(case.dice.uniform(0.0, 0.03))
    case.stand.server.kill()
    if case.dice.random() < 0.5:
        case.stand.heal()
    outcome = use.finish()
    case.stand.heal()
    deciding.join()
    return outcome


# ---- the disk is full ----


@kind("the disk is full")
def full(case: Case) -> Outcome:
    case.stand.fill()
    return case.use(case.call(), SHORT)


@kind("the disk is full when the approval is to be used")
def full_at_use(case: Case) -> Outcome:
    case.approve(case.ask(case.call()))
    case.stand.fill()
    return case.use(case.call(), SHORT)


@kind("the disk is full when it is to be approved")
def full_at_the_decision(case: Case) -> Outcome:
    use = case.start(case.call(), SHORT)
    asked = case.pending(use)
    case.stand.fill()
    _approve_beside(case, asked).join()
    return use.finish()


@kind("no room for what the gate says")
def nothing_said(case: Case) -> Outcome:
    call = case.dice.choice([case.call("never"), b"odd", b""])
    return case.use(call, full=case.dice.choice(["stdout stderr", "stderr"]))


@kind("no room for the yes")
def yes_unsaid(case: Case) -> Outcome:
    case.approve(case.ask(case.call()))
    return case.use(case.call(), SHORT, full="stdout")


# ---- the client ----

_DEADLY = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSEGV)
_DEADLY += (signal.SIGQUIT, signal.SIGALRM, signal.SIGUSR1)


def _struck(case: Case, use: Use, who: str = "orch-client") -> None:
    hold(case.dice.uniform(0.0, 0.6))
    use.signal(case.dice.choice(_DEADLY), who)


@kind("the client is killed", weight=8)
def client_killed(case: Case) -> Outcome:
    use = case.start(case.call(), SHORT)
    _struck(case, use)
    return use.finish()


@kind("the client is killed just as it is approved", EITHER, weight=4)
def client_killed_at_the_decision(case: Case) -> Outcome:
    use = case.start(case.call(), SHORT)
    deciding = _approve_beside(case, case.pending(use))
    hold(case.dice.uniform(0.0, 0.04))
    use.signal(case.dice.choice(_DEADLY))
    deciding.join()
    return use.finish()


@kind("the client is stopped", weight=3)
def client_stopped(case: Case) -> Outcome:
    use = case.start(case.call(), STUCK)
    hold(case.dice.uniform(0.0, 0.4))
    use.signal(signal.SIGSTOP)
    return use.finish()


@kind("`timeout` is killed", weight=2)
def limit_killed(case: Case) -> Outcome:
    use = case.start(case.call(), SHORT)
    _struck(case, use, "timeout")
    return use.finish()
