"""`orch-server …`: runs the server and keeps its files."""

from __future__ import annotations

import argparse
import getpass
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from orch_server import __version__, config, logs
from orch_server.core.clock import SystemClock
from orch_server.core.errors import Conflict, InvalidInput, NotFound, OrchError, StartupError
from orch_server.core.policy import Policy
from orch_server.core.text import check_name, check_role
from orch_server.services.passphrase import PENALTY, Passphrase
from orch_server.services.tokens import TokenFiles

_EXAMPLES = """examples:
  orch-server run
  orch-server run --home /srv/orch --listen unix:/srv/orch/orch.sock --listen 127.0.0.1:50051
  orch-server token create --session atlas-impl-1a2b3c4d --role developer
  orch-server passphrase set
  orch-server audit verify
  orch-server cleanup --older-than 30d
  orch-server import ~/Tmux-Orchestrator
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 done, 1 failed, 2 usage, 4 not found,
    6 conflict."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of what the locale lacks; stderr has its own way
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except KeyboardInterrupt:
        return 130
    except (NotFound, InvalidInput) as exc:
        print(f"orch-server: {exc.message}", file=sys.stderr)
        return 4 if isinstance(exc, NotFound) else 2
    except OrchError as exc:
        print(f"orch-server: {exc.message}", file=sys.stderr)
        return 6 if isinstance(exc, Conflict) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="orch-server",
        description="The server of tmux-orchestrator.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"orch-server {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="serve until SIGTERM; prints one line when ready")
    _add_home(run)
    run.set_defaults(run=_run)

    check = commands.add_parser("check", help="check configuration and environment")
    _add_home(check)
    check.set_defaults(run=_check)

    token = commands.add_parser("token", help="tokens for calls over TCP and by grpcurl")
    tokens = token.add_subparsers(required=True, metavar="ACTION")
    create = tokens.add_parser("create", help="make a token; without a role it is the operator's")
    create.add_argument("--session", default="", help="the session the token acts in")
    create.add_argument("--role", default="", help="the role it acts as")
    create.set_defaults(run=_token_create)
    listing = tokens.add_parser("list", help="list tokens, without their secrets")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_token_list)
    revoke = tokens.add_parser("revoke", help="end a token")
    revoke.add_argument("id", metavar="ID")
    revoke.set_defaults(run=_token_revoke)

    passphrase = commands.add_parser("passphrase", help="the operator's passphrase")
    actions = passphrase.add_subparsers(required=True, metavar="ACTION")
    setting = actions.add_parser("set", help="set or change it; asked on the terminal")
    setting.set_defaults(run=_passphrase_set)

    audit = commands.add_parser("audit", help="the log of what was decided")
    looks = audit.add_subparsers(required=True, metavar="ACTION")
    verify = looks.add_parser("verify", help="find what was changed in it, removed or put in")
    verify.add_argument("--head", metavar="FILE", help="check it against this copy of its head too")
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(run=_audit_verify)

    cleanup = commands.add_parser("cleanup", help="remove sessions that ended; a dry run first")
    cleanup.add_argument(
        "--older-than", metavar="AGE", help="that ended longer ago, such as 12h; default: 30d"
    )
    cleanup.add_argument("--execute", action="store_true", help="do it, after a backup")
    cleanup.add_argument("--json", action="store_true", help="print JSON")
    cleanup.set_defaults(run=_cleanup)

    coming = commands.add_parser("import", help="take over the old system's state; a dry run first")
    coming.add_argument("directory", metavar="DIR", help="its repository, or its registry folder")
    coming.add_argument("--execute", action="store_true", help="do it, after a backup")
    coming.add_argument("--json", action="store_true", help="print JSON")
    coming.set_defaults(run=_import)

    going = commands.add_parser("export", help="write the old system's files, as a way back")
    going.add_argument("directory", metavar="DIR", help="a new or empty folder")
    going.add_argument("--json", action="store_true", help="print JSON")
    going.set_defaults(run=_export)

    for sub in (create, listing, revoke, setting, verify, cleanup, coming, going):
        sub.add_argument("--home", help="ORCH_HOME; default: orch under the XDG state directory")
    return parser


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--home", help="ORCH_HOME; default: orch under the XDG state directory")
    parser.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS",
        help="unix:/PATH or a loopback HOST:PORT; may be repeated; default: unix:HOME/orch.sock",
    )


def _run(args: argparse.Namespace) -> int:
    import uvloop

    from orch_server.app import serve
    from orch_server.loops.supervisor import LoopDied

    settings = config.load(args.home, args.listen)
    logs.configure(settings.log_level)

    def ready(line: str) -> None:
        print(line, flush=True)

    try:
        uvloop.run(serve(settings, ready))
    except LoopDied as exc:
        print(f"orch-server: the loop '{exc}' died; see the log above.", file=sys.stderr)
        return 1
    return 0


def _check(args: argparse.Namespace) -> int:
    settings = config.load(args.home, args.listen)
    config.check_home(settings)
    tmux = shutil.which("tmux")
    if tmux is None:
        raise StartupError("tmux is not installed; install it: apt-get install tmux")
    version = subprocess.run([tmux, "-V"], capture_output=True, text=True, timeout=5, check=False)
    number = re.search(r"(\d+)\.(\d+)", version.stdout)  # "master" has none, and is new
    if number and (int(number[1]), int(number[2])) < (3, 2):
        raise StartupError(f"{version.stdout.strip()} is too old; install tmux 3.2 or newer.")
    for line in (
        f"home        {settings.home}",
        f"listen      {' '.join([f'unix:{p}' for p in settings.sockets] + list(settings.ports))}",
        *_policy_lines(settings.policy),
        f"passphrase  {'set' if settings.passphrase.exists() else 'not set: open mode'}",
        f"tmux        {version.stdout.strip()}",
    ):
        print(line)
    return 0


def _policy_lines(policy: Policy) -> Iterator[str]:
    yield f"approvers   {', '.join(policy.deciding_roles())}"
    for one in (*policy.classes, policy.routine):
        human = ", a human must approve" if one.human else ""
        yield f"class       {one.name}: {', '.join(one.approvers)}{human}"
    yield f"gate        {len(policy.gate)} rules, then {policy.gate_default}"


def _token_create(args: argparse.Namespace) -> int:
    settings = config.load(args.home)
    if bool(args.session) != bool(args.role):
        raise InvalidInput(
            "role", "Give both --session and --role, or neither for the operator's token."
        )
    role = check_role("role", args.role) if args.role else ""
    session = check_name("session", args.session) if args.session else ""
    if not role or role in settings.policy.deciding_roles():
        _prove(Passphrase(settings.passphrase))
    config.check_home(settings)
    created = SystemClock().now().isoformat(timespec="seconds")
    print(TokenFiles(settings.tokens).create(session, role, created))
    return 0


def _token_list(args: argparse.Namespace) -> int:
    found = TokenFiles(config.load(args.home).tokens).list()
    if args.json:
        print(
            json.dumps(
                [
                    {"id": t.id, "session": t.session, "role": t.role, "created": t.created}
                    for t in found
                ]
            )
        )
        return 0
    for token in found:
        whose = f"{token.session}:{token.role}" if token.role else "operator"
        print(f"{token.id}  {token.created}  {whose}")
    return 0


def _token_revoke(args: argparse.Namespace) -> int:
    TokenFiles(config.load(args.home).tokens).revoke(args.id)
    return 0


def _passphrase_set(args: argparse.Namespace) -> int:
    settings = config.load(args.home)
    config.check_home(settings)
    passphrase = Passphrase(settings.passphrase)
    _prove(passphrase)
    first = _secret("New passphrase: ")
    if not first:
        raise StartupError("An empty passphrase protects nothing; nothing was changed.")
    if _secret("Again: ") != first:
        raise StartupError("The two passphrases differ; nothing was changed.")
    passphrase.set(first)
    print("The passphrase is set; it holds from now on, without a restart.")
    return 0


def _audit_verify(args: argparse.Namespace) -> int:
    from orch_server.storage.audit_check import verify

    report = verify(config.load(args.home).database, Path(args.head) if args.head else None)
    first, last = (_second(at) for at in (report.first, report.last))
    if args.json:
        shown = {**asdict(report), "first": first, "last": last}
        print(json.dumps(shown))
        return int(report.faults > 0)
    for line in report.findings:
        print(f"audit: {line}")
    for line in report.notes:
        print(f"audit: note: {line}")
    told = f"{report.faults:,} fault{'s' * (report.faults > 1)}" if report.faults else "no fault"
    links = f"{report.links:,} link{'s' * (report.links != 1)}"
    print(f"audit: {links}, from {first or '-'} to {last or '-'}, {told}")
    return int(report.faults > 0)


def _cleanup(args: argparse.Namespace) -> int:
    from orch_server import cli_cleanup

    return cli_cleanup.run(args)


def _import(args: argparse.Namespace) -> int:
    from orch_server import cli_import

    return cli_import.run_import(args)


def _export(args: argparse.Namespace) -> int:
    from orch_server import cli_import

    return cli_import.run_export(args)


def _second(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None


def _prove(passphrase: Passphrase) -> None:
    """Asks for the present passphrase, when there is one."""
    if passphrase.is_set() and not passphrase.matches(_secret("Present passphrase: ")):
        time.sleep(PENALTY)
        raise StartupError("The passphrase is wrong; nothing was changed.")


def _secret(prompt: str) -> str:
    """Asks on the terminal. Raises StartupError where there is none."""
    try:
        with Path("/dev/tty").open("rb"):
            return getpass.getpass(prompt)
    except (OSError, EOFError) as exc:
        raise StartupError(
            "The passphrase is asked on a terminal, and there is none; nothing was changed."
        ) from exc
