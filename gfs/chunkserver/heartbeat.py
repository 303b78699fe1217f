"""Heartbeats of one chunk server to all masters (GFS §2.3, §4.5): state up, instructions down.

Each master is told by its own task, so that a slow or silent one delays no other. Who they are changes while
the cluster runs: the leader says so in its replies (known_masters). What is in force
(versions, leases, bytes) is decided elsewhere; here it is only told, and a leader's word passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from gfs.chunkserver.chunk_orders import ChunkOrders
from gfs.chunkserver.disk_identity import DiskIdentity
from gfs.chunkserver.gate import ServerKeys
from gfs.chunkserver.known_masters import KnownMasters
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.clock import Clock
from gfs.errors import GfsError, WrongCluster
from gfs.messages.heartbeat import GarbageReplica, Heartbeat, HeartbeatReply, HeldChunk, HeldLease
from gfs.settings import (
    CORRUPT_NAMED_MAX,
    DELETIONS_WAITING_MAX,
    GUESTS_NAMED_MAX,
    LEASES_NAMED_MAX,
    MASTERS_NAMED_MAX,
    REPORT_PAGE_CHUNKS,
    STORE_THREADS,
    UNSETTLED_NAMED_MAX,
)
from gfs.telemetry import logger
from gfs.transport.interface import RpcCaller
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClusterId, Term

_log = logger("chunkserver")
T = TypeVar("T")

CALL_SECONDS_MIN = 1.0  # a heartbeat that no master answers by then (or in two intervals) is given up
HURRY_SECONDS_MIN = 0.02  # between two heartbeats to one master, however much there is to tell
COLLECTED_AT_ONCE = STORE_THREADS // 2  # replicas: they share syncs, and leave threads to others
LOG_AGAIN_SECONDS = 10.0  # the same trouble with the same master is logged no more often


class RunBlocking(Protocol):
    """Runs blocking store work off the event loop's thread."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class CollectReplica(Protocol):
    async def __call__(self, garbage: GarbageReplica, *, term: Term, known_at: float) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What a chunk server says of itself in every heartbeat; `incarnation` is drawn at each start."""

    incarnation: str
    control: Address
    data: Address
    rack: str
    version: str


@dataclass(frozen=True, slots=True)
class _Named:
    """A replica to delete, on the word of which leader, and when the heartbeat it answered was written."""

    garbage: GarbageReplica
    term: Term
    known_at: float


@dataclass(slots=True)
class _Report:
    """A full list on its way, page by page. `cursor`: changes after it are not in the list."""

    chunks: list[HeldChunk]
    cursor: int
    page: int = 0


@dataclass(slots=True)
class _MasterLink:
    """What one master has acknowledged, and how the last heartbeat to it went."""

    address: Address
    cursor: int = -1  # -1: it has no full report yet
    report: _Report | None = None
    told_at: float = 0.0  # when the last acknowledged heartbeat was written
    heard_at: float | None = None
    trouble: str = "has not been reached yet"
    logged: str = ""
    logged_at: float = field(default=-LOG_AGAIN_SECONDS)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class _News:
    """The part of a heartbeat that comes from the disk, gathered in a worker thread."""

    total_bytes: int
    free_bytes: int
    chunk_count: int
    corrupt: list[ChunkHandle]
    guests: list[HeldChunk]
    unsettled: list[ChunkHandle]
    changed: list[HeldChunk]
    removed: list[ChunkHandle]
    cursor: int
    report: _Report | None


class Heartbeats:
    """Tells every master of this server until stop(); knows whether any of them has it registered."""

    def __init__(
        self,
        masters: KnownMasters,
        announcement: Announcement,
        identity: DiskIdentity,
        replicas: ReplicaStore,
        orders: ChunkOrders,
        caller: RpcCaller,
        clock: Clock,
        *,
        in_worker: RunBlocking,
        collect: CollectReplica,
        heartbeat_seconds: float,
        registered_seconds: float,
        join: Callable[[ClusterId], bool],
        keys: ServerKeys | None = None,
    ) -> None:
        assert heartbeat_seconds > 0
        self._announcement = announcement
        self._identity = identity
        self._replicas = replicas
        self._orders = orders
        self._caller = caller
        self._clock = clock
        self._in_worker = in_worker
        self._collect = collect
        self._heartbeat_seconds = heartbeat_seconds
        self._registered_seconds = registered_seconds
        self._join = join
        self._keys = keys
        self._masters = masters
        self._links = {address: _MasterLink(address) for address in masters.at_start}
        self._leader_term = Term(0)  # highest a leader has spoken with; older ones are not obeyed (I3)
        self._leader_heard_at = float("-inf")
        self._garbage: dict[ChunkHandle, _Named] = {}
        self._garbage_waits = asyncio.Event()
        self._collecting: asyncio.Task[None] | None = None

    @property
    def masters(self) -> list[Address]:
        """Those that are told at present."""
        return list(self._links)

    def start(self) -> None:
        assert self._collecting is None
        self._collecting = asyncio.get_running_loop().create_task(self._collect_for_ever())
        for link in self._links.values():
            self._start_telling(link)

    async def stop(self) -> None:
        tasks = [task for task in (self._collecting, *(link.task for link in self._links.values())) if task]
        self._collecting = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def readiness(self) -> tuple[bool, str]:
        """Whether a master of this cluster has this server registered with all its chunks; if not, why."""
        now = self._clock.monotonic()
        for link in self._links.values():
            is_heard = link.heard_at is not None and now - link.heard_at < self._registered_seconds
            if is_heard and link.cursor >= 0:
                return True, ""
        troubles = "; ".join(
            f"{link.address} {link.trouble or 'has no full report'}" for link in self._links.values()
        )
        return False, f"not registered with any master: {troubles}"

    def hurry(self) -> None:
        """There is something that cannot wait for the next interval: tell every master now."""
        for link in self._links.values():
            link.hurry.set()

    # --- who the masters are --------------------------------------------------------------------

    def _start_telling(self, link: _MasterLink) -> None:
        link.task = asyncio.get_running_loop().create_task(self._tell_for_ever(link))

    def _add(self, addresses: Sequence[Address]) -> None:
        for address in addresses:
            if address not in self._links and len(self._links) < 2 * MASTERS_NAMED_MAX:
                self._links[address] = link = _MasterLink(address)
                self._start_telling(link)
                _log.info("a master is told from now on", master=address)

    def _drop_all_but(self, addresses: Sequence[Address]) -> None:
        for address in [address for address in self._links if address not in addresses]:
            link = self._links.pop(address)
            if link.task is not None and link.task is not asyncio.current_task():
                link.task.cancel()  # the present one ends by itself, see _tell_for_ever
            _log.info("a master is told no more: it is none of the cluster's any more", master=address)

    async def _follow(self, reply: HeartbeatReply) -> None:
        """Tell whom the leader names and nobody else; a follower's word only adds (see known_masters)."""
        named = list(dict.fromkeys(reply.masters))[:MASTERS_NAMED_MAX]
        if reply.is_leader and reply.term >= self._leader_term:
            self._leader_heard_at = self._clock.monotonic()
            if named:
                self._add(named)
                self._drop_all_but(named)
                await self._in_worker(lambda: self._masters.remember(named, reply.cluster))
        elif not self._hears_leader():
            self._add(named)

    def _hears_leader(self) -> bool:
        return self._clock.monotonic() - self._leader_heard_at < self._registered_seconds

    # --- one master -----------------------------------------------------------------------------

    async def _tell_for_ever(self, link: _MasterLink) -> None:
        while self._links.get(link.address) is link:
            if not self._hears_leader():
                self._add(self._masters.seeds)  # the cluster may have been restored where it began
            began = self._clock.monotonic()
            link.hurry.clear()  # what is found from now on may have missed this heartbeat
            try:
                more = await self._tell(link)
            except GfsError as error:
                more = False
                self._note_trouble(link, error)
            except Exception:
                more = False
                link.trouble = "could not be told because of an internal fault"
                _log.exception("a heartbeat failed unexpectedly", master=link.address)
            if not more:
                passed = self._clock.monotonic() - began
                await self._rest(link, max(0.0, self._heartbeat_seconds - passed))

    async def _rest(self, link: _MasterLink, seconds: float) -> None:
        await self._clock.sleep(min(seconds, HURRY_SECONDS_MIN))
        if seconds <= HURRY_SECONDS_MIN:
            return
        rest = asyncio.ensure_future(self._clock.sleep(seconds - HURRY_SECONDS_MIN))
        hurried = asyncio.ensure_future(link.hurry.wait())
        try:
            await asyncio.wait((rest, hurried), return_when=asyncio.FIRST_COMPLETED)
        finally:
            rest.cancel()
            hurried.cancel()

    async def _tell(self, link: _MasterLink) -> bool:
        """Send one heartbeat and do what the answer says; True when there is more to tell at once."""
        news = await self._in_worker(lambda: self._gather(link))
        told_at = self._clock.monotonic()
        leases = self._orders.held_leases(now=told_at, active_since=link.told_at)[:LEASES_NAMED_MAX]
        beat = self._compose(news, leases)
        reply = await self._caller.call(
            link.address,
            beat,
            HeartbeatReply,
            deadline_seconds=max(CALL_SECONDS_MIN, 2 * self._heartbeat_seconds),
        )
        joined = self._join(reply.cluster)
        if link.trouble:
            _log.info("registered with a master", master=link.address, leader=reply.is_leader)
        link.heard_at, link.told_at, link.trouble, link.logged = told_at, told_at, "", ""
        if self._keys is not None:
            self._keys.hear(reply.capability_keys, from_leader=reply.is_leader)
        self._obey(reply, leases, told_at)
        await self._follow(reply)
        if joined:
            # It answered a server without a cluster; what it keeps of that is its own affair.
            link.cursor, link.report = -1, None
            return True
        return _note_acknowledged(link, news, report_wanted=reply.report_wanted)

    def _gather(self, link: _MasterLink) -> _News:
        """In a worker thread: what this master does not know yet."""
        replicas = self._replicas
        usage = replicas.usage()
        report, changed, removed, cursor = link.report, [], [], link.cursor
        if report is None and cursor >= 0:
            changes = replicas.reports.changes_since(cursor)
            if changes.complete and len(changes.changed) + len(changes.removed) <= REPORT_PAGE_CHUNKS:
                changed, removed, cursor = changes.changed, changes.removed, changes.cursor
            else:
                cursor = -1
        if report is None and cursor < 0:
            # The cursor first: what changes while the list is made is told again as a change.
            start = replicas.reports.changes_since(max(link.cursor, 0)).cursor
            report = _Report(list(replicas.reports.inventory()), start)
        return _News(
            total_bytes=usage.total_bytes,
            free_bytes=usage.free_bytes,
            chunk_count=replicas.chunk_count,
            corrupt=_corrupt_to_name(replicas, changed, report),
            guests=replicas.guests.whole()[:GUESTS_NAMED_MAX],
            unsettled=replicas.reports.unsettled(limit=UNSETTLED_NAMED_MAX),
            changed=changed,
            removed=removed,
            cursor=cursor,
            report=report,
        )

    def _compose(self, news: _News, leases: list[HeldLease]) -> Heartbeat:
        beat = Heartbeat(
            server=self._identity.server,
            cluster=self._identity.cluster,
            incarnation=self._announcement.incarnation,
            control=self._announcement.control,
            data=self._announcement.data,
            rack=self._announcement.rack,
            version=self._announcement.version,
            disk_total_bytes=news.total_bytes,
            disk_free_bytes=news.free_bytes,
            chunk_count=news.chunk_count,
            leases=leases,
            changed=news.changed,
            removed=news.removed,
            corrupt=news.corrupt,
            guests=news.guests,
            unsettled=news.unsettled,
        )
        report = news.report
        if report is None:
            return beat
        return msgspec.structs.replace(
            beat, report_page=report.page, report=_page_of(report), report_last=_is_last_page(report)
        )

    # --- a leader's instructions ----------------------------------------------------------------

    def _obey(self, reply: HeartbeatReply, told: Sequence[HeldLease], told_at: float) -> None:
        if not reply.is_leader or reply.term < self._leader_term:
            return
        self._leader_term = reply.term
        versions: dict[ChunkHandle, ChunkVersion] = {lease.handle: lease.version for lease in told}
        for handle in reply.extended:
            if handle in versions:
                self._orders.extend(handle, versions[handle], now=told_at, lease_seconds=reply.lease_seconds)
        for garbage in reply.garbage:
            if len(self._garbage) >= DELETIONS_WAITING_MAX:
                break  # it will name them again
            self._garbage[garbage.handle] = _Named(garbage, reply.term, told_at)
        if self._garbage:
            self._garbage_waits.set()

    async def _collect_for_ever(self) -> None:
        while True:
            await self._garbage_waits.wait()
            self._garbage_waits.clear()
            while self._garbage:
                some = list(self._garbage)[:COLLECTED_AT_ONCE]
                await asyncio.gather(*(self._collect_one(self._garbage.pop(handle)) for handle in some))

    async def _collect_one(self, named: _Named) -> None:
        chunk = f"{named.garbage.handle:x}"
        try:
            deleted = await self._collect(named.garbage, term=named.term, known_at=named.known_at)
        except GfsError as error:
            _log.warning("a replica could not be deleted", chunk=chunk, error=error.message)
        except Exception:
            _log.exception("deleting a replica failed unexpectedly", chunk=chunk)
        else:
            if deleted:
                version = named.garbage.version  # it was of this one at most; 0: of none that can be told
                _log.info("replica deleted on the leader's word", chunk=chunk, named_version=version)

    def _note_trouble(self, link: _MasterLink, error: GfsError) -> None:
        link.trouble = f"says: {error.message}" if error.definite else f"did not answer: {error.message}"
        if isinstance(error, WrongCluster):
            link.heard_at = None
        now = self._clock.monotonic()
        if link.logged == error.code and now - link.logged_at < LOG_AGAIN_SECONDS:
            return
        link.logged, link.logged_at = error.code, now
        _log.warning(
            "a master was not told",
            master=link.address,
            code=error.code,
            error=error.message,
            hint=error.hint,
        )


