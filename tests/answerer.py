"""Runs in a pane: reads what is typed up to each Enter, shows it, and answers."""

import os
import sys
import tty

tty.setraw(0)
typed = b""
while data := os.read(0, 65536):
    *whole, typed = (typed + data).split(b"\r")
    for text in whole:
        shown = text.replace(b"\n", b"\r\n")
        answer = f"\r\nYou said {len(text)} bytes.\r\nThat is all.\r\n".encode()
        sys.stdout.buffer.write(shown + answer)
        sys.stdout.buffer.flush()
