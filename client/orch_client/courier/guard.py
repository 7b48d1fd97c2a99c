"""The tests that the tmux server makes before it acts: a compare-and-set for each pane.

tmux runs one command at a time, so a test and what follows it cannot be torn apart. Options of the
pane hold the last number that was used, pasted, entered, and entered once more. A number enters a
pane once, whoever repeats it, however late. The options' names carry the store's generation, so
that another store's numbers are not compared with these.

A paste may also be bound to the place of the cursor: when a person types or a dialog opens between
the look at the screen and the paste, the cursor has moved, and nothing is done.

Every part of these strings is a number, an id, a word of ours or an option's name; text and names
never are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Cursor = tuple[int, int]

_GENERATION = re.compile(r"[0-9a-f]{8}\Z")


@dataclass(frozen=True, slots=True)
class Guard:
    """The guard for one offer to one incarnation of one pane."""

    server_pid: int
    started: int
    pane: str
    generation: str
    sequence: int

    def __post_init__(self) -> None:
        if not _GENERATION.match(self.generation):
            raise ValueError("a generation is 8 hex digits")

    @property
    def used(self) -> str:
        """The option with the last number that was used, for a paste or to burn it."""
        return f"@orch_seq_{self.generation}"

    @property
    def pasted(self) -> str:
        """The option with the last number whose text entered the pane."""
        return f"@orch_pasted_{self.generation}"

    @property
    def entered(self) -> str:
        """The option with the last number whose Enter was sent."""
        return f"@orch_entered_{self.generation}"

    @property
    def rescued(self) -> str:
        """The option with the last number whose Enter was sent once more."""
        return f"@orch_rescued_{self.generation}"

    @property
    def owner(self) -> str:
        """The option with the image of the program that got the last text."""
        return "@orch_owner"

    @property
    def expected(self) -> str:
        """The option with the command that the courier saw in the pane. It is compared as a value,
        so that a command's name never stands in a format."""
        return "@orch_command"

    def same_incarnation(self) -> str:
        """A format: this is the tmux server that was meant."""
        return f"#{{==:#{{pid}}.#{{start_time}},{self.server_pid}.{self.started}}}"

    def fresh(self) -> str:
        """A format: this number was not used yet."""
        return f"#{{e|>|:{self.sequence},#{{{self.used}}}}}"

    def may_paste(self, cursor: Cursor | None = None) -> str:
        """A format: the pane lives, shows no mode, runs what was seen, and the number is fresh."""
        return _all(self.same_incarnation(), self._ready(), *_at(cursor), self.fresh())

    def may_burn(self) -> str:
        """A format: the number is fresh, in the right incarnation."""
        return _all(self.same_incarnation(), self.fresh())

    def may_enter(self, cursor: Cursor | None = None) -> str:
        """A format: this number's text is in, its Enter was not sent, the pane is ready."""
        not_entered = f"#{{e|>|:{self.sequence},#{{{self.entered}}}}}"
        return _all(
            self.same_incarnation(), self._ready(), *_at(cursor), self._has_text(), not_entered
        )

    def may_rescue(self, cursor: Cursor) -> str:
        """A format: this number's Enter was sent, and not yet once more; the pane is ready."""
        once = f"#{{==:#{{{self.entered}}},{self.sequence}}}"
        not_twice = f"#{{e|>|:{self.sequence},#{{{self.rescued}}}}}"
        return _all(
            self.same_incarnation(), self._ready(), *_at(cursor), self._has_text(), once, not_twice
        )

    def status(self) -> str:
        """A format that prints what the tests looked at."""
        return (
            f"#{{pid}}.#{{start_time}} #{{pane_dead}} #{{pane_in_mode}} s#{{{self.used}}}"
            f" p#{{{self.pasted}}} e#{{{self.entered}}} o#{{{self.owner}}}"
            f" #{{==:#{{pane_current_command}},#{{{self.expected}}}}}"
        )

    def _has_text(self) -> str:
        return f"#{{==:#{{{self.pasted}}},{self.sequence}}}"

    def _ready(self) -> str:
        alive = "#{==:#{pane_dead}#{pane_in_mode},00}"
        same_command = f"#{{==:#{{pane_current_command}},#{{{self.expected}}}}}"
        return _all(alive, same_command)


@dataclass(frozen=True, slots=True)
class Status:
    """What `Guard.status` printed."""

    incarnation: str
    dead: bool
    in_mode: bool
    used: int
    pasted: int
    entered: int
    owner: str
    same_command: bool

    @classmethod
    def parse(cls, line: str) -> Status:
        """Raises ValueError when the line is not a status."""
        at, dead, mode, used, pasted, entered, owner, same = line.strip().split(" ")
        return cls(
            incarnation=at,
            dead=dead == "1",
            in_mode=mode not in ("", "0"),
            used=int(used[1:] or 0),
            pasted=int(pasted[1:] or 0),
            entered=int(entered[1:] or 0),
            owner=owner[1:],
            same_command=same == "1",
        )


def _at(cursor: Cursor | None) -> tuple[str, ...]:
    return (
        () if cursor is None else (f"#{{==:#{{cursor_x}}.#{{cursor_y}},{cursor[0]}.{cursor[1]}}}",)
    )


def _all(*tests: str) -> str:
    """A format: all of the tests hold. `&&` takes two in tmux 3.2."""
    joined = tests[-1]
    for test in reversed(tests[:-1]):
        joined = f"#{{&&:{test},{joined}}}"
    return joined
