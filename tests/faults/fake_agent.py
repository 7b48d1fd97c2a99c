"""A fake agent: looks like Claude Code to whoever reads its screen, and misbehaves as it is told.

    python claude RECORD [--turn LOW HIGH] [--script LIST] [--chances LIST] [--seed N]
        [--ticks MEAN]

What is submitted to it ("what the model received") is appended to RECORD, one JSON object a line,
before the screen shows that it was taken. Faults happen at moments: "start", "paste" (a paste has
come), "enter" (Enter has come), "submit" (the text is recorded), "tick" (any time). A LIST is
"MOMENT:FAULT=NUMBER,…": in a script the fault of the next such moment and its length in seconds
("-" is none), in chances its probability. Faults: see `_FAULTS`. The state that outlives a restart
is in RECORD.plan. Exit status 75 asks the wrapper to start it again. Ctrl-X is a person who deletes
a draft that has stood for a second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable
from pathlib import Path

from fake_screen import View, frame

AGAIN = 75
_PASTE, _PASTED = b"\x1b[200~", b"\x1b[201~"
_LONGEST_SHOWN, _MOST_LINES_SHOWN = 800, 2
_STOOD = 1.0
_HUMAN = "perhaps we should "  # pane.py knows it too
#: How long each fault lasts, in seconds, when the dice decide.
_FAULTS = {
    "swallow": (0.0, 0.0),  # Enter does nothing
    "late": (0.05, 2.0),  # nothing is drawn for so long
    "dialog": (0.2, 1.5),  # a dialog opens; what is typed into it is lost
    "devour": (0.2, 1.0),  # a dialog opens before what has come is read: that is lost
    "hold": (0.2, 1.0),  # a dialog opens, and Enter acts when it has closed
    "scroll": (0.0, 0.0),  # many lines are printed
    "restart": (0.0, 0.0),  # the same process begins anew, its composer empty
    "relaunch": (0.0, 0.0),  # another process takes its place
    "stop": (0.1, 1.5),  # it is stopped
    "draft": (0.2, 2.0),  # a person types, and deletes it again
    "busy": (0.5, 3.0),  # it works by itself
}


class Plan:
    """Which fault comes at which moment; what is left of it outlives a restart."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._path = Path(f"{options.record}.plan")
        saved = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._script: list[list[str]] = saved.get("script", _entries(options.script))
        self.life: int = saved.get("life", 0)
        self._chances = _entries(options.chances)
        self._dice = random.Random(f"{options.seed}.{self.life}")
        self.uniform = self._dice.uniform
        self.ticks: float = options.ticks

    def at(self, moment: str) -> tuple[str, float]:
        """The fault for this moment, "-" for none, and its length in seconds."""
        for entry in self._script:
            if entry[0] == moment:
                self._script.remove(entry)
                return entry[1], float(entry[2] or 0)
        roll = self._dice.random()
        for where, fault, chance in self._chances:
            if where == moment:
                roll -= float(chance)
                if roll < 0:
                    return fault, self._dice.uniform(*_FAULTS[fault])
        return "-", 0.0

    def save(self) -> None:
        """Writes down what is left, for the next life."""
        left = {"script": self._script, "life": self.life + 1}
        self._path.write_text(json.dumps(left))