def _page_of(report: _Report) -> list[HeldChunk]:
    first = report.page * REPORT_PAGE_CHUNKS
    return report.chunks[first : first + REPORT_PAGE_CHUNKS]


def _corrupt_to_name(
    replicas: ReplicaStore, changed: Sequence[HeldChunk], report: _Report | None
) -> list[ChunkHandle]:
    """All damaged replicas among those told of in this heartbeat: each of them not named is undamaged. And
    others, as many as fit: a mark counts as a change, so that every master comes to hear of each."""
    damaged = replicas.corrupt()
    if not damaged:
        return []
    told = {held.handle for held in (*changed, *(_page_of(report) if report is not None else ()))}
    return sorted({*damaged[:CORRUPT_NAMED_MAX], *told.intersection(damaged)})


def _is_last_page(report: _Report) -> bool:
    return (report.page + 1) * REPORT_PAGE_CHUNKS >= len(report.chunks)


def _note_acknowledged(link: _MasterLink, news: _News, *, report_wanted: bool) -> bool:
    """Remember what the master has taken in; True when the next part is due at once."""
    report = news.report
    if report is None:
        link.cursor = news.cursor
        if report_wanted:
            link.cursor = -1
        return report_wanted
    if report_wanted:
        # Not at once: a master that refuses every report must not be asked in a tight circle.
        link.cursor, link.report = -1, None
        return False
    if _is_last_page(report):
        link.cursor, link.report = report.cursor, None
        return False
    report.page += 1
    link.cursor, link.report = -1, report
    return True
