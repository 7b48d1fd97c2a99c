"""`metrics`: what the server hears, and what people read."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta

import pytest

from orch.v1 import metrics_pb2 as pb
from tests.client.terminal import Terminal

_METHOD = "GetMetrics"


def _answer() -> pb.GetMetricsResponse:
    points = [pb.MetricPoint(value=n, samples=1) for n in range(8)]
    return pb.GetMetricsResponse(
        metrics=[
            pb.Metric(
                name="idle_percent",
                unit="%",
                value=12.345,
                samples=30,
                target=10,
                goal=pb.METRIC_GOAL_AT_MOST,
                reached=False,
                points=[pb.MetricPoint(), *points],
            ),
            pb.Metric(
                name="commits_per_hour",
                unit="1/h",
                value=1234.5,
                samples=9,
                target=4,
                goal=pb.METRIC_GOAL_AT_LEAST,
                reached=True,
            ),
            pb.Metric(name="authorization_seconds", unit="s", value=130),
            pb.Metric(name="phase_hours", unit="h"),
        ],
        notes=["Commits in /srv\x1b[31m are not counted."],
    )


def _read(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()[2:]


def test_figures_stand_beside_their_targets_with_their_course(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    request = terminal.run(_METHOD, _answer(), "metrics", "--session", "atlas", "--period", "day")
    assert (request.session, request.period) == ("atlas", pb.METRIC_PERIOD_DAY)
    assert abs(time.time() - 86_400 - request.since.seconds) < 60
    assert _read(capsys) == [
        "FIGURE                 VALUE     TARGET            SAMPLES  COURSE",
        "idle percent           12.3 %    <= 10 %  missed   30       ·▁▂▃▄▅▆▇█",
        "commits per hour       1234/h    >= 4/h   reached  9",
        "authorization seconds  2.17 min  -                 0",
        "phase hours            unknown   -                 0",
        "",
        "Commits in /srv [31m are not counted.",
    ]


def test_a_narrow_terminal_shows_no_course_or_its_newest_part(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns, course in (("40", ""), ("68", "▁▂▃▄▅▆▇█")):
        monkeypatch.setenv("COLUMNS", columns)
        terminal.run(_METHOD, _answer(), "metrics")
        assert _read(capsys)[1].partition(" 30")[2].strip() == course


def test_json_is_what_the_api_returns(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.run(_METHOD, _answer(), "metrics", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"][0]["reached"] is False
    assert "value" not in found["metrics"][3]


def test_since_is_a_duration_a_time_of_day_or_a_date(terminal: Terminal) -> None:
    now = datetime.now().astimezone()
    earlier, later = (now + timedelta(minutes=m) for m in (-10, 10))
    for given, ago in (
        ("90m", 5400.0),
        (f"{earlier:%H:%M}", 600.0),
        (f"{later:%H:%M}", 85_800.0),
        (f"{now - timedelta(days=3):%Y-%m-%dT%H:%M}", 259_200.0),
    ):
        since = terminal.run(_METHOD, _answer(), "metrics", "--since", given).since
        apart = abs(now.timestamp() - ago - since.seconds)
        assert apart < 3720, given  # the clocks may change in between


@pytest.mark.parametrize("given", ["soon", "-1d", "25:00", "0", "9" * 400])
def test_what_is_no_time_is_refused(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert terminal.start("metrics", f"--since={given}").result(10) == 2
    assert "use a duration such as 90m or 7d" in capsys.readouterr().err
