"""Every replica of a file's chunks as it lies on its server's disk, when all has settled. Judges nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.verification.subject import Subject
from gfs.vocabulary import CHUNK_BYTES

TRIES, TRY_SECONDS = 40, 0.5  # a chunk may be on its way to a new version, or its replica to another server


class ReplicaSeen(NamedTuple):
    chunk_index: int
    handle: int
    version: int
    server: str
    content: bytes

    @property
    def first_offset(self) -> int:
        return self.chunk_index * CHUNK_BYTES


async def replicas_of(subject: Subject, client: AsyncClient, path: str) -> AsyncIterator[ReplicaSeen]:
    """All replicas of all chunks, each read once.

    Raises: GfsError, when a replica that a client would be sent to cannot be read, again and again.
    """
    count = len(await client.chunks(path))
    for index in range(count):
        for seen in await _of_one_chunk(subject, client, path, index):
            yield seen


async def _of_one_chunk(subject: Subject, client: AsyncClient, path: str, index: int) -> list[ReplicaSeen]:
    for left in reversed(range(TRIES)):
        place = (await client.chunks(path))[index]
        try:
            return [
                ReplicaSeen(
                    index,
                    place.handle,
                    place.version,
                    replica.server,
                    await subject.replica_bytes(client, replica.control, place.handle, place.version),
                )
                for replica in place.replicas
            ]
        except GfsError:
            # The version has gone on, or a replica has moved, since the master was asked.
            if not left:
                raise
            await subject.sleep(TRY_SECONDS)
    raise AssertionError("the last try returns or raises")
