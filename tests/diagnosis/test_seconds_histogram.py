"""A histogram of seconds says to Prometheus what prometheus_client's own would say."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from gfs.telemetry import Metrics, SecondsHistogram

BOUNDS = (0.001, 0.01, 0.5, 1.0)


def test_buckets_count_and_sum_are_those_of_an_ordinary_histogram() -> None:
    metrics, registry = Metrics(), CollectorRegistry()
    ours = SecondsHistogram("gfs_x_seconds", "how long", BOUNDS, metrics)
    theirs = Histogram("gfs_x_seconds", "how long", buckets=BOUNDS, registry=registry)
    for seconds in (0.0, 0.001, 0.0011, 0.25, 0.5, 0.75, 1.0, 40.0):
        ours.observe(seconds)
        theirs.observe(seconds)
    said = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
    assert [line for line in metrics.exposition().decode().splitlines() if "_created" not in line] == said
