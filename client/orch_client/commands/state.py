"""`state`: sessions, what belongs to them, and their agents."""

from __future__ import annotations

import argparse
from typing import Any

from orch_client import output
from orch_client.errors import USAGE, ClientError

_WIDE = 400
EXAMPLES = """examples:
  orch-client state
  orch-client state atlas --json
  orch-client state atlas --set phase=review --set plan=max5
  orch-client state atlas --set completion=failed --set failure_reason="out of time" --version 7
"""
_ENUMS = {
    "phase": "Phase",
    "plan": "Plan",
    "completion": "Completion",
    "project_size": "ProjectSize",
}
_TEXTS = (
    *("project_name", "project_path", "specification_path", "original_specification_path"),
    *("parent_branch", "worktree_base_path", "batch_id", "failure_reason"),
)


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    parser.add_argument("session", metavar="SESSION", nargs="?", help="only this session, in full")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="FIELD=VALUE",
        help=f"change a field; may be repeated; one of: {', '.join((*_ENUMS, *_TEXTS))}",
    )
    parser.add_argument(
        "--version",
        type=int,
        default=0,
        metavar="N",
        help="with --set: only if this is still the session's version",
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    from orch.v1 import session_state_pb2 as pb
    from orch.v1 import session_state_pb2_grpc
    from orch_client import channel

    if args.changes and not args.session:
        raise ClientError("--set needs the SESSION that is to be changed.", USAGE)
    if args.version and not args.changes:
        raise ClientError("--version belongs to --set.", USAGE)
    change = _change(args) if args.changes else None
    with channel.connected() as (grpc_channel, metadata):
        stub = session_state_pb2_grpc.SessionStateServiceStub(grpc_channel)
        if change is not None:
            done = stub.UpdateSession(change, timeout=channel.DEADLINE, metadata=metadata).session
            if args.json:
                output.print_json(done)
            else:
                print(f"{output.one_line(done.name, _WIDE)}: changed, now version {done.version}")
            return 0
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


def _change(args: argparse.Namespace) -> Any:
    """The request for what is to be set. Raises ClientError."""
    from orch.v1 import session_state_pb2 as pb

    request = pb.UpdateSessionRequest()
    request.session.name, request.session.version = args.session, args.version
    for given in args.changes:
        field, equals, value = given.partition("=")
        if not equals or field not in (*_ENUMS, *_TEXTS):
            known = ", ".join((*_ENUMS, *_TEXTS))
            raise ClientError(
                f"'{output.one_line(given)}' sets nothing; use one of: {known}.", USAGE
            )
        setattr(request.session, field, _value(field, value))
        if field not in request.update_mask.paths:
            request.update_mask.paths.append(field)
    return request


def _value(field: str, given: str) -> Any:
    """What is given for a field, as the API has it. Raises ClientError."""
    from orch.v1 import session_state_pb2 as pb

    if field not in _ENUMS:
        return given
    enum = getattr(pb, _ENUMS[field])
    words = {_word(_ENUMS[field], value): value for value in enum.values() if value}
    if given.lower() not in words:
        known = ", ".join(words)
        raise ClientError(f"'{output.one_line(given)}' is no {field}; use: {known}.", USAGE)
    return words[given.lower()]


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
            output.one_line(session.project_path) or "-",
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

    output.print_fields(_fields(session))
    _print_section("IMPORTED", _imported(session))
    _print_section("PHASES", _phases(session))
    _print_section("REPORTS", _reports(session))
    _print_section("DEPENDENCIES", _dependencies(session))
    _print_section("WORKTREES", _worktrees(session))
    print()
    print_agents(list(session.agents))


def _fields(session: Any) -> list[tuple[str, str]]:
    texts = (
        ("session", session.name),
        ("project", session.project_name),
        ("path", session.project_path),
        ("size", _word("ProjectSize", session.project_size) if session.project_size else ""),
        ("specification", session.specification_path),
        ("original", session.original_specification_path),
        ("branch", session.parent_branch),
        ("worktrees", session.worktree_base_path),
        ("batch", session.batch_id),
        ("phase", _word("Phase", session.phase)),
        ("plan", _word("Plan", session.plan) if session.plan else ""),
        ("work", _word("Completion", session.completion)),
        ("ended", output.moment(session.completion_time)),
        ("failure", session.failure_reason),
        ("version", str(session.version)),
        ("created", output.moment(session.create_time)),
        ("updated", output.moment(session.update_time)),
    )
    shown = [(name, output.one_line(text, _WIDE)) for name, text in texts]
    if session.name_missing:
        shown.insert(1, ("tmux", "the name of its tmux session is not known"))
    return shown


def _print_section(title: str, rows: list[tuple[str, ...]]) -> None:
    """Rows in columns under a title; nothing when there are none."""
    if not rows:
        return
    print()
    output.print_table((title, *[""] * (len(rows[0]) - 1)), rows, "")


def _imported(session: Any) -> list[tuple[str, ...]]:
    """What the old system last said of the session's figures and of its agents."""
    from orch_client.commands.why import imported

    figures = [(output.one_line(n), f"{v:g}") for n, v in sorted(session.imported_metrics.items())]
    agents = [(agent.role, imported(agent)) for agent in session.agents]
    return [*figures, *(row for row in agents if row[1])]


def _phases(session: Any) -> list[tuple[str, ...]]:
    return [
        (
            output.one_line(phase.name),
            length(phase),
            output.moment(phase.end_time) or "nobody knows when",
        )
        for phase in session.completed_phases
    ]


def _reports(session: Any) -> list[tuple[str, ...]]:
    return [
        (
            report.role,
            f"{output.one_line(report.topic)} {output.one_line(report.status)}",
            output.moment(report.report_time),
            output.one_line(report.details),
        )
        for report in session.status_reports
    ]


def _dependencies(session: Any) -> list[tuple[str, ...]]:
    return [(one.role, f"needs {', '.join(one.needs)}") for one in session.role_dependencies]


def _worktrees(session: Any) -> list[tuple[str, ...]]:
    return [
        (
            agent.role,
            output.one_line(agent.branch) or "-",
            output.one_line(agent.commit_hash)[:12] or "-",
            output.one_line(agent.worktree_path, _WIDE) or "-",
        )
        for agent in session.agents
        if agent.worktree_path or agent.branch or agent.commit_hash
    ]


def length(phase: Any) -> str:
    """How long a completed phase took, such as "2h 5m"; "?" when nobody knows."""
    if not phase.HasField("length"):
        return "?"
    minutes, seconds = divmod(phase.length.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"


def _alive(session: Any) -> int:
    from orch.v1 import agent_pb2

    return sum(1 for agent in session.agents if agent.liveness == agent_pb2.LIVENESS_ALIVE)


def _word(enum: str, value: int) -> str:
    from orch.v1 import session_state_pb2 as pb

    prefix = "PROJECT_SIZE_" if enum == "ProjectSize" else f"{enum.upper()}_"
    return output.word(getattr(pb, enum).Name(value), prefix)
