"""Record append, at least once: the primary chooses the offset and the client is told (GFS §3.3).

Any number of tasks and clients append to one file at a time. Telling repeats apart is left to the reader.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import cache

from gfs.checksums import piece_checksums
from gfs.client import publishing
from gfs.client.chunk_calls import ChunkCalls, FailedTries
from gfs.client.chunk_leases import ChunkLeases
from gfs.client.connections import Connections
from gfs.client.core.striping import chunk_start
from gfs.errors import ChunkSealed, GfsError
from gfs.messages.namespace import Entry
from gfs.messages.replicas import AppendRecord, AppendReply
from gfs.vocabulary import ChunkIndex, InodeId

# A record's offset is not known when it is pushed: it is summed as if it went to the start of the chunk, and
# the replicas sum it again for where it goes.
PUSHED_FOR = 0
APPENDERS_KEPT = (
    256  # files one client remembers leases for, to append to them; idle ones beyond are forgotten
)


class RecordAppender:
    """The appends of one client to one file; they share its leases, and telling the master of its end."""

    def __init__(self, connections: Connections, entry: Entry) -> None:
        self._connections = connections
        self._entry = entry
        self._leases = ChunkLeases(connections.masters, inode=entry.inode, path=entry.path)
        self._calls = ChunkCalls(connections, self._leases)
        self._telling = asyncio.Lock()
        self._reached = 0  # the end of the last record that is acknowledged
        self._told = 0  # what of that the master knows
        self._running = 0

    @property
    def is_idle(self) -> bool:
        return self._running == 0

    async def append(self, record: bytes, *, chunk_count: int) -> int:
        """Append one record; returns its offset in the file when every replica has it there.

        A try that failed, or was cancelled, may have left the record, a part of it or padding behind.
        Args:
            chunk_count: of the file as it was not long ago.
        """
        self._running += 1
        try:
            index, first = await self._append(record, ChunkIndex(max(0, chunk_count - 1)))
            offset = chunk_start(index) + first
            await self._tell_reached(offset + len(record))
            return offset
        finally:
            self._running -= 1

    async def close(self) -> None:
        await self._leases.close()

    async def _append(self, record: bytes, index: ChunkIndex) -> tuple[ChunkIndex, int]:
        """From chunk `index` on, try until some chunk has it: (its index, the offset within it)."""
        sums = cache(lambda: piece_checksums(PUSHED_FOR, record))
        tries: FailedTries | None = None
        while True:
            try:
                lease = await self._leases.current(index)
            except ChunkSealed:
                index = self._next(index)
                continue
            asked = lease.replicas[0].server
            try:
                push = await self._calls.push(
                    lease,
                    memoryview(record),
                    offset=PUSHED_FOR,
                    sums=sums,
                )
                asked = lease.primary
                request = AppendRecord(
                    handle=lease.handle, version=lease.version, length_bytes=len(record), push=push
                )
                reply = await self._calls.ask_primary(lease, request, AppendReply)
            except ChunkSealed:
                index = self._next(index)
            except GfsError as error:
                tries = tries or FailedTries(
                    self._connections.new_plan(
                        f"append {len(record)} bytes to {self._entry.path}, chunk {index} "
                        f"(handle {lease.handle:x})"
                    )
                )
                await self._calls.recover(index, lease, asked, error, tries)
            else:
                if not reply.padded:
                    return index, reply.offset_bytes
                index = self._next(index)

    def _next(self, index: ChunkIndex) -> ChunkIndex:
        self._leases.forget(index)
        return ChunkIndex(index + 1)

    async def _tell_reached(self, end: int) -> None:
        """Return when the master knows that the file has bytes up to `end`, or else a writer that closes the
        file at less would hide them. Records that end meanwhile share the next telling."""
        self._reached = max(self._reached, end)
        async with self._telling:
            if self._told < end:
                reached = self._reached
                await publishing.tell_reached(self._connections, self._entry, reached)
                self._told = reached


class RecordAppenders:
    """One RecordAppender for each file this client appends to."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._known: OrderedDict[InodeId, RecordAppender] = OrderedDict()  # least recently used first

    async def append(self, entry: Entry, record: bytes) -> int:
        """As RecordAppender.append, to the file that `entry` tells of."""
        appender = self._known.setdefault(entry.inode, RecordAppender(self._connections, entry))
        self._known.move_to_end(entry.inode)
        try:
            return await appender.append(record, chunk_count=entry.chunk_count)
        finally:
            self._forget_idle()

    async def close(self) -> None:
        while self._known:
            await self._known.popitem()[1].close()

    def _forget_idle(self) -> None:
        for inode, appender in list(self._known.items())[: max(0, len(self._known) - APPENDERS_KEPT)]:
            if appender.is_idle:
                del self._known[inode]
