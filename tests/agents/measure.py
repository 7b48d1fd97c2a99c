"""How fast messages reach real agents, measured at the model's side.

    python -m tests.agents.measure [claude|codex] [--messages N]

(a) N messages, each by an `orch-client send` of its own to an idle agent: from the start of that
    process until the model has the request.
(b) 12 messages at once to a busy agent; the server is killed with -9 once it has accepted them, and
    started again; then the agent's turn ends: from then until the model has each of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time

from tests.agents.cli import KINDS, installed
from tests.agents.desk import Desk, word
from tests.support import BIN, until

AT_ONCE = 12


def start_sending(desk: Desk, text: str) -> subprocess.Popen[str]:
    """Starts one `orch-client send` as a person's shell would."""
    return subprocess.Popen(
        [str(BIN / "orch-client"), "send", desk.address, "--json", text],
        env=desk.home.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def arrival(desk: Desk, text: str) -> float:
    """When the model was first told this text (monotonic seconds); 0.0 when it was not yet."""
    for turn in list(desk.model.turns):
        if any(text in said for said in turn.new):
            return turn.at
    return 0.0


def arrived(desk: Desk, text: str) -> float:
    """Waits until the model was told this text; returns when that was."""
    return until(lambda: arrival(desk, text), text, 30.0)


def to_an_idle_agent(desk: Desk, count: int) -> list[float]:
    """Seconds from the start of the command to the request, for each of `count` messages."""
    taken = []
    for number in range(count):
        desk.settle()
        text = f"measured message {number:04d}."
        began = time.monotonic()
        sending = start_sending(desk, text)
        taken.append(arrived(desk, text) - began)
        assert sending.wait(10) == 0
        assert sending.stdout is not None
        sending.stdout.close()
    told = [desk.model.count(f"measured message {number:04d}.") for number in range(count)]
    assert set(told) == {1}, told
    return taken


def across_a_crash(desk: Desk) -> list[float]:
    """Seconds from the moment when server and agent are both free to each request."""
    desk.settle()
    desk.keep_busy()
    texts = [f"crossing message {number:02d}." for number in range(AT_ONCE)]
    sending = [start_sending(desk, text) for text in texts]
    sent = [json.loads(one.communicate(timeout=30)[0])["results"][0]["delivery"] for one in sending]
    desk.server.kill()
    desk.server.start()
    free = time.monotonic()
    desk.model.release()
    until(lambda: all(arrival(desk, text) for text in texts), "all messages", 60.0)
    taken = sorted(arrival(desk, text) - free for text in texts)
    desk.settle()
    for one in sent:
        desk.becomes(one, "CONFIRMED", "QUEUED_BY_AGENT")
    stored = [found for found in desk.home.json("messages") if found["text"] in texts]
    order = [found["text"] for found in reversed(stored)]
    told = [said.split("\n")[-1] for said in desk.model.said if "crossing message" in said]
    assert told == order, (told, order)
    print(f"    states: {sorted({word(desk.delivery(one), 'state') for one in sent})}")
    return taken


def quantile(values: list[float], part: float) -> float:
    """The value below which `part` of the values lie."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * part))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.agents.measure")
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("--messages", type=int, default=100)
    args = parser.parse_args()
    if not installed():
        parser.exit(1, "the real agents are not installed; 'make agents' does it\n")
    for kind in [args.kind] if args.kind else KINDS:
        desk = Desk(kind).open()
        try:
            taken = to_an_idle_agent(desk, args.messages)
            print(
                f"{kind}, idle, {len(taken)} messages, send to request:"
                f" p50 {quantile(taken, 0.5):.3f} s, p99 {quantile(taken, 0.99):.3f} s,"
                f" worst {max(taken):.3f} s"
            )
            taken = across_a_crash(desk)
            print(
                f"{kind}, busy, {AT_ONCE} messages at once, server killed and started again:"
                f" all after {max(taken):.2f} s, in order, each once"
            )
        finally:
            desk.end()


if __name__ == "__main__":
    main()
