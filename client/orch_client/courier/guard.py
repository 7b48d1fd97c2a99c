"""The tests that the tmux server makes before it acts: a compare-and-set for each pane.

tmux runs one command at a time, so a test and what follows it cannot be torn apart. Three options
of the pane hold the last number that was used, pasted and entered. A number enters a pane once,
whoever repeats it, however late. The options' names carry the store's generation, so that another
store's numbers are not compared with these.

Every part of these strings is a number, an id, a word of ours or an option's name; text and names
never are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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

    def may_paste(self) -> str:
        """A format: the pane lives, shows no mode, runs what was seen, and the number is fresh."""
        return _all(self.same_incarnation(), self._ready(), self.fresh())

    def may_burn(self) -> str:
        """A format: the number is fresh, in the right incarnation."""
        return _all(self.same_incarnation(), self.fresh())

    def may_enter(self) -> str:
        """A format: this number's text is in, its Enter was not sent, the pane is ready."""
        text_is_in = f"#{{==:#{{{self.pasted}}},{self.sequence}}}"
        not_entered = f"#{{e|>|:{self.sequence},#{{{self.entered}}}}}"
        return _all(self.same_incarnation(), self._ready(), text_is_in, not_entered)

    def status(self) -> str:
        """A format that prints what the tests looked at."""
        return (
            f"#{{pid}}.#{{start_time}} #{{pane_dead}} #{{pane_in_mode}} s#{{{self.used}}}"
            f" p#{{{self.pasted}}} e#{{{self.entered}}}"
            f" #{{==:#{{pane_current_command}},#{{{self.expected}}}}}"
        )

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
    same_command: bool

    @classmethod
    def parse(cls, line: str) -> Status:
        """Raises ValueError when the line is not a status."""
        at, dead, mode, used, pasted, entered, same = line.strip().split(" ")
        return cls(
            incarnation=at,
            dead=dead == "1",
            in_mode=mode not in ("", "0"),
            used=int(used[1:] or 0),
            pasted=int(pasted[1:] or 0),
            entered=int(entered[1:] or 0),
            same_command=same == "1",
        )


def _all(*tests: str) -> str:
    """A format: all of the tests hold. `&&` takes two in tmux 3.2."""
    joined = tests[-1]
    for test in reversed(tests[:-1]):
        joined = f"#{{&&:{test},{joined}}}"
    return joined
