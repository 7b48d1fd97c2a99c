"""`state`: sessions and their agents."""

from __future__ import annotations

import argparse
from typing import Any

from orch_client import output

EXAMPLES = """examples:
  orch-client state
  orch-client state atlas --json
"""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    parser.add_argument("session", metavar="SESSION", nargs="?", help="only this session, in full")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    from orch.v1 import session_state_pb2 as pb
    from orch.v1 import session_state_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = session_state_pb2_grpc.SessionStateServiceStub(grpc_channel)
        if args.session:
            one = pb.GetSessionRequest(name=args.session)
            session = stub.GetSession(one, timeout=channel.DEADLINE, metadata=metadata).session
            _print_one(session, args.json)
            return 0
        request = pb.ListSessionsRequest(page_size=1000)
        sessions: list[pb.Session] = []
        while True:
            page = stub.ListSessions(request, timeout=channel.DEADLINE, metadata=metadata)
            sessions.extend(page.sessions)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    _print_all(sessions, args.json)
    return 0


def _print_all(sessions: list[Any], as_json: bool) -> None:
    if as_json:
        output.print_json_list(sessions)
        return
    rows = [
        (
            session.name,
            _word("Phase", session.phase),
            _word("Completion", session.completion),
            f"{_alive(session)}/{len(session.agents)}",
            str(sum(1 for agent in session.agents if agent.HasField("waiting_for"))),
            session.project_path or "-",
        )
        for session in sessions
    ]
    head = ("SESSION", "PHASE", "WORK", "ALIVE", "WAITING", "PROJECT")
    output.print_table(head, rows, "No sessions yet.")


def _print_one(session: Any, as_json: bool) -> None:
    if as_json:
        output.print_json(session)
        return
    from orch_client.commands.agents import print_agents

    output.print_fields(
        (
            ("session", session.name),
            ("project", session.project_name),
            ("path", session.project_path),
            ("specification", session.specification_path),
            ("branch", session.parent_branch),
            ("phase", _word("Phase", session.phase)),
            ("plan", _word("Plan", session.plan) if session.plan else ""),
            ("work", _word("Completion", session.completion)),
            ("failure", session.failure_reason),
            ("version", str(session.version)),
            ("updated", output.moment(session.update_time)),
        )
    )
    print()
    print_agents(list(session.agents))


def _alive(session: Any) -> int:
    from orch.v1 import agent_pb2

    return sum(1 for agent in session.agents if agent.liveness == agent_pb2.LIVENESS_ALIVE)


def _word(enum: str, value: int) -> str:
    from orch.v1 import session_state_pb2 as pb

    return output.word(getattr(pb, enum).Name(value), f"{enum.upper()}_")
