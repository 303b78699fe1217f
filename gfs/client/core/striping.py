"""How the bytes of a file fall on chunks, pieces and replicas (GFS §2.3, §3.1). Arithmetic only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from gfs.messages.chunks import Replica
from gfs.settings import READ_LONG_RANGE_BYTES, READ_RANGE_BYTES
from gfs.vocabulary import CHUNK_BYTES, ChunkHandle, ChunkIndex, ClientId, ServerId, split_address

# So many neighbouring bytes of a chunk are read from one replica, for the sake of its disk's read-ahead; not
# more, because the ranges of one reader that are under way together shall keep several replicas busy.
SPREAD_BYTES = READ_RANGE_BYTES


class Span(NamedTuple):
    """Part of one chunk: `length_bytes` from `first`; `at` is its place in the range that was split."""

    chunk: ChunkIndex
    first: int
    length_bytes: int
    at: int


def locate(offset: int) -> tuple[ChunkIndex, int]:
    """Chunk index of a file offset, and the offset within that chunk."""
    assert offset >= 0, offset
    return ChunkIndex(offset // CHUNK_BYTES), offset % CHUNK_BYTES


def chunk_start(index: ChunkIndex) -> int:
    return index * CHUNK_BYTES


def part_end(offset: int, part_bytes: int) -> int:
    """Where the part of a file that holds `offset` ends: at a multiple of `part_bytes` within its chunk.

    Ends stay the same wherever a writer began, so that whole parts begin on a checksum block.
    """
    assert part_bytes > 0, part_bytes
    index, first = locate(offset)
    end = min((first // part_bytes + 1) * part_bytes, CHUNK_BYTES)
    return chunk_start(index) + end


def split_range(offset: int, length_bytes: int, *, part_bytes: int) -> list[Span]:
    """Cut `length_bytes` of a file from `offset` into spans, none over a chunk's end or a part's end."""
    assert offset >= 0 and length_bytes >= 0, (offset, length_bytes)
    spans: list[Span] = []
    position, end = offset, offset + length_bytes
    while position < end:
        stop = min(end, part_end(position, part_bytes))
        index, first = locate(position)
        spans.append(Span(index, first, stop - position, position - offset))
        position = stop
    return spans


def replica_order(
    replicas: Sequence[Replica],
    *,
    handle: ChunkHandle,
    client: ClientId,
    first: int,
    local_hosts: Collection[str],
    avoided: Collection[ServerId],
) -> list[Replica]:
    """The order in which a reader tries replicas: same host first, those that lately failed last.

    Between equals the choice is spread by chunk, client and region, and is the same at every call.
    """
    if not replicas:
        return []
    # A multiplier without small factors: handles are consecutive, and so may be clients of a test.
    mixed = (handle * 2654435761 + client) & (2**63 - 1)
    # The second term: long ranges begin at every fourth such place, and are to take turns all the same.
    turn = first // SPREAD_BYTES + first // READ_LONG_RANGE_BYTES
    start = ((mixed >> 7) + turn) % len(replicas)
    spread = [*replicas[start:], *replicas[:start]]
    return sorted(
        spread,
        key=lambda replica: (
            replica.server in avoided,
            split_address(replica.data)[0] not in local_hosts,
        ),
    )
