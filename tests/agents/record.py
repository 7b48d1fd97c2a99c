"""Records what the real agents show, as fixtures for the screen rules.

    python -m tests.agents.record [claude|codex] [NAME…]

Each scene brings a fresh agent into one state and writes the screen down, with what is true of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.agents.acts import FIXTURES
from tests.agents.cli import INSTALLED, KINDS, Agent, start
from tests.agents.model import Model
from tests.agents.scenes import SCENES, Scene
from tests.support import Home, Tmux, hold, until

#: How long a screen settles before it is written down.
_SETTLE = 0.7


def record(kind: str, scene: Scene, version: str) -> Path:
    """Plays one scene; returns the file written."""
    home, agent_home = Home(), Path("/tmp/orch-screens")
    shutil.rmtree(agent_home, ignore_errors=True)
    tmux = Tmux(home)
    agent = None
    try:
        with Model() as model:
            agent = start(kind, model, tmux, scene.setup, home=agent_home, size=scene.size)
            if scene.ready:
                agent.ready()
                hold(1.0)
            else:
                until(lambda: agent.screen().strip(), "the screen")
                hold(2.5)
            scene.act(agent, model)
            hold(_SETTLE)
            return _write(agent, scene, version)
    finally:
        if agent is not None:
            agent.end()
        tmux.end()
        home.remove()
        shutil.rmtree(agent_home, ignore_errors=True)


def _write(agent: Agent, scene: Scene, version: str) -> Path:
    cursor = agent.tmux.run("display-message", "-p", "-t", agent.pane, "#{cursor_x},#{cursor_y}")
    width, height = scene.size
    head = {
        "kind": agent.kind,
        "version": version,
        "state": scene.state,
        "draft": json.dumps(scene.draft, ensure_ascii=False),
        "cursor": cursor,
        "size": f"{width}x{height}",
        "about": scene.about,
    }
    path = FIXTURES / agent.kind / f"{version}-{scene.name}.screen"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{key}: {value}\n" for key, value in head.items())
    raw = subprocess.run(
        ["tmux", "-u", "-S", str(agent.tmux.socket), "capture-pane", "-p", "-e", "-t", agent.pane],
        capture_output=True,
        check=True,
        timeout=10,
    ).stdout
    path.write_bytes(f"{lines}---\n".encode() + raw)
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    for kind in [args.kind] if args.kind else KINDS:
        program = INSTALLED / "bin" / kind
        with tempfile.TemporaryDirectory() as empty:
            said = subprocess.run(
                [program, "--version"],
                env={"HOME": empty},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        version = next(word for word in said.split() if word[0].isdigit())
        for scene in SCENES:
            if kind in scene.kinds and (not args.names or scene.name in args.names):
                print(record(kind, scene, version).name, flush=True)


if __name__ == "__main__":
    main()
