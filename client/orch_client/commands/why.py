"""`why`: what told an agent's state, what would change it, and what the supervision does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.commands.agents import state, waiting

if TYPE_CHECKING:
    from orch.v1 import agent_pb2, heartbeat_pb2

EXAMPLES = """examples:
  orch-client why atlas:tester
  orch-client why 3fa8c0 --json
"""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    parser.add_argument("agent", metavar="AGENT", help="session:role, or the beginning of an id")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    from orch.v1 import heartbeat_pb2, heartbeat_pb2_grpc
    from orch_client import channel

    request = heartbeat_pb2.GetAgentRequest(agent=args.agent)
    with channel.connected() as (grpc_channel, metadata):
        stub = heartbeat_pb2_grpc.HeartbeatServiceStub(grpc_channel)
        answer = stub.GetAgent(request, timeout=channel.DEADLINE, metadata=metadata)
    if args.json:
        output.print_json(answer)
    else:
        _print(answer.agent, answer.explanation)
    return 0


def _print(agent: agent_pb2.Agent, why: heartbeat_pb2.Explanation) -> None:
    from orch.v1.agent_pb2 import Liveness

    liveness = output.word(Liveness.Name(agent.liveness), "LIVENESS_")
    operation = agent.operation
    announced = f"{output.one_line(operation.reason)} until {output.moment(operation.end_time)}"
    output.print_fields(
        (
            ("agent", f"{agent.session}:{agent.role}"),
            ("state", state(agent)),
            ("since", output.moment(agent.state_change_time)),
            ("because", why.state_rule),
            ("client", liveness),
            ("heard", output.moment(agent.last_check_in_time)),
            ("because", why.liveness_rule),
            ("account", agent.credential),
            ("held until", output.moment(agent.hold_end_time)),
            ("busy with", announced if agent.HasField("operation") else ""),
            ("waits for", waiting(agent)),
            ("imported", imported(agent)),
        )
    )
    _print_evidence(list(why.evidence))
    _print_sentences("What would change it:", list(why.would_change))
    _print_sentences("The supervision:", list(why.supervision))


def imported(agent: agent_pb2.Agent) -> str:
    """What the old system last said of an agent; "" when nothing, or when it means nothing now."""
    said = []
    if agent.HasField("imported_alive"):
        said.append("alive" if agent.imported_alive else "not alive")
    if agent.imported_exhausted:
        said.append("credit exhausted")
    if agent.imported_credit_reset:
        said.append(f"reset {output.one_line(agent.imported_credit_reset)}")
    return f"the old system last said: {', '.join(said)}" if said else ""


def _print_evidence(evidence: list[agent_pb2.Evidence]) -> None:
    from orch.v1.agent_pb2 import AgentState, EvidenceSource

    print()
    rows = [
        (
            output.word(EvidenceSource.Name(one.source), "EVIDENCE_SOURCE_"),
            output.word(AgentState.Name(one.state), "AGENT_STATE_"),
            output.one_line(one.rule, 30),
            output.moment(one.begin_time),
            output.moment(one.observe_time),
            output.one_line(one.detail, 60),
        )
        for one in evidence
    ]
    head = ("EVIDENCE", "SAYS", "BY RULE", "SINCE", "LAST SEEN", "WHAT WAS SEEN")
    output.print_table(head, rows, "No evidence: nothing has told its state yet.")
    for one in evidence:
        if one.HasField("reset_time"):
            print(f"The limit is said to end at {output.moment(one.reset_time)}.")


def _print_sentences(head: str, sentences: list[str]) -> None:
    if sentences:
        print(f"\n{head}")
    for sentence in sentences:
        print(f"  {output.one_line(sentence, 400)}")
