"""Which chunks wait for a clone, in which order they get one, and when a failed one is tried again. Volatile.

Invariants: a chunk waits in one place at most, never while it is active; the clones under way are at most
`limits.active_max`, and at most `limits.per_server_max` on one server, as source or as target; while a chunk
with one good replica can be helped, no clone of another chunk begins.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from gfs.master.core.clone_task import CloneTask
from gfs.master.core.repair import LAST_COPY
from gfs.settings import CLONE_FAILURES_KEPT, CLONES_WAITING_MAX
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId

RETRY_SECONDS_FIRST = 1.0
RETRY_SECONDS_LAST = 120.0
RATE_WINDOW_SECONDS = 60.0
RATE_SAMPLES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """How many clones may be under way at once: in the cluster, on one server, and of those, rebalancing."""

    active_max: int
    per_server_max: int
    rebalancing_max: int


@dataclass(frozen=True, slots=True)
class Need:
    """A chunk that waits for a clone. `since`: when it was first found."""

    inode: InodeId
    index: ChunkIndex
    handle: ChunkHandle
    priority: int
    since: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last try came to nothing, and when the next may begin."""

    message: str
    tries: int
    again_at: float


@dataclass(frozen=True, slots=True)
class Active:
    task: CloneTask
    source: ServerId
    began_at: float


