"""MetricsService over gRPC."""

from __future__ import annotations

from typing import Any

from orch.v1 import metrics_pb2 as pb
from orch.v1.metrics_pb2_grpc import MetricsServiceServicer
from orch_server.core.metrics import Goal, Metric, Metrics, Period, Point
from orch_server.services.metrics import MetricsService
from orch_server.transport import convert


class MetricsServicer(MetricsServiceServicer):
    """Converts, calls, converts back."""

    def __init__(self, metrics: MetricsService) -> None:
        self._metrics = metrics

    async def GetMetrics(
        self, request: pb.GetMetricsRequest, context: Any
    ) -> pb.GetMetricsResponse:
        since = convert.to_datetime("since", request.since) if request.HasField("since") else None
        period = convert.word(pb.MetricPeriod, "METRIC_PERIOD_", request.period, Period, "period")
        return _response(await self._metrics.get(since, request.session, period))


def _response(found: Metrics) -> pb.GetMetricsResponse:
    return pb.GetMetricsResponse(
        metrics=[_metric(one) for one in found.metrics],
        begin_time=convert.timestamp(found.begins_at),
        end_time=convert.timestamp(found.ends_at),
        notes=found.notes,
    )


def _metric(one: Metric) -> pb.Metric:
    reached = None
    if one.value is not None and one.target is not None and one.goal is not Goal.NONE:
        below = one.goal is Goal.AT_MOST
        reached = one.value <= one.target if below else one.value >= one.target
    return pb.Metric(
        name=one.name,
        unit=one.unit,
        value=one.value,
        samples=one.samples,
        target=one.target,
        goal=pb.MetricGoal.Value(f"METRIC_GOAL_{one.goal or 'UNSPECIFIED'}"),
        reached=reached,
        description=one.description,
        points=[_point(point) for point in one.points],
    )


def _point(point: Point) -> pb.MetricPoint:
    return pb.MetricPoint(
        begin_time=convert.timestamp(point.begins_at), value=point.value, samples=point.samples
    )
