"""The server's own pulse: stalls are told apart from idleness, and load from both."""

from __future__ import annotations

from orch_server.core.pulse import PULSE, Pulse


class _Server:
    """Runs and stands still; uses CPU as it is told."""

    def __init__(self, patience: float = 0.5) -> None:
        self.pulse = Pulse(patience)
        self.now = self.cpu = 0.0
        self.pulse.beat(0.0, 0.0)

    def run(self, seconds: float, busy: float) -> float:
        """Beats; returns the seconds of stalls that were told."""
        stalled = 0.0
        for _ in range(round(seconds / PULSE)):
            self.now, self.cpu = self.now + PULSE, self.cpu + busy * PULSE
            stalled += self.pulse.stall(self.now, self.cpu)
            self.pulse.beat(self.now, self.cpu)
        return stalled

    def stand(self, seconds: float, busy: float = 0.0) -> float:
        """No beat for so long; returns the seconds of the stall that is told then."""
        self.now, self.cpu = self.now + seconds, self.cpu + seconds * busy
        return self.pulse.stall(self.now, self.cpu)


def test_a_pulse_that_comes_in_time_is_no_stall() -> None:
    assert _Server().run(60, busy=0.1) == 0
    assert _Server().stand(PULSE + 0.5) == 0


def test_a_gap_is_told_once_and_in_full() -> None:
    server = _Server()
    assert server.stand(10 + PULSE) == 10
    assert server.stand(0.1) == 0
    server.pulse.beat(server.now, server.cpu)
    assert server.run(10, busy=0.1) == 0


def test_nobody_feels_a_pulse_that_has_not_begun() -> None:
    assert Pulse().stall(1000.0, 0.0) == 0


def test_a_busy_server_stretches_its_pace_after_five_seconds_and_not_before() -> None:
    server = _Server()
    server.run(4.75, busy=0.9)
    assert server.pulse.stretch == 1
    server.run(0.25, busy=0.9)
    assert server.pulse.stretch == 2
    server.run(60, busy=0.9)
    assert server.pulse.stretch == 16
    server.run(60, busy=0.1)
    assert server.pulse.stretch == 1


def test_a_server_that_was_stopped_was_not_idle() -> None:
    server = _Server()
    server.run(5, busy=0.9)
    for _ in range(5):
        server.run(1, busy=0.9)
        server.stand(60)
        server.pulse.beat(server.now, server.cpu)
    assert server.pulse.stretch == 2  # not 1, as of a server that had nothing to do


def test_a_server_that_blocks_itself_again_and_again_is_busy() -> None:
    server = _Server()
    for _ in range(6):
        assert server.stand(1.0, busy=1.0) == 0.75
        server.pulse.beat(server.now, server.cpu)
    assert server.pulse.stretch == 2