class RepairQueue:
    """Told what the scan finds; asked what to do next."""

    def __init__(self, limits: Limits) -> None:
        assert limits.per_server_max > 0 and 0 < limits.rebalancing_max <= limits.active_max
        self.limits = limits
        self.left_out = (
            0  # needs dropped since the last walk began, because more urgent ones filled the queue
        )
        self._buckets: dict[int, OrderedDict[ChunkHandle, Need]] = {}
        self._priorities: dict[ChunkHandle, int] = {}
        self._active: dict[ChunkHandle, Active] = {}
        self._failures: OrderedDict[ChunkHandle, Failure] = OrderedDict()
        self._done: deque[float] = deque(maxlen=RATE_SAMPLES_MAX)
        self.done_total = 0
        self.failed_total = 0

    # --- what is needed ------------------------------------------------------------------------

    def want(self, need: Need) -> None:
        """Remember or change a need. If too many wait the least urgent is dropped: the next walk finds it."""
        known = self._need(need.handle)
        if known is not None:
            need = replace(need, since=known.since)
            self.discard(need.handle)
        if need.handle in self._active:
            return
        if len(self._priorities) >= CLONES_WAITING_MAX:
            lowest = min(self._buckets)
            self.left_out += 1
            if need.priority <= lowest:
                return
            self.discard(next(reversed(self._buckets[lowest])))
        self._buckets.setdefault(need.priority, OrderedDict())[need.handle] = need
        self._priorities[need.handle] = need.priority

    def discard(self, handle: ChunkHandle) -> None:
        """This chunk waits no more."""
        priority = self._priorities.pop(handle, None)
        if priority is not None:
            bucket = self._buckets[priority]
            del bucket[handle]
            if not bucket:
                del self._buckets[priority]

    def in_order(self) -> Iterator[Need]:
        """All that wait, most urgent first, then the longest known. The queue must not change meanwhile."""
        for priority in sorted(self._buckets, reverse=True):
            yield from self._buckets[priority].values()

    def due(self, *, now: float, look_at_max: int) -> list[Need]:
        """Up to `look_at_max` that may be tried now, most urgent first.

        None after those with one good replica, while one of these is being helped or waits for its first try.
        """
        found: list[Need] = []
        hold = any(active.task.priority >= LAST_COPY for active in self._active.values())
        for need in self.in_order():
            if len(found) >= look_at_max or (hold and need.priority < LAST_COPY):
                break
            failure = self._failures.get(need.handle)
            if failure is None or failure.again_at <= now:
                found.append(need)
                # One that keeps failing has been given its try: others do not wait for it.
                hold = hold or (need.priority >= LAST_COPY and failure is None)
        return found

    # --- what is done --------------------------------------------------------------------------

    def has_room(self, *, rebalancing: bool = False) -> bool:
        if rebalancing:
            moves = sum(active.task.reason == "rebalance" for active in self._active.values())
            if moves >= self.limits.rebalancing_max:
                return False
        return len(self._active) < self.limits.active_max

    def load(self, server: ServerId) -> int:
        """How many clones this server gives or receives now."""
        return sum(server in (active.source, active.task.target) for active in self._active.values())

    def is_busy(self, server: ServerId) -> bool:
        return self.load(server) >= self.limits.per_server_max

    def begin(self, task: CloneTask, source: ServerId, *, now: float) -> None:
        assert self.has_room() and task.handle not in self._active
        assert not self.is_busy(task.target) and not self.is_busy(source)
        self.discard(task.handle)
        self._active[task.handle] = Active(task, source, now)

    def succeed(self, handle: ChunkHandle, *, now: float) -> None:
        del self._active[handle]
        self._failures.pop(handle, None)
        self._done.append(now)
        self.done_total += 1

    def fail(self, handle: ChunkHandle, message: str, *, now: float) -> None:
        """It is tried again later, each time after twice as long."""
        self._active.pop(handle, None)
        before = self._failures.pop(handle, None)
        tries = 1 if before is None else before.tries + 1
        wait = min(RETRY_SECONDS_FIRST * 2.0 ** min(tries - 1, 30), RETRY_SECONDS_LAST)
        self._failures[handle] = Failure(message, tries, now + wait)
        self.failed_total += 1
        while len(self._failures) > CLONE_FAILURES_KEPT:
            self._failures.popitem(last=False)

    def retry_soon(self) -> None:
        """The servers have changed: what failed may succeed now."""
        for handle, failure in self._failures.items():
            self._failures[handle] = replace(failure, again_at=0.0)

    def forgive(self, handles: Iterable[ChunkHandle]) -> None:
        """These need nothing any more."""
        for handle in handles:
            self._failures.pop(handle, None)

    def has_hope(self) -> bool:
        """Whether some chunk waits whose last try did not fail."""
        return any(handle not in self._failures for handle in self._priorities)

    # --- what can be said of it ----------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._priorities)

    @property
    def active(self) -> list[Active]:
        return list(self._active.values())

    def is_active(self, handle: ChunkHandle) -> bool:
        return handle in self._active

    def failure(self, handle: ChunkHandle) -> Failure | None:
        return self._failures.get(handle)

    def position(self, handle: ChunkHandle) -> int | None:
        """How many chunks are to be helped before this one; None when it does not wait."""
        priority = self._priorities.get(handle)
        if priority is None:
            return None
        ahead = sum(len(bucket) for other, bucket in self._buckets.items() if other > priority)
        return ahead + list(self._buckets[priority]).index(handle)

    def rate(self, *, now: float) -> float:
        """Clones completed a second, over the last RATE_WINDOW_SECONDS or since the first of them."""
        recent = [at for at in self._done if now - at < RATE_WINDOW_SECONDS]
        if len(recent) < 2:
            return 0.0
        return len(recent) / max(now - recent[0], 0.001)

    def seconds_left(self, chunks: int, *, now: float) -> float | None:
        """When so many clones will be done at the present rate; None when there is no rate yet."""
        rate = self.rate(now=now)
        return chunks / rate if rate > 0 else None

    def check_invariants(self) -> None:
        assert sum(len(bucket) for bucket in self._buckets.values()) == len(self._priorities)
        for priority, bucket in self._buckets.items():
            assert bucket
            for handle, need in bucket.items():
                assert need.handle == handle and need.priority == priority == self._priorities[handle]
                assert handle not in self._active
        assert len(self._priorities) <= CLONES_WAITING_MAX
        assert len(self._active) <= self.limits.active_max
        servers = {s for active in self._active.values() for s in (active.source, active.task.target)}
        assert all(self.load(server) <= self.limits.per_server_max for server in servers)

    def _need(self, handle: ChunkHandle) -> Need | None:
        priority = self._priorities.get(handle)
        return None if priority is None else self._buckets[priority][handle]