class Agent:
    """The program: reads keys, draws, submits. All waiting is one select with the next time due."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._plan = Plan(options)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._record = os.open(options.record, flags | os.O_CLOEXEC, 0o600)
        self._view = View(transcript=[" ▐▛███▜▌   Fake Code", "", ""])
        self._pieces: list[tuple[str, str]] = []  # what is shown, what it stands for
        self._human = ""
        self._pastes = 0
        self._queue: list[str] = []
        self._held_enter = False
        self._unread = b""
        self._changed_at = time.monotonic()
        self._due: dict[str, float] = {}
        self._stale = True
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGWINCH, lambda *_: None)

    def run(self) -> None:
        """Until the terminal ends."""
        tty.setraw(0, termios.TCSADRAIN)
        self._write("\x1b[?2004h\x1b[?25l\x1b[?7l\x1b[2J")
        self._note("started", pid=os.getpid())
        self._suffer("start")
        self._set_tick()
        while True:
            self._draw()
            pause = max(0.0, min(self._due.values(), default=1e9) - time.monotonic())
            ready, _, _ = select.select([0, self._wake], [], [], min(pause, 3600.0))
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._stale = True
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    return
                self._read(data)
            self._do_what_is_due()

    # -- keys

    def _read(self, data: bytes) -> None:
        self._unread += data
        while self._unread:
            if self._unread.startswith(_PASTE):
                end = self._unread.find(_PASTED)
                if end < 0:
                    return
                text, self._unread = self._unread[6:end], self._unread[end + 6 :]
                self._paste(text.decode("utf-8", "replace"))
            elif self._unread[0] == 0x1B and _PASTE.startswith(self._unread[:6]):
                return
            else:
                key, self._unread = self._unread[:1], self._unread[1:]
                self._key(key)

    def _key(self, key: bytes) -> None:
        if self._view.dialog:
            if key == b"\r":
                self._note("answered")
        elif key == b"\r":
            self._enter()
        elif key == b"\x18":
            if time.monotonic() > self._changed_at + _STOOD:
                self._clear()
        elif key >= b" " and key != b"\x7f":
            char = key.decode("latin-1")
            self._pieces.append((char, char))
            self._changed()

    def _paste(self, text: str) -> None:
        fault, length = self._plan.at("paste")
        if fault == "devour":
            self._dialog(length)
        if self._view.dialog:
            self._note("devoured", size=len(text))
            return
        lines = text.count("\n")
        shown = text
        if len(text) > _LONGEST_SHOWN or lines > _MOST_LINES_SHOWN:
            self._pastes += 1
            more = f" +{lines} lines" if lines else ""
            shown = f"[Pasted text #{self._pastes}{more}]"
        self._pieces.append((shown, text))
        self._changed()
        self._befall(fault, length)

    def _enter(self) -> None:
        fault, length = self._plan.at("enter")
        if fault == "swallow":
            return
        if fault in ("dialog", "hold"):
            self._held_enter = fault == "hold"
            self._dialog(length)
            return
        self._befall(fault, length)
        self._submit()

    def _submit(self) -> None:
        text = "".join(real for _, real in self._pieces) + self._human
        if not text.strip():
            return
        self._clear()
        if self._view.spinner:
            self._queue.append(text)
            self._view.queue.append(text)
            self._note("queued", text=text)
        else:
            self._take([text])
        self._suffer("submit")

    # -- turns

    def _take(self, texts: list[str]) -> None:
        for text in texts:
            self._note("submitted", text=text)
            first, *rest = text.split("\n")[:20]
            self._view.transcript += ["", f"❯ {first}", *(f"  {line}" for line in rest)]
        self._work(self._plan.uniform(*self._options.turn))

    def _work(self, seconds: float) -> None:
        self._view.spinner = "✻ Pondering… (0s · esc to interrupt)"
        self._due["turn"] = time.monotonic() + seconds
        self._stale = True

    def _turn_ended(self) -> None:
        self._view.transcript += ["", "● Noted.", "", "✻ Pondered for 0s"]
        del self._view.transcript[:-200]
        self._view.spinner = ""
        self._view.queue.clear()
        self._stale = True
        queued, self._queue = self._queue, []
        if queued:
            self._take(queued)

    # -- faults

    def _suffer(self, moment: str) -> None:
        self._befall(*self._plan.at(moment))

    def _befall(self, fault: str, length: float) -> None:
        if fault == "-":
            return
        now = time.monotonic()
        if fault == "late":
            self._due["paint"] = now + length
        elif fault in ("dialog", "devour"):
            self._dialog(length)
        elif fault == "scroll":
            self._scroll()
        elif fault in ("restart", "relaunch"):
            self._begin_anew(fault)
        elif fault == "stop":
            self._stop(length)
        elif fault == "draft" and not self._view.dialog:
            self._human = _HUMAN
            self._due["human"] = now + length
            self._changed()
        elif fault == "busy" and not self._view.spinner:
            self._work(length)

    def _dialog(self, length: float) -> None:
        self._view.dialog = True
        self._due["dialog"] = time.monotonic() + length
        self._stale = True

    def _dialog_closed(self) -> None:
        self._view.dialog = False
        self._stale = True
        if self._held_enter:
            self._held_enter = False
            self._submit()

    def _human_gone(self) -> None:
        self._human = ""
        self._changed()

    def _scroll(self) -> None:
        lines = [f"  output {n}" for n in range(60)]
        self._view.transcript += lines
        self._write("\x1b[999;1H" + "".join(f"\r\n{line}\x1b[K" for line in lines))
        self._stale = True

    def _begin_anew(self, how: str) -> None:
        if self._queue or self._unread:  # what only its memory holds would be lost with it
            return
        self._plan.save()
        self._note(how)
        if how == "relaunch":
            sys.exit(AGAIN)
        signal.set_wakeup_fd(-1)
        os.execv(sys.executable, sys.orig_argv)

    def _stop(self, seconds: float) -> None:
        """Stops until a helper, which is no part of the foreground, lets it go on. The helper does
        so again and again: the first time may come before the stop."""
        wake = f"while sleep {seconds:.3f}; do kill -CONT {os.getpid()} || exit; done"
        helper = subprocess.Popen(["/bin/sh", "-c", wake], start_new_session=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.killpg(helper.pid, signal.SIGKILL)
        helper.wait()

    def _tick(self) -> None:
        self._set_tick()
        self._suffer("tick")

    def _set_tick(self) -> None:
        if self._plan.ticks:
            self._due["tick"] = time.monotonic() + self._plan.uniform(0.0, 2 * self._plan.ticks)

    # -- the rest

    def _do_what_is_due(self) -> None:
        handlers: dict[str, Callable[[], None]] = {
            "turn": self._turn_ended,
            "dialog": self._dialog_closed,
            "human": self._human_gone,
            "paint": lambda: None,
            "tick": self._tick,
        }
        now = time.monotonic()
        for name in [name for name, at in self._due.items() if at <= now]:
            del self._due[name]
            handlers[name]()

    def _clear(self) -> None:
        self._pieces.clear()
        self._human = ""
        self._due.pop("human", None)
        self._changed()

    def _changed(self) -> None:
        self._view.draft = "".join(shown for shown, _ in self._pieces) + self._human
        self._changed_at = time.monotonic()
        self._stale = True

    def _draw(self) -> None:
        if self._stale and "paint" not in self._due:
            width, height = os.get_terminal_size(1)
            self._write(frame(self._view, width, height))
            self._stale = False

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(1, data) :]

    def _note(self, event: str, **more: object) -> None:
        line = json.dumps({"at": time.time(), "event": event, **more}) + "\n"
        os.write(self._record, line.encode())
        os.fdatasync(self._record)


def _entries(text: str) -> list[list[str]]:
    """[moment, fault, number] of each entry of a list."""
    entries = []
    for item in filter(None, text.split(",")):
        moment, _, rest = item.partition(":")
        fault, _, number = rest.partition("=")
        assert fault in _FAULTS or fault == "-", item
        entries.append([moment, fault, number])
    return entries


def main() -> None:
    """Runs until the terminal ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("record")
    parser.add_argument("--turn", nargs=2, type=float, default=(0.05, 0.1))
    parser.add_argument("--script", default="")
    parser.add_argument("--chances", default="")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--ticks", type=float, default=0.0)
    Agent(parser.parse_args()).run()


main()
