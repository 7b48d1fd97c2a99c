"""Runs in a pane under an agent's name and shows recorded screens, as it is told through a FIFO.

    python claude FIFO

"show FILE" draws a recorded screen, "exit N" ends it, "say TEXT" prints a line. Standard library
only.
"""

import os
import sys
from pathlib import Path

# For writing too, so that it never ends: an order that came between two openings would be lost.
with os.fdopen(os.open(sys.argv[1], os.O_RDWR)) as orders:
    for order in orders:
        word, _, rest = order.rstrip("\n").partition(" ")
        if word == "exit":
            sys.exit(int(rest))
        text = f"{rest}\r\n"
        if word == "show":
            screen = Path(rest).read_text("utf-8").partition("\n---\n")[2].rstrip("\n")
            text = "\x1b[0m\x1b[H\x1b[2J" + screen.replace("\n", "\r\n")
        sys.stdout.write(text)
        sys.stdout.flush()
