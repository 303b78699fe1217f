"""What a chunk server counts for Prometheus: plain integers on the hot path, metrics when asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gfs.chunkserver.push_chain import ReplicaReader
from gfs.errors import ChecksumMismatch
from gfs.telemetry import Metrics, logger
from gfs.vocabulary import ChunkHandle, ChunkVersion

_log = logger("chunkserver")

Gauge = Callable[[], float]


class Tallies(Collector):
    """Counters of one chunk server; gauges are read when the metrics are asked for."""

    def __init__(self) -> None:
        self.mutations = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.acknowledged = 0
        self.checksum_errors = 0
        self.flushes = 0
        self.flush_seconds = 0.0
        self._gauges: dict[str, tuple[str, Gauge]] = {}

    def mutation_applied(self, length_bytes: int) -> None:
        self.mutations += 1
        self.bytes_in += length_bytes

    def write_acknowledged(self) -> None:
        self.acknowledged += 1

    def flushed(self, seconds: float) -> None:
        self.flushes += 1
        self.flush_seconds += seconds

    def publish(self, metrics: Metrics, gauges: dict[str, tuple[str, Gauge]]) -> None:
        """Show these in `metrics`; `gauges`: name -> (help, reader)."""
        self._gauges = gauges
        metrics.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        for name, help_text, value in (
            ("mutations", "Mutations applied to replicas here", self.mutations),
            ("writes_acknowledged", "Writes acknowledged as primary", self.acknowledged),
            ("mutation_bytes", "Bytes applied to replicas here", self.bytes_in),
            ("read_bytes", "Bytes read for clients and servers, verified here or there", self.bytes_out),
            (
                "checksum_errors",
                "Reads refused because a block did not match its checksum",
                self.checksum_errors,
            ),
            ("flushes", "Group commits of the flush loop", self.flushes),
            ("flush_seconds", "Time spent in group commits of the flush loop", self.flush_seconds),
        ):
            yield CounterMetricFamily(f"gfs_chunkserver_{name}", help_text, value=value)
        for name, (help_text, read) in self._gauges.items():
            yield GaugeMetricFamily(f"gfs_chunkserver_{name}", help_text, value=read())


class CountedReads:
    """The reads of a replica store, counted. Called from many threads."""

    def __init__(self, replicas: ReplicaReader, tallies: Tallies) -> None:
        self._replicas = replicas
        self._tallies = tallies
        self._lock = threading.Lock()

    def committed_length(self, handle: ChunkHandle, version: ChunkVersion, *, wanted_bytes: int = 0) -> int:
        """As ReplicaReader.committed_length."""
        return self._replicas.committed_length(handle, version, wanted_bytes=wanted_bytes)

    def read_into(self, handle: ChunkHandle, version: ChunkVersion, offset: int, buffer: memoryview) -> int:
        """As ReplicaReader.read_into."""
        try:
            got = self._replicas.read_into(handle, version, offset, buffer)
        except ChecksumMismatch as error:
            with self._lock:
                self._tallies.checksum_errors += 1
            _log.error("a block does not match its checksum", chunk=f"{handle:x}", error=error.message)
            raise
        self._count(got)
        return got

    def checksums(
        self, handle: ChunkHandle, version: ChunkVersion, offset: int, length: int
    ) -> Sequence[int] | None:
        """As ReplicaReader.checksums."""
        return self._replicas.checksums(handle, version, offset, length)

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        """As ReplicaReader.send."""
        sent = self._replicas.send(handle, out, offset, length)
        self._count(sent)
        return sent

    def _count(self, length_bytes: int) -> None:
        with self._lock:
            self._tallies.bytes_out += length_bytes
