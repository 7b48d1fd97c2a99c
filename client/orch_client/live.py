"""The screen of `top`: draws what a Feed has. The only module that needs the extra `top`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import FormattedTextControl, Layout, Window

from orch_client import view
from orch_client.feed import Feed
from orch_client.lines import Line, clip

_STYLES = {
    "": "",
    "title": "bold",
    "good": "ansigreen",
    "calm": "ansicyan",
    "new": "ansiblue",
    "warn": "bold ansiyellow",
    "limit": "bold ansimagenta",
    "bad": "bold ansired",
    "quiet": "dim",
}
_TICK = 1.0  # seconds; ages grow
_END = 1_000_000_000


class Live:
    """Draws until somebody quits."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._first = self._page = 0
        self._app: Application[None] = Application(
            layout=Layout(Window(FormattedTextControl(self._text, show_cursor=False))),
            key_bindings=self._keys(),
            full_screen=True,
            refresh_interval=_TICK,
        )
        feed.on_change = self._app.invalidate

    async def run(self) -> None:
        """Returns when somebody quits, or at SIGTERM or SIGHUP. Raises ClientError when the server
        refuses. The terminal is then as it was."""
        keeper = asyncio.create_task(self._feed.keep())
        keeper.add_done_callback(self._ended)
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._quit)
        try:
            await self._app.run_async(set_exception_handler=False)
        except EOFError:
            return  # the terminal is gone
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    def _quit(self, error: BaseException | None = None) -> None:
        if self._app.is_running and not self._app.is_done:
            if error is None:
                self._app.exit()
            else:
                self._app.exit(exception=error)

    def _ended(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled():
            self._quit(keeper.exception())

    # ---- keys ----

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        for key in ("q", "c-c", "<sigint>"):
            keys.add(key)(lambda event: self._quit())
        moves: dict[str, Callable[[], int]] = {
            "up": lambda: -1,
            "down": lambda: 1,
            "pageup": lambda: -self._page,
            "pagedown": lambda: self._page,
            "home": lambda: -_END,
            "end": lambda: _END,
        }
        for key, by in moves.items():
            keys.add(key)(self._mover(by))
        return keys

    def _mover(self, by: Callable[[], int]) -> Callable[[KeyPressEvent], None]:
        def move(event: KeyPressEvent) -> None:
            self._first += by()

        return move

    # ---- the picture ----

    def _text(self) -> StyleAndTextTuples:
        """All that the terminal has room for, in prompt_toolkit's styles."""
        size = self._app.output.get_size()
        shown: StyleAndTextTuples = []
        for line in self._lines(size.columns, size.rows):
            shown += [(_STYLES[style], text) for style, text in (*line, ("", "\n"))]
        return shown[:-1]

    def _lines(self, width: int, height: int) -> list[Line]:
        self._page = max(1, height - 1)
        room = self._page - bool(self._feed.lost)
        lines = view.screen(self._feed.answer, self._feed.now, width, room)
        self._first = max(0, min(self._first, len(lines) - room))
        shown = lines[self._first : self._first + room]
        if self._feed.lost:
            away = ("bad", f"server unreachable since {self._feed.lost}; this is how it was")
            shown = [clip([away], width), *(_faded(line) for line in shown)]
        empty: list[Line] = [[]] * (self._page - len(shown))
        return [*shown, *empty, clip([("quiet", self._help(len(lines), room))], width)]

    def _help(self, lines: int, room: int) -> str:
        if lines <= room:
            return "q quits"
        return f"q quits  arrows scroll: {self._first + 1}-{self._first + room} of {lines}"


def _faded(line: Line) -> Line:
    return [("quiet", text) for _, text in line]
