"""The command line: finds the command, builds its parser only, runs it, says what went wrong.

grpc is imported by the command that needs it, so that `--help` and usage errors are quick.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Protocol, cast

from orch_client import __version__
from orch_client.errors import FAILED, USAGE, ClientError


class Command(Protocol):
    """A module of orch_client.commands."""

    EXAMPLES: str

    def configure(self, parser: argparse.ArgumentParser, name: str) -> None:
        """Adds the command's arguments."""

    def run(self, args: argparse.Namespace, name: str) -> int:
        """Runs it; returns the exit status."""

    # WORDS = True, when given, lets its positional argument `words` stand between the flags.


#: Command: (module, help).
COMMANDS = {
    "heartbeat": ("heartbeat", "beat for this pane and deliver what comes for it; loops"),
    "run": ("run", "run an agent in the foreground, its heartbeat beside it: run -- COMMAND…"),
    "status": ("status", "show sessions and agents on one screen, those who need somebody first"),
    "top": ("top", "show the same, live; needs the extra 'top'"),
    "agents": ("agents", "list agents and whether their clients are heard"),
    "why": ("why", "say what told an agent's state, and what would change it"),
    "whoami": ("agents", "say as whom the server knows the caller"),
    "send": ("send", "send a text to agents: send TARGET TEXT…"),
    "messages": ("messages", "list what was sent, the newest first"),
    "delivery": ("messages", "tell the story of one delivery; cancel or redrive it"),
    "dnd": ("messages", "hold back what is for an agent, or let it go: dnd on|off"),
    "templates": ("messages", "list the templates for send"),
    "extend": ("extend", 'announce a long operation: extend 30m "running migrations"'),
    "schedule": ("schedule", "schedule a note, once or again and again: schedule MINUTES NOTE"),
    "reschedule": ("schedule", "give a scheduled note another time"),
    "tasks": ("tasks", "list or watch scheduled notes"),
    "task": ("tasks", "show one scheduled note, and what became of it"),
    "occurrences": ("tasks", "list all that became of a scheduled note"),
    "pause": ("tasks", "let a scheduled note, or all, fire no more until resume"),
    "resume": ("tasks", "end a pause"),
    "run-now": ("tasks", "fire a scheduled note now"),
    "cancel": ("tasks", "cancel a scheduled note"),
    "authorize": ("authorize", "ask for leave to act"),
    "pending": ("authorize", "list requests that wait for a decision"),
    "authorization": ("authorize", "show one request; or how long decisions took: stats"),
    "approve": ("authorize", "say yes to a request"),
    "deny": ("authorize", "say no to a request, with a reason"),
    "withdraw": ("authorize", "withdraw a request of one's own"),
    "escalate": ("authorize", "tell the next level of a pending request now"),
    "consume": ("authorize", "use an approval of one's own, once"),
    "waiting": ("waiting", "list who waits for whom; declare or end a wait of one's own"),
    "alerts": ("supervision", "list alerts, the newest first"),
    "nudges": ("supervision", "list whom the supervision woke, and count what it did not send"),
    "escalations": ("supervision", "list the matters that are being escalated"),
    "credit": ("supervision", "list accounts that are held; hold or release one by hand"),
    "state": ("state", "show sessions and their agents"),
    "phase": ("progress", "say that a phase of the work is over: phase complete NAME"),
    "report": ("progress", "report how a topic is: report TOPIC STATUS [DETAILS]"),
    "projects": ("progress", "list the projects that sessions work on"),
    "sync": ("sync", "compare the store with tmux, repair what is safe, list the rest"),
    "metrics": ("metrics", "show the figures of a team beside their targets"),
    "events": ("events", "list or follow all that happened: every change, by number"),
    "screen": ("screen", "record an agent's screen, and test the screen rules"),
    "gate": ("gate", "called by an agent CLI before it uses a tool; blocks unless allowed"),
    "hook": ("hook", "called by an agent CLI's own hooks; reads JSON on standard input"),
    "hooks": ("hooks", "install, uninstall or show the hooks in Claude Code's settings"),
}

_EPILOG = """exit status:
  0 done, 1 failed, 2 usage, 3 server unreachable, 4 not found, 5 refused, 6 conflict
  authorize --wait, consume --wait: 0 approved and used, 10 denied, 11 expired, 12 withdrawn,
                    13 still pending, 6 the approval was used or lapsed before
  hook: 0 or 1, never 2, which would block the agent
  gate: 0 for a clear yes, 2 for everything else

environment:
  ORCH_HOME     folder of the server's socket (default: orch under the XDG state directory)
  ORCH_ADDRESS  unix:/PATH or HOST:PORT, instead of that socket
  ORCH_TOKEN    the token for calls to HOST:PORT

'orch-client COMMAND --help' shows a command's arguments and examples."""
_SHOWN = 2000


