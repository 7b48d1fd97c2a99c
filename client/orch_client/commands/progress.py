"""`phase`, `report`, `projects`: how far the work of a session is."""

from __future__ import annotations

import argparse
import os
from typing import Any

from orch_client import output
from orch_client.errors import USAGE, ClientError

EXAMPLES = """examples:
  orch-client phase complete design
  orch-client phase complete "first review" --session atlas
  orch-client report deployment complete "on staging since noon"
  orch-client projects --json
"""
WORDS = True
_SAID = {
    "phase": ("complete NAME", "[--session S] ", "the phase that is over"),
    "report": ("TOPIC STATUS [DETAILS]", "", "of what, in one word how it is, and more"),
}


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    if name == "projects":
        parser.set_defaults(words=[])
        return
    words, more, text = _SAID[name]
    if name == "phase":
        parser.add_argument("--session", metavar="S", default="", help="default: the caller's own")
    parser.usage = f"orch-client {name} {words} {more}[--json]"
    parser.add_argument("words", metavar=words, nargs="*", help=text)


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    match name, args.words:
        case "phase", ["complete", phase]:
            return _complete(args, phase)
        case "report", [topic, status]:
            return _report(args, topic, status, "")
        case "report", [topic, status, details]:
            return _report(args, topic, status, details)
        case "projects", []:
            return _projects(args)
        case "phase", _:
            raise ClientError("use: phase complete NAME.", USAGE)
        case "report", _:
            raise ClientError("use: report TOPIC STATUS [DETAILS]; quote several words.", USAGE)
    raise ClientError("projects takes no words.", USAGE)


def _complete(args: argparse.Namespace, phase: str) -> int:
    from orch.v1 import session_state_pb2 as pb
    from orch_client.commands.state import length

    request = pb.CompletePhaseRequest(
        session=args.session, name=phase, request_id=os.urandom(16).hex()
    )
    done = _call("CompletePhase", request).phase
    if args.json:
        output.print_json(done)
    else:
        after = (
            f" after {length(done)}" if done.HasField("length") else "; nobody knows its beginning"
        )
        print(f"{output.one_line(done.name, 100)}: completed{after}")
    return 0


def _report(args: argparse.Namespace, topic: str, status: str, details: str) -> int:
    from orch.v1 import session_state_pb2 as pb

    request = pb.ReportStatusRequest(topic=topic, status=status, details=details)
    report = _call("ReportStatus", request).report
    if args.json:
        output.print_json(report)
    else:
        print(f"{report.role}: {report.topic} {report.status}")
    return 0


def _projects(args: argparse.Namespace) -> int:
    from orch.v1 import session_state_pb2 as pb

    request = pb.ListProjectsRequest(page_size=1000)
    projects: list[pb.Project] = []
    while True:
        page = _call("ListProjects", request)
        projects.extend(page.projects)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    if args.json:
        output.print_json_list(projects)
        return 0
    rows = [
        (
            output.one_line(project.name) or "-",
            output.one_line(project.path, 200) or "-",
            output.one_line(", ".join(project.sessions), 200),
        )
        for project in projects
    ]
    output.print_table(("PROJECT", "PATH", "SESSIONS"), rows, "No projects yet.")
    return 0


def _call(method: str, request: Any) -> Any:
    from orch.v1 import session_state_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = session_state_pb2_grpc.SessionStateServiceStub(grpc_channel)
        return getattr(stub, method)(request, timeout=channel.DEADLINE, metadata=metadata)
