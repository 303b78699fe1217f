"""Reads framed records of a file: each once, whole and verified, also while it grows (GFS §2.7.2, §3.3).

What is a record, core/record_framing decides. Here: how far which chunk may be read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from typing import NamedTuple

from gfs.client.connections import Connections
from gfs.client.core.record_framing import FramedRecord, RecordScanner
from gfs.client.core.retry_plan import GiveUp, may_pass
from gfs.client.core.striping import chunk_start, locate
from gfs.client.reader import Reader
from gfs.errors import DataUnavailable, GfsError, StaleVersion, Superseded
from gfs.messages.chunks import ChunkPlace, FileChunks, FindChunks, Replica
from gfs.messages.replicas import ChunkStatus, ChunkStatusReply
from gfs.vocabulary import CHUNK_BYTES, MIB, ChunkIndex, InodeId

READ_BYTES = 2 * MIB
IDS_KEPT = 65_536  # a record that comes again after so many others is not recognised
FOLLOW_SECONDS_MIN = 0.02  # between two looks for more, when the last one found some
FOLLOW_SECONDS_MAX = 0.5
STATUS_SECONDS = 1.0


class Record(NamedTuple):
    """`offset_bytes`: where it begins in the file, as its append was told."""

    offset_bytes: int
    payload: bytes


class _Extent(NamedTuple):
    """What of a chunk may be read. `is_final`: no record will ever come behind it in this chunk."""

    length_bytes: int
    is_final: bool


class RecordReader:
    """One pass over the records of one file, from an offset on. Made by AsyncClient.records()."""

    def __init__(self, connections: Connections, path: str, offset_bytes: int, *, follow: bool) -> None:
        self._connections = connections
        self._path = path
        self._follow = follow
        self._reader = Reader(connections, path)
        self._scanner = RecordScanner(offset_bytes)
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._memory = bytearray(READ_BYTES)
        self._chunks: FileChunks | None = None
        self._inode: InodeId | None = None

    async def records(self) -> AsyncGenerator[Record, None]:
        """See AsyncClient.records()."""
        try:
            await self._reader.open()
            pause = FOLLOW_SECONDS_MIN
            while True:
                index, _ = locate(self._scanner.end_bytes)
                extent = await self._extent(index)
                end = chunk_start(index) + extent.length_bytes
                moved = False
                while (record := await self._next_before(end, extent)) is not None:
                    moved = True
                    if self._is_new(record):
                        yield Record(record.offset_bytes, record.payload)
                if extent.is_final:
                    self._scanner.skip_to(chunk_start(ChunkIndex(index + 1)))
                    continue
                if not self._follow:
                    return
                pause = FOLLOW_SECONDS_MIN if moved else min(2 * pause, FOLLOW_SECONDS_MAX)
                await self._connections.clock.sleep(pause)
        finally:
            await self._reader.close()

    async def _next_before(self, end: int, extent: _Extent) -> FramedRecord | None:
        """The next record that ends at or before `end`; None when there is none yet."""
        while True:
            is_all = self._scanner.end_bytes >= end and (extent.is_final or not self._follow)
            record = self._scanner.next(is_all=is_all)
            start = self._scanner.end_bytes
            if record is not None or start >= end:
                return record
            self._scanner.feed(await self._read(start, end))

    async def _read(self, start: int, end: int) -> memoryview:
        """Bytes from `start` on, at least one, none behind `end`; the memory is used again."""
        buffer = memoryview(self._memory)[: min(READ_BYTES, end - start)]
        plan = None
        while True:
            part = await self._reader.read_into(start, buffer)
            if part.length_bytes:
                return buffer[: part.length_bytes]
            # The places that the reader knows are older than our own look.
            self._connections.places.forget(self._path)
            plan = plan or self._connections.new_plan(f"read {self._path}", has_effects=False)
            verdict = plan.after(
                DataUnavailable(f"{self._path} ends at {start} on the replicas that are known"),
                target=self._path,
                now=self._connections.clock.monotonic(),
            )
            if isinstance(verdict, GiveUp):
                raise verdict.error
            await self._connections.clock.sleep(verdict.wait_seconds)

    def _is_new(self, record: FramedRecord) -> bool:
        if record.id in self._seen:
            return False
        self._seen[record.id] = None
        if len(self._seen) > IDS_KEPT:
            self._seen.popitem(last=False)
        return True

    # --- how far a chunk may be read ------------------------------------------------------------

    async def _extent(self, index: ChunkIndex) -> _Extent:
        plan = None
        while True:
            place, count = await self._place(index)
            if place is None:
                return _Extent(0, is_final=False)
            try:
                return await self._extent_of(place, is_last=index >= count - 1)
            except GfsError as error:
                self._chunks = None
                self._connections.places.forget(self._path)
                passing = error if may_pass(error) else DataUnavailable(error.message)
                plan = plan or self._connections.new_plan(f"read {self._path}", has_effects=False)
                verdict = plan.after(passing, target=self._path, now=self._connections.clock.monotonic())
                if isinstance(verdict, GiveUp):
                    raise verdict.error from error
                await self._connections.clock.sleep(verdict.wait_seconds)

    async def _place(self, index: ChunkIndex) -> tuple[ChunkPlace | None, int]:
        """The chunk as the master told of it, and how many chunks the file had then."""
        known = self._chunks
        place = _find(known, index)
        if place is None or known is None:
            request = FindChunks(path=self._path, first_index=index, count=2)
            known = await self._connections.masters.ask_leader(request, FileChunks, f"read {self._path}")
            if self._inode not in (None, known.entry.inode):
                raise Superseded(
                    f"{self._path} was replaced while its records were being read",
                    hint="Open it again to read the new file.",
                )
            self._inode = known.entry.inode
            now = self._connections.clock.monotonic()
            self._connections.places.store(self._path, known.entry, known.chunks, now=now)
            place = _find(known, index)
            self._chunks = known if place is not None else None
        return place, known.entry.chunk_count

    async def _extent_of(self, place: ChunkPlace, *, is_last: bool) -> _Extent:
        if place.sealed:
            return _Extent(place.length_bytes, is_final=True)
        if self._follow:
            length = await self._length_on_all(place)
        else:
            length = await self._length_on_one(place)
        if length == CHUNK_BYTES:
            return _Extent(length, is_final=True)
        if is_last:
            if self._follow and length == 0:
                self._chunks = None  # look again: its replicas may not be the last word
            return _Extent(length, is_final=False)
        # Whoever appends leaves a chunk full or sealed. So a writer has left a hole here, or a grant of the
        # present version is not known to us: look once more, and then believe it.
        self._chunks = None
        again, _ = await self._place(place.index)
        if again is None or again.version != place.version or again.sealed:
            raise StaleVersion(f"chunk {place.index} of {self._path} has changed")
        return _Extent(length, is_final=True)

    async def _length_on_all(self, place: ChunkPlace) -> int:
        """Bytes that every member of the replica set has, or that are acknowledged: never cut off again.

        A record on some replicas only may still be cut off, and others appended in its place; one pass that
        had gone over it would miss those. While a member is away only what the master has heard of is
        certain; appenders tell it every second. Raises: GfsError when a member does not answer.
        """
        if place.missing or not place.replicas:
            assert self._chunks is not None
            known = self._chunks.entry.length_bytes - chunk_start(place.index)
            self._chunks = None  # look again next time
            return max(0, min(CHUNK_BYTES, known))
        statuses = await asyncio.gather(*(self._status(place, replica) for replica in place.replicas))
        if any(status.may_be_short for status in statuses):
            raise DataUnavailable("a replica may have lost bytes in a power cut")
        return min(status.length_bytes for status in statuses)

    async def _length_on_one(self, place: ChunkPlace) -> int:
        last: GfsError = DataUnavailable("no replica is alive")
        for replica in place.replicas:
            try:
                status = await self._status(place, replica)
            except GfsError as error:
                last = error
                continue
            if not status.may_be_short:
                return status.length_bytes
        raise last

    async def _status(self, place: ChunkPlace, replica: Replica) -> ChunkStatusReply:
        return await self._connections.caller.call(
            replica.control,
            ChunkStatus(handle=place.handle, version=place.version, capability=place.capability),
            ChunkStatusReply,
            deadline_seconds=STATUS_SECONDS,
        )


def _find(chunks: FileChunks | None, index: ChunkIndex) -> ChunkPlace | None:
    if chunks is None:
        return None
    return next((place for place in chunks.chunks if place.index == index), None)
