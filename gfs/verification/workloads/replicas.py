"""Audits of files' bytes: each replica of each chunk as it is on its disk, and the file as the SDK reads it.

Besides what `marks` finds in them: audit `replica_unread` {path, index, handle, version, server, error}, of a
replica that the masters count on and whose bytes could not be had, after UNREAD_TRIES looks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from gfs.checksums import crc32c
from gfs.client.client import AsyncClient
from gfs.client.core.striping import chunk_start
from gfs.errors import GfsError, NotFound
from gfs.messages.chunks import ChunkPlace
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.marks import find_records, find_spans
from gfs.verification.workloads.sparse import records_and_end

UNREAD_TRIES = 3  # a replica may be moved between the look at the masters and that at its disk
UNREAD_PAUSE_SECONDS = 1.0


class RawReplica(NamedTuple):
    place: ChunkPlace
    server: str
    data: bytes

    def facts(self, path: str) -> dict[str, str | int]:
        return {
            "path": path,
            "index": self.place.index,
            "handle": self.place.handle,
            "version": self.place.version,
            "server": self.server,
            "length": len(self.data),
        }


async def audit_records(
    client: AsyncClient, subject: Subject, recorder: Recorder, workload: str, path: str, *, framed: bool
) -> None:
    """`replica_records` and `file_records`, see the checker `append`. Raises: GfsError."""
    async for replica in raw_replicas(client, subject, recorder, workload, path):
        found = find_records(replica.data, chunk_start(replica.place.index))
        recorder.audit(
            workload,
            "replica_records",
            **replica.facts(path),
            records=[list(record) for record in found.records],
            strange=[list(part) for part in found.strange],
        )
    recorder.audit(workload, "file_records", path=path, records=await records_of(client, path, framed=framed))


async def records_of(client: AsyncClient, path: str, *, framed: bool) -> list[list[int | str]]:
    """[[offset, id, length, crc], …] as a reader finds them. Raises: GfsError."""
    if not framed:
        return [list(record) for record in (await records_and_end(client, path))[0]]
    found: list[list[int | str]] = []
    async for record in client.records(path):
        for mark in find_records(record.payload).records:
            found.append([record.offset_bytes, mark.id, mark.length, mark.crc])
    return found


async def audit_spans(
    client: AsyncClient, subject: Subject, recorder: Recorder, workload: str, path: str
) -> None:
    """`replica_spans` and `file_spans`, see the checker `regions`. Raises: GfsError."""
    async for replica in raw_replicas(client, subject, recorder, workload, path):
        recorder.audit(
            workload,
            "replica_spans",
            **replica.facts(path),
            crc=crc32c(replica.data),
            spans=[list(span) for span in find_spans(replica.data, chunk_start(replica.place.index))],
        )
    data = await client.read_bytes(path)
    recorder.audit(workload, "file_spans", path=path, spans=[list(span) for span in find_spans(data)])


async def audit_file(client: AsyncClient, recorder: Recorder, workload: str, path: str) -> None:
    """`file`, see the checker `durability`. Raises nothing of the file's own."""
    try:
        data = await client.read_bytes(path)
    except NotFound:
        recorder.audit(workload, "file", path=path, exists=False, length=0, crc=0)
    except GfsError as error:
        recorder.audit(workload, "file", path=path, exists=True, length=0, crc=0, error=error.code)
    else:
        recorder.audit(workload, "file", path=path, exists=True, length=len(data), crc=crc32c(data))


async def raw_replicas(
    client: AsyncClient, subject: Subject, recorder: Recorder, workload: str, path: str
) -> AsyncIterator[RawReplica]:
    """Chunk by chunk, all replicas of one version. Raises: GfsError of the look at the masters."""
    count = len(await client.chunks(path))
    for index in range(count):
        for tries_left in reversed(range(UNREAD_TRIES)):
            place = (await client.chunks(path))[index]
            replicas, unread = await _all_replicas(client, subject, place)
            if not unread or not tries_left:
                break
            await subject.sleep(UNREAD_PAUSE_SECONDS)
        for replica in replicas:
            yield replica
        for server, error in unread:
            recorder.audit(
                workload,
                "replica_unread",
                path=path,
                index=place.index,
                handle=place.handle,
                version=place.version,
                server=server,
                error=error,
            )


async def _all_replicas(
    client: AsyncClient, subject: Subject, place: ChunkPlace
) -> tuple[list[RawReplica], list[tuple[str, str]]]:
    found: list[RawReplica] = []
    unread: list[tuple[str, str]] = []
    for replica in place.replicas:
        try:
            data = await subject.replica_bytes(
                client, replica.control, place.handle, place.version, place.capability
            )
        except GfsError as error:
            unread.append((replica.server, f"{error.code}: {error.message}"))
        else:
            found.append(RawReplica(place, replica.server, data))
    return found, unread