def main(argv: list[str]) -> int:
    """Runs a command line; returns the exit status."""
    if argv[:1] == ["gate"]:
        return _yes_or_no(argv)
    _prepare()
    status = _guarded(argv)
    return FAILED if status == USAGE and argv[:1] == ["hook"] else status


def _yes_or_no(argv: list[str]) -> int:
    """Runs `gate`, which ends with 0 for a clear yes, and else with 2, which blocks the agent."""
    try:
        _prepare()
        from orch_client.commands.gate import refuse

        status = _run(argv[0], _as_utf8(argv[1:]))
        sys.stdout.flush()
        sys.stderr.flush()
    except ClientError as exc:
        refuse(exc.message)
    except BaseException as exc:  # the top: what nobody has thought of must block, too
        _refuse_at_a_fault(exc)
    else:
        return 0 if status == 0 else USAGE
    return USAGE


def _refuse_at_a_fault(exc: BaseException) -> None:
    """Says it with as little as there is; what could not be printed is not tried again."""
    line = ascii(f"orch-client gate: blocked: {type(exc).__name__}: {exc}"[:_SHOWN])[1:-1]
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
    sys.stderr = io.StringIO()


def _prepare() -> None:
    _open_what_is_closed()
    _print_what_the_locale_lacks_too()


def _guarded(argv: list[str]) -> int:
    try:
        status = _dispatch(_as_utf8(argv))
        sys.stdout.flush()
        return status
    except ClientError as exc:
        print(f"orch-client: {exc.message}", file=sys.stderr)
        return exc.status
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except EOFError:
        print("\norch-client: the input ended before an answer was given.", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        return FAILED
    except OSError as exc:
        print(f"orch-client: {exc.strerror or exc}.", file=sys.stderr)
        return FAILED


def _open_what_is_closed() -> None:
    """A standard stream that the caller has closed leads to nowhere: it is there all the same, and
    nothing that is opened later gets its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def _print_what_the_locale_lacks_too() -> None:
    """A character that the terminal's locale has not becomes "?", not an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _as_utf8(argv: list[str]) -> list[str]:
    """The arguments read as UTF-8, whatever the locale. Raises ClientError for what is none."""
    try:
        return [os.fsencode(argument).decode() for argument in argv]
    except UnicodeDecodeError as exc:
        whole = os.fsdecode(exc.object)
        raise ClientError(
            f"argument {argv.index(whole) + 1} is not valid UTF-8 at byte offset {exc.start}.",
            USAGE,
        ) from exc


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] in COMMANDS:
        return _run(argv[0], argv[1:])
    parser = argparse.ArgumentParser(
        prog="orch-client",
        usage="orch-client COMMAND …",
        description="The client of tmux-orchestrator, for agents' panes and people.\n\ncommands:\n"
        + "\n".join(f"  {name:14} {text}" for name, (_, text) in COMMANDS.items()),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"orch-client {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    args = _parsed(parser, argv[:1])
    if isinstance(args, int):
        return args
    if args.command is None:
        parser.print_help()
        return USAGE
    known = ", ".join(COMMANDS)
    raise ClientError(f"there is no command '{args.command}'; there are: {known}.", USAGE)


def _run(name: str, argv: list[str]) -> int:
    module, text = COMMANDS[name]
    command = cast("Command", import_module(f"orch_client.commands.{module}"))
    parser = argparse.ArgumentParser(
        prog=f"orch-client {name}",
        description=text[0].upper() + text[1:] + ".",
        epilog=command.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.configure(parser, name)
    args = _parsed(parser, argv, mixed=getattr(command, "WORDS", False))
    return args if isinstance(args, int) else command.run(args, name)


def _parsed(
    parser: argparse.ArgumentParser, argv: list[str], mixed: bool = False
) -> argparse.Namespace | int:
    """The arguments, or the exit status with which argparse wanted to leave.

    With `mixed`, the words of `args.words` may stand between the flags, and every word after the
    first "--" is one of them, as it is.
    """
    try:
        if not mixed:
            return parser.parse_args(argv)
        end = argv.index("--") if "--" in argv else len(argv)
        args = parser.parse_intermixed_args(argv[:end])
        args.words += argv[end + 1 :]
        return args
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else USAGE
