"""`extend`: announces a long operation of one's own agent."""

from __future__ import annotations

import argparse

from orch_client import output
from orch_client.commands.arguments import as_duration, parse_duration

EXAMPLES = """examples:
  orch-client extend 30m "running migrations"    until then silence is no cause for concern
  orch-client extend 1h "still running"          from now on
  orch-client extend 0                           it is done

Two hours at a time, and six hours from the beginning of an operation, at most.
"""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    parser.add_argument("duration", metavar="DURATION", help="from now on, such as 30m; 0 ends it")
    parser.add_argument(
        "reason", metavar="REASON", nargs="?", default="", help="what it is; needed but with 0"
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    seconds = 0.0 if args.duration == "0" else parse_duration(args.duration)

    from orch.v1 import heartbeat_pb2, heartbeat_pb2_grpc
    from orch_client import channel

    request = heartbeat_pb2.ExtendOperationRequest(
        duration=as_duration(seconds), reason=args.reason
    )
    with channel.connected() as (grpc_channel, metadata):
        stub = heartbeat_pb2_grpc.HeartbeatServiceStub(grpc_channel)
        answer = stub.ExtendOperation(request, timeout=channel.DEADLINE, metadata=metadata)
    if args.json:
        output.print_json(answer)
    elif answer.HasField("operation"):
        operation = answer.operation
        hours, minutes = divmod(answer.left.seconds // 60, 60)
        left = (
            f"{hours}h {minutes}m" if hours and minutes else f"{hours}h" if hours else f"{minutes}m"
        )
        print(
            f"busy with {output.one_line(operation.reason)} until"
            f" {output.moment(operation.end_time)}; it can be made {left} longer"
        )
    else:
        print("no operation is announced any more")
    return 0
