"""What a master shows of itself to Prometheus, read when asked for. Calls and commits count themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gfs.clock import Clock
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.replication_scan import ReplicationScan
from gfs.master.repair_duty import RepairDuty
from gfs.master.replication.checkpoints import CheckpointManifest
from gfs.master.replication.replicator import Replicator
from gfs.master.standing import Standing
from gfs.telemetry import Metrics


class MasterGauges(Collector):
    def __init__(
        self,
        metrics: Metrics,
        *,
        replicator: Replicator,
        locations: Locations,
        leases: LeaseTable,
        scan: ReplicationScan,
        repair: RepairDuty,
        clock: Clock,
        newest_checkpoint: Callable[[], CheckpointManifest | None],
        standing: Standing,
        grants: Mapping[str, int],
        lease_seconds: float,
        log_bytes: Callable[[], int],
        log_bytes_expected: int,
    ) -> None:
        """`grants`: those logged here, by kind. `log_bytes`: of the operation log on disk, of which the
        settings let `log_bytes_expected` gather."""
        self._replicator = replicator
        self._locations = locations
        self._leases = leases
        self._scan = scan
        self._repair = repair
        self._clock = clock
        self._newest_checkpoint = newest_checkpoint
        self._standing = standing
        self._grants, self._lease_seconds = grants, lease_seconds
        self._log_bytes, self._log_bytes_expected = log_bytes, log_bytes_expected
        self._started_ms = clock.wall_ms()
        metrics.registry.register(self)

    def describe(self) -> Iterator[Metric]:
        return iter(())  # so that registering does not ask for values before there are any

    def collect(self) -> Iterator[Metric]:
        known = self._replicator.status()
        yield _gauge("gfs_is_leader", "1 on the master that leads", known.role == "leader" and known.ready)
        yield _gauge("gfs_quarantined", "1 while this state is not to be trusted", self._standing.untrusted)
        yield _gauge("gfs_raft_term", "Raft term", known.term)
        yield _gauge("gfs_applied_index", "Last log entry in the state", known.applied)
        yield _gauge("gfs_commit_index", "Last log entry known to be on a majority", known.committed)
        voters = sum(member.voter for member in self._replicator.members())
        yield _gauge("gfs_masters_voting", "Masters that vote, by this master's log", voters)
        yield _gauge(
            "gfs_masters_reachable", "Masters connected, this one included", len(known.reachable) + 1
        )
        alive = len(self._locations.alive(now=self._clock.monotonic()))
        yield _gauge("gfs_chunkservers_alive", "Chunk servers heard of lately", alive)
        yield _gauge("gfs_chunkservers_known", "Chunk servers heard of", len(self._locations.servers()))
        yield _gauge("gfs_leases", "Leases known here", len(self._leases))
        yield _gauge("gfs_lease_seconds", "How long a lease lasts unless it is extended", self._lease_seconds)
        grants = CounterMetricFamily("gfs_grants", "Grants of chunks logged by this master", labels=["kind"])
        for kind, number in self._grants.items():
            grants.add_metric([kind], number)
        yield grants
        yield _gauge("gfs_log_bytes", "Operation log on disk", self._log_bytes())
        yield _gauge(
            "gfs_log_bytes_expected", "What it may grow to between checkpoints", self._log_bytes_expected
        )
        count = self._scan.result
        if count is not None:
            yield _gauge("gfs_chunks", "Chunks at the last scan", count.chunks)
            yield _gauge("gfs_chunks_under_replicated", "Chunks with replicas missing", count.short)
            yield _gauge("gfs_chunks_last_replica", "Chunks with one replica left", count.lonely)
            yield _gauge("gfs_chunks_unavailable", "Chunks without a living replica", count.lost)
        queue = self._repair.queue
        yield _gauge("gfs_clones_active", "Clones under way", len(queue.active))
        yield _gauge("gfs_clones_waiting", "Chunks that wait for a clone", queue.waiting)
        yield _gauge("gfs_clones_made", "Clones made in this term", queue.done_total)
        yield _gauge("gfs_clones_failed", "Clones that failed in this term", queue.failed_total)
        newest = self._newest_checkpoint()
        made_at_ms = newest.made_at_ms if newest is not None else self._started_ms
        age = max(0.0, (self._clock.wall_ms() - made_at_ms) / 1000)
        yield _gauge(
            "gfs_checkpoint_age_seconds", "Since the newest checkpoint, or the start without one", age
        )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
