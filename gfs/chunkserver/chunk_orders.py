"""The orders of mutations this server has in memory, one per chunk, and the turn-taking on each chunk.

Volatile on purpose: a server that starts anew knows no order and no lease, and says so (GFS §3.1).
Deciding is in core/primary_order and core/secondary_order, carrying out in secondary and primary.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gfs.chunkserver.core.mutations import InlineBytes, Mutation, fresh
from gfs.chunkserver.core.primary_order import PrimaryOrder, RecordId
from gfs.chunkserver.core.secondary_order import SecondaryOrder
from gfs.chunkserver.push_buffer import Pushed
from gfs.errors import GfsError
from gfs.messages.chunks import Replica
from gfs.messages.heartbeat import HeldLease
from gfs.messages.replicas import AppendRecord, AppendReply, WriteReply
from gfs.settings import CHUNK_ORDERS_KEPT
from gfs.vocabulary import ChunkHandle, ChunkVersion, SerialNumber, ServerId


@dataclass(slots=True)
class WaitingMutation:
    """Accepted here, not yet applied. `applied` gives the chunk's length after it; a pad needs no bytes."""

    mutation: Mutation
    pushed: Pushed | None
    inline: InlineBytes | None
    applied: asyncio.Future[int]


@dataclass(slots=True)
class WaitingRecord:
    """A record at the primary that has no place yet, or whose place is not acknowledged yet."""

    request: AppendRecord
    reply: asyncio.Future[AppendReply]

    def answer(self, reply: AppendReply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, error: GfsError) -> None:
        if not self.reply.done():
            self.reply.set_exception(fresh(error))


class RecordQueue:
    """Records that wait for their place in one chunk; those in batches under way are not in it."""

    def __init__(self) -> None:
        self.waiting: deque[WaitingRecord] = deque()
        self.waiting_bytes = 0
        self.batches_running = 0  # one at most
        self.expected = 0  # how many records the next batch will probably have
        self.is_gathering = False
        self.batches_named = 0

    def add(self, record: WaitingRecord) -> None:
        self.waiting.append(record)
        self.waiting_bytes += record.request.length_bytes

    def first(self, count_max: int, bytes_max: int) -> list[WaitingRecord]:
        """The first ones that may go together, at least one."""
        found: list[WaitingRecord] = []
        batch_bytes = 0
        for record in self.waiting:
            batch_bytes += record.request.length_bytes
            if found and (len(found) == count_max or batch_bytes > bytes_max):
                break
            found.append(record)
        return found

    def take(self, count: int) -> list[WaitingRecord]:
        taken = [self.waiting.popleft() for _ in range(count)]
        self.waiting_bytes -= sum([record.request.length_bytes for record in taken])
        return taken


@dataclass(slots=True)
class VersionOrder:
    """One version of one chunk on this server; `lead` only where this server is its primary."""

    version: ChunkVersion
    granted_at: float  # monotonic seconds
    may_be_short: bool  # what the bump was answered with; a repeat is answered the same
    primary: ServerId
    replicas: Mapping[ServerId, Replica]
    local: SecondaryOrder
    lead: PrimaryOrder | None
    waiting: dict[SerialNumber, WaitingMutation] = field(default_factory=dict)
    writes: dict[SerialNumber, asyncio.Future[WriteReply]] = field(default_factory=dict)
    nowhere_from: SerialNumber | None = None  # what no member had room for, and all behind it, is nowhere
    records: RecordQueue = field(default_factory=RecordQueue)
    appending: dict[RecordId, asyncio.Future[AppendReply]] = field(default_factory=dict)  # waiting or placed

    @property
    def has_begun(self) -> bool:
        """A mutation of this version has its place in the order, or is applied."""
        return not self.local.is_untouched or (self.lead is not None and self.lead.has_ordered)

    def is_idle(self, *, now: float) -> bool:
        return self.local.is_idle and (self.lead is None or self.lead.is_idle(now=now))


@dataclass(slots=True)
class ChunkTurn:
    """`lock` is held by whoever changes the chunk on the disk: first come, first served."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    order: VersionOrder | None = None
    is_driven: bool = False  # a task is applying this chunk's mutations, run after run


class ChunkOrders:
    """All chunks with an order in memory. Used on the event loop's thread only.

    Invariant: a chunk being changed, or with a mutation under way, is never forgotten.
    """

    def __init__(self) -> None:
        self._turns: OrderedDict[ChunkHandle, ChunkTurn] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._turns)

    def find(self, handle: ChunkHandle) -> VersionOrder | None:
        turn = self._turns.get(handle)
        return None if turn is None else turn.order

    def turn(self, handle: ChunkHandle) -> ChunkTurn:
        """The chunk's turn-taking, made when it is not there."""
        turn = self._turns.get(handle)
        if turn is None:
            turn = self._turns[handle] = ChunkTurn()
        return turn

    @asynccontextmanager
    async def exclusively(self, handle: ChunkHandle) -> AsyncIterator[ChunkTurn]:
        """Wait until nobody changes this chunk on the disk, and keep others from it meanwhile."""
        turn = self.turn(handle)
        turn.users += 1
        try:
            async with turn.lock:
                yield turn
        finally:
            turn.users -= 1
            if turn.users == 0 and turn.order is None and not turn.is_driven:
                self._turns.pop(handle, None)

    def install(self, handle: ChunkHandle, order: VersionOrder, *, now: float) -> None:
        """Make `order` the chunk's; the caller has the chunk exclusively and has ended the older order."""
        turn = self._turns[handle]
        assert turn.lock.locked(), handle
        assert turn.order is None or turn.order.version < order.version
        turn.order = order
        self._turns.move_to_end(handle)
        self._forget_idle(now)

    def held_leases(self, *, now: float, active_since: float) -> list[HeldLease]:
        """Leases in force, for the heartbeat; active when a mutation came at or after `active_since`."""
        return [
            HeldLease(
                handle=handle,
                version=order.version,
                seconds_left=lead.lease_until - now,
                active=lead.admitted_at >= active_since or lead.outstanding_count > 0,
            )
            for handle, order, lead in self._led()
            if lead.lease_until > now and not lead.is_over
        ]

    def extend(self, handle: ChunkHandle, version: ChunkVersion, *, now: float, lease_seconds: float) -> None:
        """A leader has prolonged this lease; no effect when the version is another by now."""
        order = self.find(handle)
        if order is not None and order.lead is not None and order.version == version:
            order.lead.extend(now=now, lease_seconds=lease_seconds)

    def _led(self) -> Iterator[tuple[ChunkHandle, VersionOrder, PrimaryOrder]]:
        for handle, turn in self._turns.items():
            if turn.order is not None and turn.order.lead is not None:
                yield handle, turn.order, turn.order.lead

    def _forget_idle(self, now: float) -> None:
        excess = len(self._turns) - CHUNK_ORDERS_KEPT
        if excess <= 0:
            return
        for handle, turn in list(self._turns.items()):
            if excess <= 0:
                return
            if turn.users or turn.is_driven or turn.lock.locked():
                continue
            if turn.order is None or turn.order.is_idle(now=now):
                del self._turns[handle]
                excess -= 1
