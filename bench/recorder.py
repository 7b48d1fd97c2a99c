"""Runs in a pane: reads raw keys, and writes the time of each read and what it read.

    python -S recorder.py FILE

A line of FILE, which all panes share: nanoseconds since 1970, the process id, the bytes in hex.
"""

import os
import sys
import time
import tty

tty.setraw(0)
sink = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
os.write(sink, b"0 %d \n" % os.getpid())  # it reads from now on
while data := os.read(0, 65536):
    now = time.time_ns()
    os.write(sink, b"%d %d %s\n" % (now, os.getpid(), data.hex().encode()))
