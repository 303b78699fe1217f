"""The bulk side of a chunk server: pushes received, checked and forwarded along the chain; verified reads.

Knows no versions, leases or orders of mutations: pushed bytes wait in the push buffer until the control
side asks for them (GFS §3.2), and reads are the replica store's, verified there window by window, or by who
asks for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gfs import failpoints
from gfs.checksums import blocks_touched, crc32c
from gfs.chunkserver.push_buffer import PushBuffer, Reservation
from gfs.errors import ChecksumMismatch, GfsError
from gfs.messages.data import PushAnswer
from gfs.telemetry import logger
from gfs.transport.data_client import DataClient, OutgoingPush
from gfs.transport.data_head import PushHead
from gfs.transport.data_server import ChunkReader, PushSink
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES, MIB, ChunkHandle, ChunkVersion

# A hop slower than this on the whole is named as failed: the chain goes at the pace of its slowest.
FORWARD_BYTES_PER_SECOND_MIN = 8 * MIB

_log = logger("push_chain")


class ReplicaReader(Protocol):
    """What reads need of the replica store."""

    def committed_length(self, handle: ChunkHandle, version: ChunkVersion, *, wanted_bytes: int = 0) -> int:
        """Raises: NotFound, StaleVersion; DataUnavailable when it is shorter than `wanted_bytes` and may have
        lost its end."""
        ...

    def read_into(self, handle: ChunkHandle, version: ChunkVersion, offset: int, buffer: memoryview) -> int:
        """Verified bytes of the committed prefix; short only at its end.

        Raises: NotFound, StaleVersion, ChecksumMismatch.
        """
        ...

    def checksums(
        self, handle: ChunkHandle, version: ChunkVersion, offset: int, length: int
    ) -> Sequence[int] | None:
        """For a reader that verifies what send() sends; see ChunkReader."""
        ...

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int: ...


class PushChain:
    """The DataHandler of a chunk server. `client` dials the next hops; each has `hop_seconds` to answer."""

    def __init__(
        self, buffer: PushBuffer, client: DataClient, replicas: ReplicaReader, *, hop_seconds: float
    ) -> None:
        assert hop_seconds > 0
        self._buffer, self._client, self._replicas = buffer, client, replicas
        self._hop_seconds = hop_seconds

    def begin_push(self, head: PushHead) -> PushSink:
        """Take the memory for a push and dial the next hop. Raises: Overloaded."""
        reservation = self._buffer.reserve(head.push_id, head.length, head.offset)
        try:
            failpoints.hit("push.begun")
            next_hops = _NextHops(self._client, head, reservation.memory, self._hop_seconds)
        except BaseException:
            self._buffer.cancel(reservation)
            raise
        return _ChainedPush(self._buffer, reservation, head, next_hops)

    def open_read(
        self, handle: ChunkHandle, version: ChunkVersion, first: int, last: int | None
    ) -> ChunkReader:
        """Raises: NotFound, StaleVersion; DataUnavailable when the end is not to be believed."""
        wanted_bytes = CHUNK_BYTES if last is None else last + 1
        committed = self._replicas.committed_length(handle, version, wanted_bytes=wanted_bytes)
        end = committed if last is None else min(committed, last + 1)
        return _ReplicaChunkReader(self._replicas, handle, version, first, max(0, end - first), committed)


class _ChainedPush:
    """One push at one hop: receive, send on, checksum while hot, compare, answer."""

    def __init__(
        self,
        buffer: PushBuffer,
        reservation: Reservation,
        head: PushHead,
        next_hops: _NextHops,
    ) -> None:
        self._buffer, self._reservation, self._head = buffer, reservation, head
        self._memory = reservation.memory
        self._sums: list[int] = []
        self._summed = 0  # memory[:summed] has its checksums in `sums`
        self._block_end = CHECKSUM_BLOCK_BYTES - head.offset % CHECKSUM_BLOCK_BYTES
        self._next = next_hops

    @property
    def memory(self) -> memoryview:
        return self._memory

    def arrived(self, end: int) -> None:
        # On before the checksum: the next hop works while this one does.
        self._next.advance(end)
        while self._block_end <= end:
            self._sum_to(self._block_end)

    def finish(self) -> PushAnswer:
        """Raises: ChecksumMismatch when the bytes are not those the client has summed; nothing is kept."""
        try:
            if self._summed < self._head.length:
                self._sum_to(self._head.length)
            self._compare_with_client()
            failpoints.hit("push.received")
        except BaseException:
            self.abandon()
            raise
        # Kept only when the next hops are done with it: until then nobody may take or recycle the memory.
        failed = self._next.finish(self._sums)
        self._buffer.complete(self._reservation, self._sums)
        failpoints.hit("push.forwarded")
        return PushAnswer(received_bytes=self._head.length, checksums=self._sums, failed=failed)

    def abandon(self) -> None:
        self._next.give_up()
        self._buffer.cancel(self._reservation)

    def _sum_to(self, end: int) -> None:
        self._sums.append(crc32c(self._memory[self._summed : end]))
        self._summed, self._block_end = end, end + CHECKSUM_BLOCK_BYTES

    def _compare_with_client(self) -> None:
        assert len(self._sums) == blocks_touched(self._head.offset, self._head.length)
        for block, (given, found) in enumerate(zip(self._head.checksums or (), self._sums, strict=False)):
            if given != found:
                raise ChecksumMismatch(
                    f"block {block} of push {self._head.push_id} did not arrive as it was sent",
                    details={"block": str(block)},
                )


class _NextHops:
    """The rest of the chain as one hop sees it. A hop that fails is named and passed over."""

    def __init__(self, client: DataClient, head: PushHead, memory: memoryview, hop_seconds: float) -> None:
        self._client, self._head, self._memory, self._hop_seconds = client, head, memory, hop_seconds
        self._hops = deque(head.chain)  # the first is the one dialled
        self._failed: dict[str, str] = {}
        self._outgoing: OutgoingPush | None = None
        self._dial()

    def advance(self, end: int) -> None:
        if self._outgoing is not None:
            self._outgoing.advance(end)

    def finish(self, sums: Sequence[int]) -> dict[str, str]:
        """Send the rest and collect the answers; the hops that do not hold these bytes, and why."""
        while self._outgoing is not None:
            try:
                with self._outgoing:
                    answer = self._outgoing.finish(within_seconds=self._patience())
                if answer.checksums != sums:
                    raise ChecksumMismatch("holds other bytes than the hop before it")
            except GfsError as error:
                self._pass_over(error)
            else:
                self._outgoing = None
                self._failed.update(answer.failed)
        return self._failed

    def give_up(self) -> None:
        if self._outgoing is not None:
            self._outgoing.close()
            self._outgoing = None

    def _dial(self) -> None:
        while self._hops and self._outgoing is None:
            address, *behind = self._hops
            try:
                self._outgoing = self._client.begin_push(
                    address,
                    self._head.push_id,
                    self._memory,
                    offset=self._head.offset,
                    chain=behind,
                    checksums=self._head.checksums,
                    connect_seconds=self._hop_seconds,
                    capability=self._head.capability,
                )
            except GfsError as error:
                self._name(error)

    def _pass_over(self, error: GfsError) -> None:
        self._outgoing = None
        self._name(error)
        self._dial()  # the whole piece is here, so the hop behind can be served from the start

    def _name(self, error: GfsError) -> None:
        address = self._hops.popleft()
        self._failed[address] = f"{error.code}: {error.message}"
        _log.warning(
            "next hop failed", hop=address, push=self._head.push_id, code=error.code, problem=error.message
        )

    def _patience(self) -> float:
        # A hop waits longer the more hops are behind it: so the one nearest to a fault names it.
        return len(self._hops) * (self._hop_seconds + len(self._memory) / FORWARD_BYTES_PER_SECOND_MIN)


@dataclass(frozen=True, slots=True)
class _ReplicaChunkReader:
    replicas: ReplicaReader
    handle: ChunkHandle
    version: ChunkVersion
    first: int
    length: int
    committed_length: int

    def read_into(self, buffer: memoryview, offset: int) -> int:
        return self.replicas.read_into(self.handle, self.version, offset, buffer)

    def checksums(self) -> Sequence[int] | None:
        return self.replicas.checksums(self.handle, self.version, self.first, self.length)

    def send_to(self, out: int, offset: int, length: int) -> int:
        return self.replicas.send(self.handle, out, offset, length)
