"""`screen`: records an agent's screen as a fixture, and tests the screen rules against fixtures."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from pathlib import Path

from orch_client import errors, identity
from orch_client.courier import fixture, kinds, programs, screen, tmux
from orch_client.courier.kinds import BadRules, Kind
from orch_client.errors import ClientError

EXAMPLES = """examples:
  orch-client screen capture %5                     record what pane %5 shows
  orch-client screen capture %5 --state working     the rules read it wrongly: it works
  orch-client screen check                          test all screen rules against all fixtures
  orch-client screen check claude

Fixtures and rules of your own live in the folder 'screens' beside config.toml; see
docs/howto/screens.md.
"""
_FACTS = "#{pane_pid} #{cursor_x},#{cursor_y} #{pane_width}x#{pane_height} #{pane_current_command}"
_NAME = re.compile(r"[\w.+-]{1,60}\Z")


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    doing = parser.add_subparsers(dest="doing", required=True, metavar="capture|check")
    capture = doing.add_parser("capture", help="record what a pane shows")
    capture.add_argument("pane", metavar="%ID", nargs="?", default="", help="default: this pane")
    capture.add_argument("--state", choices=sorted(kinds.STATES), help="what it really shows")
    capture.add_argument("--draft", help="what really stands in the composer")
    capture.add_argument("--release", default="unknown", help="the agent CLI's version")
    capture.add_argument("--name", default="", help="of the fixture; default: its state")
    check = doing.add_parser("check", help="test screen rules against recorded screens")
    check.add_argument("kind", metavar="KIND", nargs="?", default="", help="default: every kind")
    for part in (capture, check):
        part.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    return _capture(args) if args.doing == "capture" else _check(args)


def _capture(args: argparse.Namespace) -> int:
    pane = args.pane or os.environ.get("TMUX_PANE", "")
    if not tmux.is_pane_id(pane):
        raise ClientError(
            f"'{pane}' is no pane; give the id of the agent's pane, such as %5 (tmux lsp -a).",
            errors.USAGE,
        )
    for word in (args.release, args.name or "x"):
        if not _NAME.match(word):
            raise ClientError(
                f"'{word}' cannot be part of a file's name; use letters, digits, '.', '-'.",
                errors.USAGE,
            )
    kind, facts, shown = asyncio.run(_look(pane))
    seen = screen.read(kind, screen.parse(shown))
    state = args.state or seen.state
    draft = seen.draft if args.draft is None else args.draft
    made = fixture.Fixture(
        kind=kind.name,
        version=args.release,
        state=state,
        draft=draft,
        cursor=facts[1],
        size=facts[2],
        about="recorded by 'orch-client screen capture'",
        screen=shown,
    )
    own = Path(kinds.own_folder())
    folder = own / "fixtures" / kind.name
    path = folder / f"{args.release}-{args.name or state}.screen"
    try:
        fixture.write(path, made)
    except FileExistsError as exc:
        raise ClientError(
            f"{path} is there already; give another --name, or remove it.", errors.CONFLICT
        ) from exc
    if args.json:
        told = {"file": str(path), "kind": kind.name, "state": state, "draft": draft}
        print(json.dumps({**told, "rule": seen.rule}, ensure_ascii=False))
    else:
        print(f"{path}\nThe rules read: {seen.state} ({seen.rule or 'no rule'}), {_said(draft)}.")
    if (state, draft) != (seen.state, seen.draft):
        print(
            f"The rules for {kind.name} read it wrongly; mend a copy of them in"
            f" {own / f'{kind.name}.toml'}, then try: orch-client screen check",
            file=sys.stderr,
        )
    return 0


async def _look(pane: str) -> tuple[Kind, list[str], str]:
    """The pane's kind, its facts, and what it shows."""
    socket = identity.tmux_socket()
    if not socket:
        raise ClientError(
            "this is no tmux pane, so the tmux server is not known; run it in any pane.",
            errors.USAGE,
        )
    asked = tmux.Subprocess(socket)
    try:
        out = await asked.run(
            *("display-message", "-p", "-t", pane, _FACTS, ";"),
            *("capture-pane", "-p", "-e", "-t", pane),
        )
    except tmux.PaneGone as exc:
        raise ClientError(
            f"there is no pane {pane}; look with: tmux lsp -a", errors.MISSING
        ) from exc
    except (tmux.TmuxSilent, tmux.TmuxFailed, tmux.TmuxDied) as exc:
        raise ClientError(f"tmux did not answer: {exc}.", errors.FAILED) from exc
    head, _, shown = out.partition("\n")
    facts = head.split(" ", 3)
    program = programs.foreground(int(facts[0]), facts[3])
    kind = kinds.load().get(program.agent)
    if kind is None or kind.composer is None:
        known = ", ".join(k.name for k in kinds.load().values() if k.composer)
        raise ClientError(
            f"pane {pane} shows {program.name or 'nothing known'}, which has no screen rules; there"
            f" are rules for: {known}.",
            errors.USAGE,
        )
    return kind, facts, shown


def _check(args: argparse.Namespace) -> int:
    """Tests what is in force, and the user's own files even when they are not used."""
    known = dict(kinds.load())
    results = []
    own = {path.stem: path for path in sorted(Path(kinds.own_folder()).glob("*.toml"))}
    if args.kind and args.kind not in {**known, **own}:
        raise ClientError(
            f"there are no rules for '{args.kind}'; there are: {', '.join(sorted(known))}.",
            errors.MISSING,
        )
    for name in sorted({**known, **own}):
        if args.kind in ("", name):
            results.append(_checked(name, own.get(name), known))
    if args.json:
        print(json.dumps(results, ensure_ascii=False))
    else:
        for found in results:
            verdict = found["error"] or f"{found['screens']} recorded screens read rightly"
            print(f"{found['kind']:10} {found['rules']:8} {verdict}")
    return errors.FAILED if any(found["error"] for found in results) else 0


def _checked(name: str, own: object, known: dict[str, Kind]) -> dict[str, object]:
    told: dict[str, object] = {"kind": name, "rules": "own" if own else "shipped"}
    try:
        path = Path(kinds.own_folder()) / f"{name}.toml"
        kind = kinds.parse(path) if own else known[name]
        return {**told, "screens": kinds.check_recorded(kind), "error": ""}
    except BadRules as exc:
        return {**told, "screens": 0, "error": str(exc)}


def _said(draft: str | None) -> str:
    if draft is None:
        return "no composer"
    return f"the composer holds {draft!r}" if draft else "an empty composer"
