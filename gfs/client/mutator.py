"""The streaming writer: pieces are pushed side by side and ordered one after another (GFS §3.1-3.2).

A short piece comes with its order instead, the first time it is tried: a small file, the rest of a long one.

One try at a piece, and what follows a failed one, is in chunk_calls; leases are chunk_leases'.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

from gfs.checksums import piece_checksums
from gfs.client.chunk_calls import ChunkCalls, FailedTries
from gfs.client.chunk_leases import ChunkLeases
from gfs.client.connections import Connections
from gfs.client.core.striping import locate, part_end
from gfs.client.core.write_order import WriteOrder
from gfs.errors import GfsError, StaleVersion, Unavailable
from gfs.messages.chunks import ChunkLease
from gfs.messages.data import PushAnswer
from gfs.messages.replicas import WriteChunk, WriteReply
from gfs.settings import INLINE_WRITE_BYTES_MAX
from gfs.vocabulary import CHUNK_BYTES, KIB, ChunkIndex, InodeId, PushId

# The first buffer starts small: most files are, and fresh memory costs more than what is put there.
FIRST_BUFFER_BYTES = 64 * KIB
BUFFER_GROWTH = 8


@dataclass(slots=True, eq=False)
class _Piece:
    """Bytes for one place in one chunk. `buffer` is ours to use again once no thread can see it."""

    chunk: ChunkIndex
    first: int
    data: memoryview
    buffer: bytearray | None
    checksums: list[int] | None = None
    threads: int = 0  # pushes of it that have not returned, also those nobody waits for any more
    ordered: bool = False  # a primary was asked to put it in its place
    doubtful: bool = False  # and one such try had an end that nobody knows


@dataclass(slots=True)
class _Chunk:
    order: WriteOrder = field(default_factory=WriteOrder)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)


class Mutator:
    """Writes one run of bytes to a file, from `first_offset` on. One writer at a time.

    Bytes count as written when every replica has acknowledged them; flush() returns after that or raises.
    After a failure it accepts nothing more. At most `pieces_in_flight` pieces are on their way, one fills.
    """

    def __init__(self, connections: Connections, *, inode: InodeId, path: str, first_offset: int = 0) -> None:
        settings = connections.settings
        self._connections = connections
        self._path = path
        self._offset = first_offset  # where the next accepted byte goes
        self._leases = ChunkLeases(connections.masters, inode=inode, path=path)
        self._calls = ChunkCalls(connections, self._leases)
        self._piece_bytes = settings.piece_bytes
        self._slots = asyncio.Semaphore(settings.pieces_in_flight)
        self._first_bytes = min(self._piece_bytes, FIRST_BUFFER_BYTES)
        self._free_buffers: list[bytearray] = []
        self._buffers_max = settings.pieces_in_flight + 1
        self._filling: bytearray | None = None
        self._filling_from = first_offset
        self._filled = 0
        self._chunks: dict[ChunkIndex, _Chunk] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._ordered = 0  # pieces that may be in their places, or are
        self._may_be_written = False

    @property
    def may_be_written(self) -> bool:
        """After a failure, however definite for the piece that failed: some of the bytes may be in their
        places, of other pieces or by an earlier try at that one."""
        return self._may_be_written

    @property
    def offset(self) -> int:
        """Where the next byte will go; those before it are accepted, not yet all acknowledged."""
        return self._offset

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Accept all of `data`, waiting while the pipeline is full. It may be changed after the return.

        Raises: what made an earlier piece fail.
        """
        self._raise_failure()
        view = memoryview(data).cast("B")
        lasting = isinstance(data, bytes)  # immutable: whole pieces go out without a copy
        while view:
            room = part_end(self._offset, self._piece_bytes) - self._offset
            if lasting and self._filled == 0 and len(view) >= room:
                self._offset += room
                self._filling_from = self._offset
                await self._submit(self._offset - room, view[:room], None)
                view = view[room:]
                continue
            space = self.space()
            count = min(len(space), len(view))
            space[:count] = view[:count]
            view = view[count:]
            await self.advance(count)

    def space(self) -> memoryview:
        """Memory to fill with the next bytes; never empty. Tell by advance() how many were put there."""
        if self._filling is None:
            self._filling = self._free_buffers.pop() if self._free_buffers else bytearray(self._first_bytes)
            self._filling_from = self._offset
            self._filled = 0
        elif self._filled == len(self._filling):
            grown = bytearray(min(self._piece_bytes, len(self._filling) * BUFFER_GROWTH))
            grown[: self._filled] = self._filling
            self._filling = grown
        room = part_end(self._filling_from, self._piece_bytes) - self._filling_from
        return memoryview(self._filling)[self._filled : room]

    async def advance(self, count: int) -> None:
        """`count` bytes of space() are filled. Raises: what made an earlier piece fail."""
        assert count >= 0 and self._filling is not None
        self._raise_failure()
        if self._filled == 0 < count:
            # Ask for the lease while the piece still fills.
            self._leases.prefetch(locate(self._offset)[0])
        self._filled += count
        self._offset += count
        if self._offset == part_end(self._filling_from, self._piece_bytes):
            await self._submit_filled()

    async def flush(self) -> None:
        """Return when every accepted byte is acknowledged by all replicas.

        Raises: what made a piece fail; then some of the bytes may be written and some not.
        """
        self._raise_failure()
        await self._submit_filled()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._raise_failure()

    async def abort(self) -> None:
        """Stop sending. What was accepted may be written in part."""
        if self._failure is None:
            self._failure = Unavailable(f"the writer of {self._path} was stopped")
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._leases.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # --- pieces ---------------------------------------------------------------------------------

    async def _submit_filled(self) -> None:
        if self._filling is None or self._filled == 0:
            return
        buffer, filled, offset = self._filling, self._filled, self._filling_from
        self._first_bytes = self._piece_bytes  # it is not a small file
        self._filling, self._filled, self._filling_from = None, 0, self._offset
        await self._submit(offset, memoryview(buffer)[:filled], buffer)

    async def _submit(self, offset: int, data: memoryview, buffer: bytearray | None) -> None:
        chunk, first = locate(offset)
        assert 0 < len(data) <= CHUNK_BYTES - first, (offset, len(data))
        await self._slots.acquire()
        self._raise_failure()
        piece = _Piece(chunk, first, data, buffer)
        if first + len(data) == CHUNK_BYTES:
            # The chunk will be full for certain, so the next one, even if it stays empty, is no hole.
            self._leases.prefetch(ChunkIndex(chunk + 1))
        self._chunks.setdefault(chunk, _Chunk()).order.add(first)
        task = asyncio.get_running_loop().create_task(self._write_piece(piece))
        self._tasks.add(task)
        task.add_done_callback(partial(self._piece_ended, piece))

    def _piece_ended(self, piece: _Piece, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if task.cancelled() or (failure := task.exception()) is None:
            return
        if self._failure is None:
            self._failure = failure
            self._may_be_written = piece.doubtful or self._ordered > piece.ordered
        for other in self._tasks:  # those behind would wait for it for ever
            other.cancel()

    async def _write_piece(self, piece: _Piece) -> None:
        """Push and order one piece until all replicas of some version have acknowledged it."""
        chunk = self._chunks[piece.chunk]
        tries: FailedTries | None = None
        while True:
            lease = await self._leases.current(piece.chunk)
            asked = lease.replicas[0].server
            try:
                # After a failure it is pushed: that is the way every chunk server knows.
                is_inline = len(piece.data) <= INLINE_WRITE_BYTES_MAX and tries is None
                push = self._connections.new_push_id() if is_inline else await self._push(piece, lease)
                await self._wait_for_turn(piece, chunk, lease)
                asked = lease.primary
                if not piece.ordered:
                    piece.ordered = True
                    self._ordered += 1
                await self._order(piece, chunk, lease, push, is_inline=is_inline)
            except GfsError as error:
                piece.doubtful |= piece.ordered and not error.definite
                chunk.order.failed(piece.first)
                tries = tries or self._first_failure(piece, lease)
                await self._calls.recover(piece.chunk, lease, asked, error, tries)
                await _notify(chunk)
                continue
            chunk.order.acknowledged(piece.first)
            await _notify(chunk)
            self._release(piece, chunk)
            return

    async def _push(self, piece: _Piece, lease: ChunkLease) -> PushId:
        def sums() -> list[int]:
            if piece.checksums is None:
                piece.checksums = piece_checksums(piece.first, piece.data)
            return piece.checksums

        def begun(pushing: asyncio.Future[PushAnswer]) -> None:
            piece.threads += 1
            pushing.add_done_callback(lambda _: _thread_ended(piece))

        return await self._calls.push(lease, piece.data, offset=piece.first, sums=sums, on_begun=begun)

    async def _wait_for_turn(self, piece: _Piece, chunk: _Chunk, lease: ChunkLease) -> None:
        """Return when all earlier pieces of the chunk are acknowledged or on their way under `lease`."""

        def may_go_on() -> bool:
            return self._is_superseded(piece, lease) or chunk.order.may_send(piece.first, lease.version)

        async with chunk.moved:
            await chunk.moved.wait_for(may_go_on)
        if self._is_superseded(piece, lease):
            raise StaleVersion(f"chunk {lease.handle:x} has a newer version than {lease.version}")

    def _is_superseded(self, piece: _Piece, lease: ChunkLease) -> bool:
        return self._leases.version(piece.chunk) > lease.version

    async def _order(
        self, piece: _Piece, chunk: _Chunk, lease: ChunkLease, push: PushId, *, is_inline: bool
    ) -> None:
        """Have the primary put the bytes in their place on every replica (GFS §3.1 steps 4-7)."""
        request = WriteChunk(
            handle=lease.handle,
            version=lease.version,
            offset_bytes=piece.first,
            length_bytes=len(piece.data),
            push=push,
            data=bytes(piece.data) if is_inline else b"",
            checksums=piece_checksums(piece.first, piece.data) if is_inline else [],
            capability=lease.capability,
        )

        async def sent() -> None:
            chunk.order.sent(piece.first, lease.version)
            await _notify(chunk)

        await self._calls.ask_primary(lease, request, WriteReply, on_sent=sent)

    def _first_failure(self, piece: _Piece, lease: ChunkLease) -> FailedTries:
        end = piece.first + len(piece.data)
        return FailedTries(
            self._connections.new_plan(
                f"write {self._path}, bytes {piece.first}-{end} of chunk {piece.chunk} "
                f"(handle {lease.handle:x})"
            )
        )

    def _release(self, piece: _Piece, chunk: _Chunk) -> None:
        if not chunk.order and locate(self._offset)[0] > piece.chunk:
            self._chunks.pop(piece.chunk, None)
            self._leases.forget(piece.chunk)
        # A push nobody waits for any more may still be reading the buffer: then it is left to the collector.
        if piece.buffer is None or piece.threads > 0 or len(piece.buffer) < self._piece_bytes:
            return
        if len(self._free_buffers) < self._buffers_max:
            self._free_buffers.append(piece.buffer)


async def _notify(chunk: _Chunk) -> None:
    async with chunk.moved:
        chunk.moved.notify_all()


def _thread_ended(piece: _Piece) -> None:
    piece.threads -= 1
