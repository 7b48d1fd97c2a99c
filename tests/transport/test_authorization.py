"""Authorizations over a real connection: asked, decided, escalated, used, checked by the gate."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from orch.v1 import authorization_pb2 as auth
from orch.v1 import delivery_pb2, messaging_pb2
from orch_server.core.identity import Incarnation, InPane
from orch_server.core.policy import GateRule, Rule, default_policy, pattern
from tests.transport.harness import PATIENCE, Serving, Stream, fails, run

Code = grpc.StatusCode
POLICY = default_policy(("orchestrator", "project_manager"))
ALL = replace(POLICY, gate=(), gate_default=Rule.ASK)
STATE = auth.AuthorizationState
LS = auth.Action(tool="Bash", arguments='{"command":"ls"}', cwd="/srv")


async def _next(watch: Any) -> Any:
    return await asyncio.wait_for(watch.read(), PATIENCE)


async def _ask(at: Serving, action: str = "Deploy", role: str = "developer", **more: Any) -> Any:
    request = auth.RequestAuthorizationRequest(action=action, **more)
    answer = await at.authorization.RequestAuthorization(
        request, metadata=at.token("atlas", role), timeout=PATIENCE
    )
    return answer.authorization


async def _team(at: Serving) -> tuple[Stream, Stream]:
    return await at.alive("developer", "%1"), await at.alive("orchestrator", "%2")


def test_a_wait_ends_after_the_decision(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at)
        assert (asked.state, asked.priority) == (
            auth.AUTHORIZATION_STATE_PENDING,
            auth.AUTHORIZATION_PRIORITY_HIGH,
        )
        wait = at.authorization.WaitAuthorization(auth.WaitAuthorizationRequest(id=asked.id[:4]))
        assert (await _next(wait)).authorization.state == auth.AUTHORIZATION_STATE_PENDING
        await at.authorization.ApproveAuthorization(
            auth.ApproveAuthorizationRequest(id=asked.id),
            metadata=at.token("atlas", "orchestrator"),
        )
        last = (await _next(wait)).authorization
        assert last.state == auth.AUTHORIZATION_STATE_APPROVED
        assert last.resolver == "atlas:orchestrator"
        assert await _next(wait) is grpc.aio.EOF
        again = at.authorization.WaitAuthorization(auth.WaitAuthorizationRequest(id=asked.id))
        assert (await _next(again)).authorization.state == auth.AUTHORIZATION_STATE_APPROVED
        assert await _next(again) is grpc.aio.EOF

    run(folder, body)


def test_a_wait_ends_when_nobody_decides_in_time(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at)
        wait = at.authorization.WaitAuthorization(auth.WaitAuthorizationRequest(id=asked.id))
        await _next(wait)
        at.clock.advance(5 * 60 - 0.001)
        await at.core.authorization.run_due()
        told = (await _next(wait)).authorization
        assert told.state == auth.AUTHORIZATION_STATE_PENDING
        assert told.levels[0].HasField("tell_time")
        at.clock.advance(0.001)
        error = await fails(
            at.authorization.ApproveAuthorization(auth.ApproveAuthorizationRequest(id=asked.id))
        )
        assert (error.code, error.metadata["state"]) == (Code.FAILED_PRECONDITION, "EXPIRED")
        await at.core.authorization.run_due()
        last = (await _next(wait)).authorization
        assert last.state == auth.AUTHORIZATION_STATE_EXPIRED
        assert await _next(wait) is grpc.aio.EOF

    run(folder, body)


def test_of_many_deciders_one_decides(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at)
        approve = auth.ApproveAuthorizationRequest(id=asked.id)
        deny = auth.DenyAuthorizationRequest(id=asked.id, reason="no")
        stub = at.authorization
        calls = [stub.ApproveAuthorization(approve) for _ in range(6)]
        calls += [stub.DenyAuthorization(deny) for _ in range(6)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(not isinstance(r, BaseException) for r in results) == 1
        codes = {r.code() for r in results if isinstance(r, grpc.aio.AioRpcError)}
        assert codes == {Code.FAILED_PRECONDITION}

    run(folder, body)


def test_the_requester_is_refused_whatever_he_says(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at, "Deploy")
        own = at.token("atlas", "developer")
        for call in (
            at.authorization.ApproveAuthorization(
                auth.ApproveAuthorizationRequest(id=asked.id), metadata=own
            ),
            at.authorization.DenyAuthorization(
                auth.DenyAuthorizationRequest(id=asked.id, reason="x"), metadata=own
            ),
            at.authorization.ApproveAuthorization(
                auth.ApproveAuthorizationRequest(id=asked.id),
                metadata=at.token("borealis", "orchestrator"),
            ),
        ):
            assert (await fails(call)).code is Code.PERMISSION_DENIED
        await at.authorization.CancelAuthorization(
            auth.CancelAuthorizationRequest(id=asked.id), metadata=own
        )

    run(folder, body)


def test_a_repeated_request_is_asked_once(folder: Path) -> None:
    async def body(at: Serving) -> None:
        _, orchestrator = await _team(at)
        asked = [await _ask(at, request_id="r1") for _ in range(3)]
        assert len({a.id for a in asked}) == 1
        offer = (await orchestrator.read()).offer
        assert asked[0].id in offer.text
        await orchestrator.report(offer, "CONFIRMED")
        assert (await orchestrator.read()).HasField("report_ack")
        await _ask(at, "Something else")
        assert "Something else" in (await orchestrator.read()).offer.text

    run(folder, body)


def test_with_a_passphrase_the_operator_must_prove_himself(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        at.core.passphrase.set("correct horse")
        asked = await _ask(at)
        request = auth.ApproveAuthorizationRequest(id=asked.id)
        error = await fails(at.authorization.ApproveAuthorization(request))
        assert (error.code, error.reason) == (Code.PERMISSION_DENIED, "PASSPHRASE_REQUIRED")
        request.passphrase = "wrong"
        error = await fails(at.authorization.ApproveAuthorization(request))
        assert (error.code, error.reason) == (Code.PERMISSION_DENIED, "NOT_ALLOWED")
        request.passphrase = "correct horse"
        done = (await at.authorization.ApproveAuthorization(request)).authorization
        assert done.resolver == "operator"

    run(folder, body)


def test_with_a_passphrase_an_approving_role_is_not_bound_without_it(folder: Path) -> None:
    async def body(at: Serving) -> None:
        at.core.passphrase.set("correct horse")
        thief = at.connect()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await thief.hello("orchestrator", "%1")
        assert caught.value.code() is Code.PERMISSION_DENIED
        await at.alive("developer", "%1")
        await at.alive("orchestrator", "%2", passphrase="correct horse")
        again = await at.alive("orchestrator", "%2")  # the pane has it already
        assert again.welcome is not None
        assert again.welcome.epoch == 2

    run(folder, body)


async def _approve(at: Serving, asked: Any, role: str = "orchestrator", **more: Any) -> Any:
    answer = await at.authorization.ApproveAuthorization(
        auth.ApproveAuthorizationRequest(id=asked.id, **more), metadata=at.token("atlas", role)
    )
    return answer.authorization


async def _deny(at: Serving, asked: Any) -> Any:
    answer = await at.authorization.DenyAuthorization(
        auth.DenyAuthorizationRequest(id=asked.id, reason="not now"),
        metadata=at.token("atlas", "orchestrator"),
    )
    return answer.authorization


async def _consume(at: Serving, asked: Any, role: str = "developer", **more: Any) -> Any:
    answer = await at.authorization.ConsumeAuthorization(
        auth.ConsumeAuthorizationRequest(id=asked.id, **more), metadata=at.token("atlas", role)
    )
    return answer.authorization


async def _check(at: Serving, action: Any = LS, role: str = "developer", request: str = "") -> Any:
    return await at.authorization.CheckAction(
        auth.CheckActionRequest(action=action, request_id=request),
        metadata=at.token("atlas", role),
    )


async def _get(at: Serving, asked: Any) -> Any:
    request = auth.GetAuthorizationRequest(id=asked.id)
    return (await at.authorization.GetAuthorization(request)).authorization


async def _texts(at: Serving, asked: Any) -> list[tuple[str, str, str]]:
    """Receiver, beginning and state of each text about the request, the oldest first."""
    answer = await at.messaging.ListDeliveries(messaging_pb2.ListDeliveriesRequest())
    found = [d for d in answer.deliveries if d.origin == f"authorization:{asked.id}"]
    name = delivery_pb2.DeliveryState.Name
    return [
        (
            f"{d.session}:{d.role}",
            d.text[len(f"Authorization {asked.id} ") - 1 :][:12],
            name(d.state)[15:],
        )
        for d in reversed(found)
    ]


def test_an_approval_is_used_once(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at, cwd="/srv")
        error = await fails(_consume(at, asked, action=auth.Action(cwd="/srv")))
        assert (error.code, error.metadata["state"]) == (Code.FAILED_PRECONDITION, "PENDING")
        approved = await _approve(at, asked)
        assert approved.lapse_time.seconds - approved.resolve_time.seconds == 15 * 60
        assert approved.proof == auth.DECISION_PROOF_OPEN_MODE
        used = await _consume(at, asked, action=auth.Action(cwd="/srv"), request_id="r")
        assert used.state == auth.AUTHORIZATION_STATE_CONSUMED
        assert used.HasField("close_time")
        # the same call again, whose answer was lost, gets the same answer; any other one is refused
        again = await _consume(at, asked, action=auth.Action(cwd="/srv"), request_id="r")
        assert again == used
        error = await fails(_consume(at, asked, action=auth.Action(cwd="/srv"), request_id="s"))
        assert (error.code, error.metadata["state"]) == (Code.FAILED_PRECONDITION, "CONSUMED")
        error = await fails(_consume(at, asked, action=auth.Action(cwd="/srv")))
        assert error.code is Code.FAILED_PRECONDITION

    run(folder, body)


@pytest.mark.parametrize(
    ("role", "action"),
    [
        ("orchestrator", auth.Action(cwd="/srv")),
        ("developer", auth.Action(cwd="/")),
        ("developer", auth.Action(arguments="Deploy!", cwd="/srv")),
        ("developer", auth.Action(tool="Bash", arguments="Deploy", cwd="/srv")),
        ("developer", auth.Action(tool="Bash", cwd="/srv")),
    ],
)
def test_an_approval_covers_nothing_else(folder: Path, role: str, action: auth.Action) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at, cwd="/srv")
        await _approve(at, asked)
        error = await fails(_consume(at, asked, role, action=action))
        assert (error.code, error.reason) == (Code.PERMISSION_DENIED, "NOT_ALLOWED")
        assert (await _get(at, asked)).state == auth.AUTHORIZATION_STATE_APPROVED

    run(folder, body)


def test_an_approval_is_of_no_use_in_another_pane(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at)
        await _approve(at, asked)
        await at.alive("developer", "%9", take_over=True)
        error = await fails(_consume(at, asked))
        assert "elsewhere" in error.message

    run(folder, body)


def test_an_approval_that_is_not_used_lapses(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at)
        await _approve(at, asked)
        at.clock.advance(15 * 60)
        error = await fails(_consume(at, asked))
        assert (error.code, error.metadata["state"]) == (Code.FAILED_PRECONDITION, "LAPSED")
        assert await at.core.authorization.run_due() is None
        assert (await _get(at, asked)).state == auth.AUTHORIZATION_STATE_LAPSED

    run(folder, body)


def test_a_deadline_may_be_given(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at, timeout=Duration(seconds=90))
        assert asked.deadline.seconds - asked.create_time.seconds == 90
        error = await fails(_ask(at, timeout=Duration(seconds=86_401)))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("timeout",))

    run(folder, body)


def test_escalation_goes_to_each_level_once(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await at.alive("orchestrator", "%2")
        await at.alive("project_manager", "%3")
        asked = await _ask(at, "tidy up", approver_role="project_manager")
        assert [level.receiver for level in asked.levels] == ["orchestrator", "human"]
        at.clock.advance(24 * 60 - 0.001)
        due = await at.core.authorization.run_due()
        assert not any(level.HasField("tell_time") for level in (await _get(at, asked)).levels)
        at.clock.advance(0.001)
        assert due == at.clock.now()
        for _ in range(3):
            await at.core.authorization.run_due()
        first, second = (await _get(at, asked)).levels
        assert (first.HasField("tell_time"), second.HasField("tell_time")) == (True, False)
        at.clock.advance(3 * 60)
        for _ in range(3):
            await at.core.authorization.run_due()
        assert [(who, what) for who, what, _ in await _texts(at, asked)] == [
            ("atlas:project_manager", ": atlas:deve"),
            ("atlas:orchestrator", " (escalated "),
        ]
        alerts = await at.core.alerts.list_page("", 0, "")
        assert [(a.kind, a.subject) for a in alerts[0]] == [("authorization", asked.id)]
        error = await fails(_escalate(at, asked))
        assert error.code is Code.FAILED_PRECONDITION
        at.clock.advance(3 * 60)
        await at.core.authorization.run_due()
        assert (await _get(at, asked)).state == auth.AUTHORIZATION_STATE_EXPIRED

    run(folder, body)


async def _escalate(at: Serving, asked: Any, role: str = "developer") -> Any:
    answer = await at.authorization.EscalateAuthorization(
        auth.EscalateAuthorizationRequest(id=asked.id), metadata=at.token("atlas", role)
    )
    return answer.authorization


def test_when_no_agent_can_answer_a_human_is_told_at_once(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        asked = await _ask(at, "tidy up", approver_role="project_manager")
        assert asked == await _get(at, asked)
        told = [(one.receiver, one.passed_over, one.HasField("tell_time")) for one in asked.levels]
        assert told == [("orchestrator", True, True), ("human", False, True)]
        assert await _texts(at, asked) == []
        alerts, _ = await at.core.alerts.list_page("", 0, "")
        assert [a.subject for a in alerts] == [asked.id]
        error = await fails(_escalate(at, asked))
        assert error.code is Code.FAILED_PRECONDITION

    run(folder, body)


def test_the_first_approver_that_is_there_is_asked(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await at.alive("project_manager", "%2")
        asked = await _ask(at, "tidy up")
        assert asked.approver_role == "project_manager"
        assert [one.receiver for one in asked.levels] == ["orchestrator", "human"]
        other = await _ask(at, "tidy more", approver_role="orchestrator")
        assert other.approver_role == "orchestrator"
        assert (await _get(at, other)).levels[0].HasField("tell_time")
        error = await fails(_ask(at, "tidy", "project_manager", approver_role="project_manager"))
        assert error.fields == ("approver_role",)

    run(folder, body)


def test_who_waits_for_a_yes_and_uses_it_is_not_told_that_it_may(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked, other = await _ask(at), await _ask(at, "Deploy more")
        for one in (asked, other):
            wait = at.authorization.WaitAuthorization(auth.WaitAuthorizationRequest(id=one.id))
            await _next(wait)
            await _approve(at, one)
            assert (await _next(wait)).authorization.state == auth.AUTHORIZATION_STATE_APPROVED
        await _consume(at, asked)
        answer = await at.messaging.ListDeliveries(messaging_pb2.ListDeliveriesRequest())
        told = {d.origin[14:]: d.text for d in answer.deliveries if d.role == "developer"}
        assert told[asked.id].endswith("It was used by the command that waited for it.")
        assert told[other.id].endswith(f"orch-client consume {other.id}.")

    run(folder, body, loops=())


def test_one_request_id_stands_for_one_action(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        await _ask(at, "tidy", request_id="r")
        error = await fails(_ask(at, "remove all", request_id="r"))
        assert (error.code, "request_id" in error.message) == (Code.FAILED_PRECONDITION, True)
        asked = (await _check(at)).authorization
        await _approve(at, asked)
        await _check(at, request="g")
        other = auth.Action(tool="Bash", arguments="{}")
        assert "request_id" in (await fails(_check(at, other, request="g"))).message
        at.clock.advance(15 * 60)
        assert (await _check(at, request="g")).verdict == auth.ACTION_VERDICT_DENIED

    run(folder, body, policy=ALL)


def test_what_the_policy_allows_may_be_long_and_what_is_asked_may_not(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        long = '{"file_path":"/tmp/x","content":"%s"}' % ("x" * 300_000)
        allowed = await _check(at, auth.Action(tool="Write", arguments=long))
        assert allowed.verdict == auth.ACTION_VERDICT_ALLOWED
        asked = auth.Action(tool="Write", arguments=long.replace("/tmp/x", "/x/.claude/y"))
        assert (await fails(_check(at, asked))).fields == ("action.arguments",)

    run(folder, body)


def test_who_is_told_may_decide_and_strangers_may_not_escalate(folder: Path) -> None:
    async def body(at: Serving) -> None:
        policy = at.core.authorization._policy
        assert policy.escalation == ("lead",)
        await _team(at)
        await at.alive("lead", "%3")
        asked = await _ask(at)
        assert (await fails(_approve(at, asked, "lead"))).code is Code.PERMISSION_DENIED
        assert (await fails(_escalate(at, asked, "tester"))).code is Code.PERMISSION_DENIED
        await _escalate(at, asked, "orchestrator")
        assert (await _approve(at, asked, "lead")).resolver == "atlas:lead"

    run(folder, body, policy=replace(POLICY, escalation=("lead",)))


def test_questions_that_wait_are_withdrawn_with_the_decision(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        asked = await _ask(at)  # the orchestrator has no pane yet
        await at.authorization.CancelAuthorization(
            auth.CancelAuthorizationRequest(id=asked.id), metadata=at.token("atlas", "developer")
        )
        orchestrator = await at.core.registry.register_without_pane("atlas", "orchestrator")
        assert orchestrator.role == "orchestrator"
        asked = await _ask(at)
        assert [s for _, _, s in await _texts(at, asked)] == ["PENDING"]
        await _deny(at, asked)
        states = {who: state for who, _, state in await _texts(at, asked)}
        assert states["atlas:orchestrator"] == "CANCELLED"

    run(folder, body, loops=())


def test_a_human_must_approve_what_is_critical(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        at.core.passphrase.set("correct horse")
        critical, routine = await _ask(at), await _ask(at, "tidy up")
        assert (critical.human_required, routine.human_required) == (True, False)
        error = await fails(_approve(at, critical))
        assert (error.code, error.reason) == (Code.PERMISSION_DENIED, "PASSPHRASE_REQUIRED")
        assert "a human must approve" in error.message
        done = await _approve(at, critical, passphrase="correct horse")
        assert (done.proof, done.resolver) == (
            auth.DECISION_PROOF_PASSPHRASE,
            "atlas:orchestrator",
        )
        assert (await _approve(at, routine)).proof == auth.DECISION_PROOF_ROLE
        assert (await _deny(at, await _ask(at))).proof == auth.DECISION_PROOF_ROLE

    run(folder, body)


def test_a_flag_does_not_make_an_action_less_critical(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at, priority=auth.AUTHORIZATION_PRIORITY_LOW)
        assert (asked.action_class, asked.human_required) == ("critical", True)
        assert asked.deadline.seconds - asked.create_time.seconds == 30 * 60

    run(folder, body)


def test_an_approval_needs_a_reason_where_the_class_says_so(folder: Path) -> None:
    strict = replace(POLICY, routine=replace(POLICY.routine, reason_required=True))

    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at, "tidy up")
        error = await fails(_approve(at, asked))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("reason",))
        assert (await _approve(at, asked, reason="seen")).reason == "seen"

    run(folder, body, policy=strict)


def test_an_agent_has_at_most_so_many_pending_requests(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        for n in range(100):
            await at.core.authorization.request(_IN_PANE, f"tidy {n}", None, "", "")
        error = await fails(_ask(at, "one more"))
        assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        error = await fails(_check(at))
        assert error.reason == "LIMIT_REACHED"

    run(folder, body, loops=(), policy=ALL)


_IN_PANE = InPane(Incarnation("elsewhere", "/tmp/tmux.sock", 1, 1_700_000_000, "%1"))


def test_the_gate_asks_and_uses_the_approval_once(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        first = await _check(at)
        assert first.verdict == auth.ACTION_VERDICT_PENDING
        asked = first.authorization
        assert (asked.action, asked.bound_action) == ("Bash: ls (in /srv)", LS)
        again = await _check(at)
        assert (again.verdict, again.authorization.id) == (auth.ACTION_VERDICT_PENDING, asked.id)
        await _approve(at, asked)
        for changed in (
            auth.Action(tool="Bash", arguments='{"command":"ls "}', cwd="/srv"),
            auth.Action(tool="Bash", arguments='{"command":"ls"}', cwd="/"),
            auth.Action(tool="bash", arguments='{"command":"ls"}', cwd="/srv"),
        ):
            other = await _check(at, changed)
            assert other.verdict == auth.ACTION_VERDICT_PENDING
            assert other.authorization.id != asked.id
        stranger = await _check(at, role="orchestrator")
        assert stranger.authorization.id != asked.id
        allowed = await _check(at, request="r")
        assert allowed.verdict == auth.ACTION_VERDICT_ALLOWED
        assert allowed.authorization.id == asked.id
        repeated = await _check(at, request="r")  # its answer was lost
        assert repeated == allowed
        anew = await _check(at, request="s")
        assert anew.verdict == auth.ACTION_VERDICT_PENDING
        assert anew.authorization.id != asked.id

    run(folder, body, policy=ALL)


def test_of_twin_calls_one_goes_through(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = (await _check(at)).authorization
        await _approve(at, asked)
        answers = await asyncio.gather(*(_check(at, request=f"r{n}") for n in range(8)))
        verdicts = [one.verdict for one in answers]
        assert verdicts.count(auth.ACTION_VERDICT_ALLOWED) == 1
        assert verdicts.count(auth.ACTION_VERDICT_PENDING) == 7
        assert len({one.authorization.id for one in answers}) == 2

    run(folder, body, policy=ALL)


def test_a_denial_holds_for_a_while(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = (await _check(at)).authorization
        await _deny(at, asked)
        at.clock.advance(15 * 60 - 0.001)
        no = await _check(at)
        assert (no.verdict, no.authorization.id) == (auth.ACTION_VERDICT_DENIED, asked.id)
        assert "not now" in no.reason
        at.clock.advance(0.001)
        assert (await _check(at)).verdict == auth.ACTION_VERDICT_PENDING

    run(folder, body, policy=ALL)


def test_an_approval_that_lapsed_opens_no_gate(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = (await _check(at)).authorization
        await _approve(at, asked)
        at.clock.advance(15 * 60)
        anew = await _check(at)
        assert anew.verdict == auth.ACTION_VERDICT_PENDING
        assert anew.authorization.id != asked.id

    run(folder, body, policy=ALL)


def test_the_decision_is_not_typed_to_one_who_has_it_from_the_gate(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = (await _check(at)).authorization
        await _approve(at, asked)
        await _check(at)
        states = {who: state for who, _, state in await _texts(at, asked)}
        assert states["atlas:developer"] == "CANCELLED"

    run(folder, body, loops=(), policy=ALL)


def test_the_rules_of_the_policy_decide_alone(folder: Path) -> None:
    gate = (
        GateRule(Rule.DENY, input=pattern("rm")),
        GateRule(Rule.ALLOW, tool=pattern("Read")),
    )

    async def body(at: Serving) -> None:
        await _team(at)
        deny = await _check(at, auth.Action(tool="Bash", arguments='{"command":"rm x"}'))
        assert deny.verdict == auth.ACTION_VERDICT_DENIED
        assert not deny.HasField("authorization")
        allow = await _check(at, auth.Action(tool="Read", arguments='{"file_path":"x"}'))
        assert allow.verdict == auth.ACTION_VERDICT_ALLOWED
        listed = await at.authorization.ListAuthorizations(auth.ListAuthorizationsRequest())
        assert not listed.authorizations

    run(folder, body, policy=replace(ALL, gate=gate))


@pytest.mark.parametrize(
    ("action", "field"),
    [
        (auth.Action(arguments="{}"), "action.tool"),
        (auth.Action(tool=" "), "action.tool"),
        (auth.Action(tool="x" * 257), "action.tool"),
        (auth.Action(tool="Bash", arguments="x" * (256 * 1024 + 1)), "action.arguments"),
        (auth.Action(tool="Bash", cwd="/" * 4097), "action.cwd"),
    ],
)
def test_an_action_that_cannot_be_is_refused(folder: Path, action: auth.Action, field: str) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        error = await fails(_check(at, action))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, (field,))

    run(folder, body, policy=ALL)


def test_the_gate_knows_no_operator(folder: Path) -> None:
    async def body(at: Serving) -> None:
        error = await fails(at.authorization.CheckAction(auth.CheckActionRequest(action=LS)))
        assert error.code is Code.PERMISSION_DENIED

    run(folder, body)


def test_wrong_passphrases_are_counted_and_told(folder: Path) -> None:
    async def body(at: Serving) -> None:
        at.core.passphrase.set("correct horse")
        await _team_with(at, "correct horse")
        asked = await _ask(at)
        for _ in range(5):
            await at.core.passphrase.on_wrong(f"decide authorization {asked.id}")
        alerts, _ = await at.core.alerts.list_page("", 0, "")
        assert [a.kind for a in alerts] == ["passphrase"]

    run(folder, body)


async def _team_with(at: Serving, passphrase: str) -> None:
    await at.alive("developer", "%1")
    await at.alive("orchestrator", "%2", passphrase=passphrase)


def test_a_request_id_is_the_agents_own(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        mine = await _ask(at, "tidy one", request_id="r")
        theirs = await _ask(at, "tidy two", "orchestrator", request_id="r")
        assert (theirs.action, theirs.requester_role) == ("tidy two", "orchestrator")
        assert (await _ask(at, "tidy one", request_id="r")).id == mine.id

    run(folder, body)


def test_a_role_that_was_passed_over_may_not_decide(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _team(at)
        asked = await _ask(at)
        told = await _escalate(at, asked)
        assert [(one.receiver, one.passed_over) for one in told.levels] == [("lead", True)]
        assert (await fails(_approve(at, asked, "lead"))).code is Code.PERMISSION_DENIED

    run(folder, body, policy=replace(POLICY, escalation=("lead",)))
