"""Shows a text on the terminal of a pane where nothing is typed; the shell there sees nothing."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from orch_client.courier.look import Look
from orch_client.courier.offer import CONFIRMED, UNCONFIRMED, Outcome
from orch_client.courier.tmux import TmuxSilent
from orch_client.courier.work import SEEN, Work, answer, set_number, why

_SHOWN = "shown"  # stands for the image of a program that got the text


async def show(work: Work, seen: Look) -> Outcome:
    """Displays the offer's text. Raises what tmux raises."""
    guard, pane = work.guard, work.at.pane
    with _temporary_folder() as folder:
        note, done = Path(folder) / "note", Path(folder) / "done"
        note.write_bytes(_for_terminal(work.offer.text))
        # The folder's name has no character that a shell or a tmux format knows.
        command = f"cat '{note}' > '#{{pane_tty}}' 2>/dev/null && : > '{done}' || :"
        act = (
            f"{set_number(guard.used, guard)} ; {set_number(guard.pasted, guard)}"
            f" ; set-option -p -t {pane} {guard.owner} {_SHOWN}"
            f' ; run-shell -t {pane} "{command}"'
            f" ; display-message -p -t {pane} {SEEN}"
        )
        status = answer(
            await work.tmux.run(
                *work.expect(seen.command),
                *("if-shell", "-F", "-t", pane, guard.may_paste(), act, work.burn()),
            )
        )
        if status is not None:
            if status.pasted != work.offer.sequence:
                return why(status, guard)
            if status.owner == _SHOWN:
                return Outcome(CONFIRMED, "Displayed by an earlier attempt.")
            return Outcome(
                UNCONFIRMED, "The program that got the text has left its pane to a shell."
            )
        if not done.exists():
            return Outcome(UNCONFIRMED, "The pane's terminal did not take the text.")
    return Outcome(CONFIRMED, "Displayed; a shell is never typed into.")


def _for_terminal(text: str) -> bytes:
    """The text on lines of its own, whatever mode the terminal is in."""
    return ("\r\n" + text.replace("\n", "\r\n") + "\r\n").encode()


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    """A private folder for one text. Raises TmuxSilent when there is no room for it."""
    import tempfile  # 0.3 MB that a client without anything to show does without

    usual = tempfile.gettempdir()
    safe = re.fullmatch(r"[\w./-]+", usual, re.ASCII)  # a name that no shell can misread
    try:
        with tempfile.TemporaryDirectory(prefix="orch-", dir=usual if safe else "/tmp") as folder:  # noqa: S108
            yield folder
    except OSError as exc:
        raise TmuxSilent(f"no temporary file ({exc.strerror})") from exc
