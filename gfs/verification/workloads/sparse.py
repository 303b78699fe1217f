"""Files of records read without their holes. What the records say is in `marks`.

A chunk that is sealed early leaves a hole up to its end. A file that met a few faults is soon a gigabyte of
zeros with a megabyte of records in it; reading it whole keeps a harness, which is one program, from all else.
"""

from __future__ import annotations

from gfs.client.client import AsyncClient
from gfs.client.core.striping import chunk_start
from gfs.verification.workloads.marks import MarkedRecord, find_records
from gfs.vocabulary import CHUNK_BYTES


class Reached:
    """How far files go, by what was acknowledged to the clients of one workload."""

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}

    def note(self, path: str, end: int) -> None:
        self._ends[path] = max(end, self._ends.get(path, 0))

    def has_holes(self, path: str) -> bool:
        """Whether it is worth asking where: files of one chunk are read in one call."""
        return self._ends.get(path, 0) > CHUNK_BYTES


async def records_and_end(client: AsyncClient, path: str) -> tuple[list[MarkedRecord], int]:
    """All records of a file, chunk by chunk, and where it ended. Raises: GfsError, as reads do.

    Holds what a read of all of it holds: a record that was acknowledged before is in a chunk that is listed,
    and in a sealed one within its length, which is final. (No record crosses chunks.)
    """
    found: list[MarkedRecord] = []
    end = 0
    for place in await client.chunks(path):
        start = chunk_start(place.index)
        length = place.length_bytes if place.sealed and place.length_bytes >= 0 else CHUNK_BYTES
        data = await client.read(path, start, length)
        found += find_records(data, start).records
        end = start + len(data)
    return found, end
