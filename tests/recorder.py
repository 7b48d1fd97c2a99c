"""Runs in a pane: puts the terminal into raw mode and writes every byte it reads into a file."""

import os
import sys
import tty

tty.setraw(0)
sink = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
while data := os.read(0, 65536):
    os.write(sink, data)
