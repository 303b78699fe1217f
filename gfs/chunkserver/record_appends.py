"""The primary's part of record appends (GFS §3.3): recognise repeats, gather small records, have them placed.

Where records go and what is acknowledged, core/primary_order decides; sending to all members is primary's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gfs.checksums import crc32c, piece_checksums
from gfs.chunkserver.chunk_orders import VersionOrder, WaitingRecord
from gfs.chunkserver.core.mutations import AppendAt, ChunkFull, InlineBytes, PadChunk
from gfs.chunkserver.core.primary_order import PrimaryOrder
from gfs.chunkserver.primary import PrimaryWrites
from gfs.clock import Clock
from gfs.errors import ChecksumMismatch, GfsError, Overloaded
from gfs.messages.replicas import AppendedRecord, AppendRecord, AppendReply, WriteReply
from gfs.settings import (
    RECORD_BATCH_BYTES_MAX,
    RECORD_BATCH_MAX,
    RECORD_GATHER_SECONDS,
    RECORDS_WAITING_BYTES_MAX,
    RECORDS_WAITING_MAX,
)
from gfs.vocabulary import CHUNK_BYTES, ChunkHandle, PushId, SerialNumber, ServerId

_FULL = AppendReply(serial=SerialNumber(0), offset_bytes=CHUNK_BYTES, padded=True)


class RecordAppends:
    """Carries out the record appends of all chunks this server is primary of.

    Records that come while a batch is under way wait, and make up the next one: one mutation, one journal
    record on each replica for all of them. A record that was pushed goes by itself.
    """

    def __init__(self, me: ServerId, primary: PrimaryWrites, clock: Clock) -> None:
        self._me = me
        self._primary = primary
        self._clock = clock
        self._gathering: set[asyncio.Task[None]] = set()

    async def append(self, handle: ChunkHandle, order: VersionOrder, request: AppendRecord) -> AppendReply:
        """Place one record, or pad the chunk that has no room for it, on every replica; exactly once if it is
        identified (I9).

        Up to the first await nothing else runs, so a repeat never overtakes the first try.
        Raises: as PrimaryWrites.write; OutcomeUnknown when a repeat can no longer be recognised.
        """
        lead = order.lead
        assert lead is not None and lead.handle == handle
        if not request.client:
            return await asyncio.shield(self._begin(handle, order, request))
        id = (request.client, request.sequence)
        reply = order.appending.get(id)
        if reply is None:
            place = lead.find_record(*id, repeated=request.repeated, not_before=request.not_before)
            if place is not None:
                return AppendReply(serial=SerialNumber(0), offset_bytes=place.offset_bytes)
            reply = order.appending[id] = self._begin(handle, order, request)
            reply.add_done_callback(lambda _: order.appending.pop(id))
        return await asyncio.shield(reply)

    async def drain(self) -> None:
        """Return when no record waits for others to join it."""
        while self._gathering:
            await asyncio.wait(self._gathering)

    def _begin(
        self, handle: ChunkHandle, order: VersionOrder, request: AppendRecord
    ) -> asyncio.Future[AppendReply]:
        loop = asyncio.get_running_loop()
        if not request.data:
            return loop.create_task(self._primary.append_pushed(handle, order, request))
        if crc32c(request.data) != request.checksum:
            raise ChecksumMismatch("the record's bytes do not have the checksum that came with them")
        queue = order.records
        if (
            len(queue.waiting) >= RECORDS_WAITING_MAX
            or queue.waiting_bytes + len(request.data) > RECORDS_WAITING_BYTES_MAX
        ):
            raise Overloaded(f"{len(queue.waiting)} records wait for their place in chunk {handle:x}")
        reply: asyncio.Future[AppendReply] = loop.create_future()
        reply.add_done_callback(_retrieve)
        queue.add(WaitingRecord(request, reply))
        self._send_or_gather(handle, order)
        return reply

    def _send_or_gather(self, handle: ChunkHandle, order: VersionOrder) -> None:
        """Send what waits, unless more is about to come: those whose records were in the last batch, and have
        just heard of it. A batch of eight costs little more than one of four."""
        queue = order.records
        if queue.batches_running or not queue.waiting:
            return
        if len(queue.waiting) >= queue.expected or queue.waiting_bytes >= RECORD_BATCH_BYTES_MAX:
            self._send_batches(handle, order)
        elif not queue.is_gathering:
            queue.is_gathering = True
            task = asyncio.get_running_loop().create_task(self._gather(handle, order))
            self._gathering.add(task)
            task.add_done_callback(self._gathering.discard)

    async def _gather(self, handle: ChunkHandle, order: VersionOrder) -> None:
        await self._clock.sleep(RECORD_GATHER_SECONDS)
        order.records.is_gathering = False
        order.records.expected = 0
        self._send_or_gather(handle, order)

    def _send_batches(self, handle: ChunkHandle, order: VersionOrder) -> None:
        lead, queue = order.lead, order.records
        assert lead is not None
        while queue.waiting and not queue.batches_running:
            batch = queue.first(RECORD_BATCH_MAX, RECORD_BATCH_BYTES_MAX)
            records = [_record_of(waiting.request) for waiting in batch]
            queue.batches_named += 1
            name = PushId(f"{self._me}:{handle:x}:{order.version}:{queue.batches_named}")
            try:
                placed = lead.place_records(
                    records, push=name, version=order.version, now=self._clock.monotonic()
                )
            except GfsError as error:
                for waiting in queue.take(len(batch)):
                    waiting.fail(error)
                continue
            match placed:
                case AppendAt(taken=taken):
                    self._send(handle, order, lead, placed, queue.take(taken))
                case PadChunk():
                    self._pad(handle, order, lead, placed, queue.take(len(batch)))
                case ChunkFull():
                    for waiting in queue.take(len(batch)):
                        waiting.answer(_FULL)

    def _send(
        self,
        handle: ChunkHandle,
        order: VersionOrder,
        lead: PrimaryOrder,
        placed: AppendAt,
        batch: list[WaitingRecord],
    ) -> None:
        data = b"".join([waiting.request.data for waiting in batch])
        inline = InlineBytes(data, piece_checksums(placed.offset_bytes, data))

        def answer() -> None:
            offset = placed.offset_bytes
            for waiting in batch:
                waiting.answer(AppendReply(serial=placed.serial, offset_bytes=offset))
                offset += waiting.request.length_bytes

        done = self._primary.send_everywhere(handle, order, lead.ordered(placed.serial), None, inline)
        self._when_done(handle, order, done, batch, answer)

    def _pad(
        self,
        handle: ChunkHandle,
        order: VersionOrder,
        lead: PrimaryOrder,
        placed: PadChunk,
        batch: list[WaitingRecord],
    ) -> None:
        reply = AppendReply(serial=placed.serial, offset_bytes=placed.offset_bytes, padded=True)

        def answer() -> None:
            for waiting in batch:
                waiting.answer(reply)

        done = self._primary.send_everywhere(handle, order, lead.ordered(placed.serial), None)
        self._when_done(handle, order, done, batch, answer)

    def _when_done(
        self,
        handle: ChunkHandle,
        order: VersionOrder,
        done: asyncio.Future[WriteReply],
        batch: list[WaitingRecord],
        answer: Callable[[], None],
    ) -> None:
        order.records.batches_running += 1

        def ended(outcome: asyncio.Future[WriteReply]) -> None:
            queue = order.records
            queue.batches_running -= 1
            queue.expected = min(len(batch) + len(queue.waiting), RECORD_BATCH_MAX)
            error = outcome.exception()
            if error is None:
                answer()
            else:
                assert isinstance(error, GfsError), error
                for waiting in batch:
                    waiting.fail(error)
            self._send_or_gather(handle, order)

        done.add_done_callback(ended)


def _record_of(request: AppendRecord) -> AppendedRecord:
    return AppendedRecord(request.client, request.sequence, request.settled_below, request.length_bytes)


def _retrieve(reply: asyncio.Future[AppendReply]) -> None:
    """The client may have gone; an outcome nobody reads is no reason for a warning from asyncio."""
    if not reply.cancelled():
        reply.exception()
