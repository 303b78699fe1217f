"""Decisions on a guest: a copy of a chunk that is no replica yet (GFS §4.3). No I/O.

A guest is seen by no client, primary or report. While it is *filling* it may hold anything; a start throws it
away. Once *whole* it equals what the members of a fenced version hold, to the last byte, and is on the disk:
its server may be a member of the next version's set, so from then on it is only deleted on a leader's word,
and a bump makes it a replica.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from gfs.chunkserver.core.chunk_record import FILLING, WHOLE, ChunkHeader
from gfs.chunkserver.core.versions import require_term, stale
from gfs.errors import StaleVersion
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, ChunkHandle, ChunkVersion, Term

_BLOCK = CHECKSUM_BLOCK_BYTES


def header_to_fill(
    header: ChunkHeader | None,
    handle: ChunkHandle,
    version: ChunkVersion,
    *,
    source_bytes: int,
    master_term: Term,
) -> ChunkHeader:
    """The header to persist before the first block is copied; `header` itself for a guest that is whole.

    What is here of an earlier copy, or of a replica that has missed mutations (it is stale for good, I5), is
    kept as far as it is whole blocks: what is not as at the source is found by its checksum.
    Raises: Superseded; StaleVersion when this server holds `version` or a later one.
    """
    if header is None:
        return ChunkHeader(
            version=version,
            length_bytes=0,
            tail_sum=0,
            revision=1,
            master_term=master_term,
            replaced_version=ChunkVersion(0),
            guest=FILLING,
        )
    require_term(header, handle, master_term)
    if header.guest == WHOLE and header.version == version:
        return header
    if header.version > version or (header.version == version and not header.guest):
        raise stale(handle, header, f"a copy of version {version} was asked for")
    kept = min(header.length_bytes, source_bytes)
    return msgspec.structs.replace(
        header,
        version=version,
        length_bytes=kept - kept % _BLOCK,
        tail_sum=0,
        revision=header.revision + 1,
        master_term=master_term,
        replaced_version=ChunkVersion(0),
        sealed=False,
        short_version=ChunkVersion(0),
        guest=FILLING,
    )


def ranges_missing(
    have: Sequence[int], wanted: Sequence[int], length_bytes: int, *, piece_bytes: int
) -> Iterator[tuple[int, int]]:
    """(offset, length) of what has to be fetched, in order, at most `piece_bytes` each.

    Args:
        have: sums of the guest's blocks, all of them full.
        wanted: sums of the source's blocks, `length_bytes` in all; the last may be partial.
    """
    assert len(wanted) == -(-length_bytes // _BLOCK) and piece_bytes % _BLOCK == 0
    assert len(have) <= length_bytes // _BLOCK
    block = 0
    while block < len(wanted):
        if block < len(have) and have[block] == wanted[block]:
            block += 1
            continue
        first = block
        # A piece lies either within what is there, or behind it: it is one overwrite or one append.
        end = len(have) if first < len(have) else len(wanted)
        while block < end and (block - first) * _BLOCK < piece_bytes:
            if block < len(have) and have[block] == wanted[block]:
                break
            block += 1
        yield first * _BLOCK, min(block * _BLOCK, length_bytes) - first * _BLOCK


def require_filling(header: ChunkHeader | None, handle: ChunkHandle, version: ChunkVersion) -> ChunkHeader:
    """Raises: StaleVersion: the copy this piece belongs to is over."""
    if header is None or header.guest != FILLING or header.version != version:
        raise StaleVersion(f"chunk {handle:x}: no copy of version {version} is being made here any more")
    return header


def whole_header(header: ChunkHeader, *, sealed: bool) -> ChunkHeader:
    assert header.guest == FILLING, header
    return msgspec.structs.replace(header, guest=WHOLE, sealed=sealed, revision=header.revision + 1)
