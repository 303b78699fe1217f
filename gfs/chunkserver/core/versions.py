"""Decisions on one replica's version, master term, length and seal. No I/O.

I1, I3: a version once taken fences all lower ones, and a master of a lower term is refused. I5: a replica
that missed mutations (its version is older than the oldest one asked for) is never brought up.
"""

from __future__ import annotations

import msgspec

from gfs.chunkserver.core.chunk_record import WHOLE, ChunkHeader
from gfs.errors import ChunkSealed, GfsError, InvalidArgument, NotFound, StaleVersion, Superseded, Unavailable
from gfs.vocabulary import CHUNK_BYTES, ChunkHandle, ChunkVersion, Term


def header_after_bump(
    header: ChunkHeader | None,
    handle: ChunkHandle,
    version: ChunkVersion,
    *,
    oldest_version: ChunkVersion,
    create: bool,
    master_term: Term,
    durable: bool = False,
) -> ChunkHeader:
    """The header to persist; equal to `header` when the bump is a repetition.

    Raises: NotFound, Superseded, StaleVersion, InvalidArgument.
    """
    if version <= 0 or oldest_version > version:
        raise InvalidArgument(f"chunk {handle:x}: version {version}, oldest {oldest_version}")
    if header is None:
        if not create:
            raise NotFound(f"chunk {handle:x} is not here")
        return ChunkHeader(
            version=version,
            length_bytes=0,
            tail_sum=0,
            revision=1,
            master_term=master_term,
            replaced_version=ChunkVersion(0),
            durable=durable,
        )
    require_term(header, handle, master_term)
    if header.guest and (create or header.guest != WHOLE or header.version >= version):
        # Only a set that was joined by a copy asks for one, and it knows that members hold its version.
        raise NotFound(f"chunk {handle:x} is being copied here, it is no replica yet")
    if header.version > version or header.version < oldest_version:
        raise stale(handle, header, f"version {version} (oldest {oldest_version}) was asked")
    if (header.version, header.master_term) == (version, master_term):
        return header
    replaced = header.version if header.version < version else header.replaced_version
    return msgspec.structs.replace(
        header,
        version=version,
        replaced_version=replaced,
        master_term=master_term,
        revision=header.revision + 1,
        guest=0,
        durable=durable,
    )


def header_after_cut(
    header: ChunkHeader,
    length: int,
    *,
    tail_sum: int,
    master_term: Term,
    seal: bool,
) -> ChunkHeader:
    """The header to persist; `header` itself for a sealed chunk, which is on the disk as it is.

    A cut to the length held is recorded all the same: it promises that this length is on the disk.
    `tail_sum` is that of `length`.
    """
    if header.sealed:
        assert length == header.length_bytes, (length, header)
        return header
    return msgspec.structs.replace(
        header,
        length_bytes=length,
        tail_sum=tail_sum,
        sealed=seal,
        short_version=settled_short_version(header),
        revision=header.revision + 1,
        master_term=max(master_term, header.master_term),
    )


def header_to_copy(
    header: ChunkHeader | None,
    handle: ChunkHandle,
    version: ChunkVersion,
    *,
    oldest_version: ChunkVersion,
    master_term: Term,
) -> ChunkHeader:
    """The header of a copy, at `version`, of a replica that is written to no more (GFS §3.4).

    A replica that a bump has not reached is as good as one that it has: nothing was acknowledged since.
    Raises: NotFound, Superseded, StaleVersion, InvalidArgument.
    """
    if version <= 0 or not 0 <= oldest_version <= version:
        raise InvalidArgument(f"chunk {handle:x}: version {version}, oldest {oldest_version}")
    if header is None or header.guest:
        raise NotFound(f"chunk {handle:x} is not here")
    require_term(header, handle, master_term)
    if not oldest_version <= header.version <= version:
        raise stale(handle, header, f"a copy at version {version} (oldest {oldest_version}) was asked")
    return msgspec.structs.replace(header, version=version, master_term=master_term, revision=1, sealed=False)


def check_cut(header: ChunkHeader, handle: ChunkHandle, length: int, master_term: Term) -> None:
    """Raises: Superseded, ChunkSealed, InvalidArgument; StaleVersion when the replica is shorter."""
    if not 0 <= length <= CHUNK_BYTES:
        raise InvalidArgument(f"chunk {handle:x}: length {length}")
    if master_term:
        require_term(header, handle, master_term)
    if length > header.length_bytes:
        raise stale(handle, header, f"it holds {header.length_bytes} bytes, not {length}")
    if header.sealed and length < header.length_bytes:
        raise ChunkSealed(f"chunk {handle:x} is sealed at {header.length_bytes} bytes")


def settled_short_version(header: ChunkHeader) -> ChunkVersion:
    """The doubt that is left once a set that knew of it acts under `header`'s version.

    A doubt that arose under this very version stays: its set was made before the power was cut.
    """
    return ChunkVersion(0) if header.short_version < header.version else header.short_version


def require_writable(header: ChunkHeader, handle: ChunkHandle) -> None:
    """Raises: ChunkSealed; Unavailable when bytes may be missing and no newer set has settled the length.

    An append would fill the place of the missing bytes with zeros.
    """
    if header.sealed:
        raise ChunkSealed(f"chunk {handle:x} is sealed at {header.length_bytes} bytes")
    if header.short_version == header.version:
        raise Unavailable(
            f"chunk {handle:x} version {header.version} may lack bytes since a power cut: a new grant is due"
        )


def held(header: ChunkHeader | None, handle: ChunkHandle, version: ChunkVersion) -> ChunkHeader:
    """Raises: NotFound, StaleVersion with what is held in its details."""
    if header is None or header.guest:
        raise NotFound(f"chunk {handle:x} is not here")
    if header.version != version:
        raise stale(handle, header, f"version {version} was asked")
    return header


def require_term(header: ChunkHeader, handle: ChunkHandle, master_term: Term) -> None:
    if master_term < header.master_term:
        raise Superseded(
            f"chunk {handle:x} obeys the master of term {header.master_term}, not {master_term}",
            details={"term": str(header.master_term)},
        )


def stale(handle: ChunkHandle, header: ChunkHeader, why: str) -> GfsError:
    return StaleVersion(
        f"chunk {handle:x} is held in version {header.version}; {why}",
        details={"version": str(header.version), "length_bytes": str(header.length_bytes)},
    )
