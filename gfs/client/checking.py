"""How safe files are: the master's word, page by page, and replicas verified where they are (fsck)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from gfs.client.connections import Connections
from gfs.errors import GfsError, StaleVersion
from gfs.messages.check import (
    CheckFiles,
    CheckFilesReply,
    RepairFiles,
    RepairFilesReply,
    VerifyReplica,
    VerifyReplicaReply,
)
from gfs.messages.chunks import ChunkPlace, Replica
from gfs.messages.replicas import ChunkStatus, ChunkStatusReply
from gfs.settings import READ_RANGE_BYTES, REPAIR_FILES_MAX
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ChunkVersion, ServerId

VERIFY_SECONDS = 60.0  # for one replica: 64 MiB from a slow disk, behind others that are being verified
VERIFY_TRIES = 3  # a chunk that is being written differs from replica to replica for a moment


@dataclass(slots=True)
class VerifiedChunk:
    """`bad_blocks`: per replica that has some. `unread`: replicas that could not be verified, and why.

    `differing`: replicas whose bytes verify but are others than most replicas have: a mutation that failed
    has reached some of them (GFS §2.7.1: an inconsistent region).
    """

    bad_blocks: dict[ServerId, list[int]] = field(default_factory=dict)
    unread: dict[ServerId, str] = field(default_factory=dict)
    differing: list[ServerId] = field(default_factory=list)
    verified_bytes: int = 0


async def check_pages(
    connections: Connections, path: str, *, with_places: bool
) -> AsyncIterator[CheckFilesReply]:
    """The leader's judgement of everything below `path`, page by page. Raises: as Stat."""
    after, first_chunk = "", ChunkIndex(0)
    while True:
        request = CheckFiles(path=path, after=after, first_chunk=first_chunk, with_places=with_places)
        page = await connections.masters.ask_leader(request, CheckFilesReply, f"check {path}")
        yield page
        after, first_chunk = page.next_after, page.next_chunk
        if not after:
            return


async def repair(connections: Connections, paths: Sequence[str]) -> int:
    """Have the leader repair these files before others; returns how many of their chunks need it."""
    urged = 0
    for start in range(0, len(paths), REPAIR_FILES_MAX):
        request = RepairFiles(paths=list(paths[start : start + REPAIR_FILES_MAX]))
        found = await connections.masters.ask_leader(request, RepairFilesReply, "repair")
        urged += found.chunks
    return urged


async def replica_bytes(
    connections: Connections,
    *,
    control: Address,
    data: Address,
    handle: ChunkHandle,
    version: ChunkVersion,
    capability: bytes,
) -> bytes:
    """What one replica holds, to its committed length. Raises: GfsError, as the server answered."""
    settings = connections.settings
    status = await connections.caller.call(
        control,
        ChunkStatus(handle=handle, version=version, capability=capability),
        ChunkStatusReply,
        deadline_seconds=settings.call_seconds,
    )
    found = bytearray(status.length_bytes)
    for first in range(0, len(found), READ_RANGE_BYTES):
        part = memoryview(found)[first : first + READ_RANGE_BYTES]

        def read(first: int = first, part: memoryview = part) -> tuple[int, int]:
            return connections.bulk.read_into(
                data,
                handle,
                version,
                first,
                part,
                deadline_seconds=settings.data_seconds,
                capability=capability,
            )

        await connections.to_its_end(read)
    return bytes(found)


async def verify_chunk(connections: Connections, place: ChunkPlace) -> VerifiedChunk:
    """Have every replica of a chunk read and verified now, and compare what they hold."""
    for _ in range(VERIFY_TRIES):
        answers = await asyncio.gather(*(_verify(connections, place, replica) for replica in place.replicas))
        found, is_steady = _compare(place, answers)
        if is_steady:
            break
    return found


async def _verify(
    connections: Connections, place: ChunkPlace, replica: Replica
) -> VerifyReplicaReply | GfsError:
    try:
        return await connections.caller.call(
            replica.control,
            VerifyReplica(handle=place.handle, version=place.version, capability=place.capability),
            VerifyReplicaReply,
            deadline_seconds=VERIFY_SECONDS,
        )
    except GfsError as error:
        return error


def _compare(
    place: ChunkPlace, answers: Sequence[VerifyReplicaReply | GfsError]
) -> tuple[VerifiedChunk, bool]:
    found = VerifiedChunk()
    tables: dict[ServerId, tuple[int, ...]] = {}
    lengths: set[int] = set()
    for replica, answer in zip(place.replicas, answers, strict=True):
        if isinstance(answer, StaleVersion):
            continue  # granted anew since it was looked up: it is being written, or repaired, right now
        if isinstance(answer, GfsError):
            found.unread[replica.server] = f"{answer.code}: {answer.message}"
            continue
        found.verified_bytes += answer.length_bytes
        lengths.add(answer.length_bytes)
        if answer.bad_blocks:
            found.bad_blocks[replica.server] = answer.bad_blocks
        else:
            tables[replica.server] = tuple(answer.block_checksums)
    counted = Counter(tables.values())
    if len(counted) > 1:
        usual = max(counted, key=lambda table: (counted[table], len(table)))
        found.differing = [server for server, table in tables.items() if table != usual]
    return found, not found.differing
