"""Following a stream of the server: how a person ends it."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.support import Home, Server

#: A stream that holds on to whatever is raised in it, as gRPC's locks can.
SCRIPT = """
import time
from orch_client.commands.follow import follow

def watch(channel, timeout, metadata):
    print("watching", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
        yield

follow(watch, lambda message: None, lambda: False, None)
"""


def test_ctrl_c_ends_it_at_once_whatever_grpc_does(home: Home, server: Server) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=home.env(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "watching\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        finally:
            process.kill()
