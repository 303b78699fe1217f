"""What any program with a control port shows Prometheus of itself: its clock, and when certificates end."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gfs.clock import Clock, SystemClock
from gfs.telemetry import Metrics
from gfs.tls import TlsIdentity


class ProgramGauges(Collector):
    """`gfs_clock_timestamp_seconds` and `gfs_certificate_end_timestamp_seconds{of}`, read when asked for."""

    def __init__(self, metrics: Metrics, tls: TlsIdentity | None, clock: Clock | None = None) -> None:
        self._tls = tls
        self._clock = clock or SystemClock()
        metrics.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        now = self._clock.wall_ms() / 1000
        yield GaugeMetricFamily("gfs_clock_timestamp_seconds", "What the clock here says", value=now)
        ends = GaugeMetricFamily(
            "gfs_certificate_end_timestamp_seconds", "When a certificate used here ends", labels=["of"]
        )
        for whose, end in {} if self._tls is None else self._tls.ends().items():
            ends.add_metric([whose], end)
        yield ends
