"""Regions: writes at offsets, overlapping and not, within and across blocks and chunks (GFS §2.7, §3.1).

Writes down
  operation `write` {path, offset, length, tag, piece} and audits `replica_spans` and `file_spans`, as the
    checker `regions` documents them;
  operation `read` {path, offset, length} → {spans}: [[offset, length, tag], …], what a reader sees meanwhile.
In the file `own` each region of OWN_BYTES has one writer, which does one thing after the other: reads of it
can be judged exactly. In `shared` everybody writes anywhere. In one run of eight `shared` lies around the end
of its first chunk.
"""

from __future__ import annotations

import random

from gfs.client.client import AsyncClient
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.marks import CELL_BYTES, find_spans, make_cells
from gfs.verification.workloads.replicas import audit_spans
from gfs.verification.workloads.traffic import Actor, Traffic
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES

OWN_BYTES = 2 * CHECKSUM_BLOCK_BYTES
SHARED_BYTES = 6 * CHECKSUM_BLOCK_BYTES
WRITE_BYTES_MAX = 2 * CHECKSUM_BLOCK_BYTES
SHARE_OF_CROSSING_RUNS = 0.125
SHARE_OF_READS = 0.35
SHARE_OF_OWN = 0.5
assert OWN_BYTES % CELL_BYTES == 0 and CHUNK_BYTES % CELL_BYTES == 0


class RegionsWorkload(Traffic):
    name = "regions"
    checkers: tuple[str, ...] = ("regions", "stale_reads", "fsck", "leases", "replay")
    floor_per_second = 3.0
    clients = 4

    def __init__(self, directory: str, chance: random.Random) -> None:
        super().__init__(directory, chance)
        self.crosses_chunks = chance.random() < SHARE_OF_CROSSING_RUNS
        self._tags = Tags()

    @property
    def own(self) -> str:
        return f"{self.directory}/own"

    @property
    def shared(self) -> str:
        return f"{self.directory}/shared"

    async def prepare(self, client: AsyncClient) -> None:
        await client.create(self.own)
        await client.create(self.shared)
        if self.crosses_chunks:
            # All of the first chunk is there, if only as zeros: no write leaves a chunk out.
            await client.write(self.shared, CHUNK_BYTES - CELL_BYTES, bytes(CELL_BYTES))

    async def step(self, actor: Actor) -> bool:
        chance = actor.chance
        reads = chance.random() < SHARE_OF_READS
        if chance.random() < SHARE_OF_OWN:
            owner = chance.randrange(self.clients) if reads else actor.number
            path, low, high = self.own, owner * OWN_BYTES, (owner + 1) * OWN_BYTES
        else:
            low = CHUNK_BYTES - SHARED_BYTES // 2 if self.crosses_chunks else 0
            path, high = self.shared, low + SHARED_BYTES
        offset, length = _range(chance, low, high)
        if reads:
            return await read_spans(actor, path, offset, length)
        return await self._tags.write(actor, path, offset, length)

    async def look(self, client: AsyncClient, subject: Subject, recorder: Recorder) -> None:
        for path in (self.own, self.shared):
            await audit_spans(client, subject, recorder, self.name, path)


class Tags:
    """Numbers the writes of one workload: every tag is of one write."""

    def __init__(self) -> None:
        self._last = 0

    async def write(self, actor: Actor, path: str, offset: int, length: int) -> bool:
        self._last += 1
        tag = self._last
        attempt = await actor.attempt(
            "write",
            {
                "path": path,
                "offset": offset,
                "length": length,
                "tag": tag,
                "piece": actor.client.settings.piece_bytes,
            },
            actor.client.write(path, offset, make_cells(tag, length)),
        )
        return attempt.ok


async def read_spans(actor: Actor, path: str, offset: int, length: int) -> bool:
    attempt = await actor.attempt(
        "read",
        {"path": path, "offset": offset, "length": length},
        actor.client.read(path, offset, length),
        result=lambda data: {"spans": [list(span) for span in find_spans(data, offset)]},
    )
    return attempt.ok


def _range(chance: random.Random, low: int, high: int) -> tuple[int, int]:
    """Whole cells between `low` and `high`; half of the ranges keep to a checksum block's ends."""
    unit = CHECKSUM_BLOCK_BYTES if chance.random() < 0.5 else CELL_BYTES
    length = unit * chance.randint(1, min(WRITE_BYTES_MAX, high - low) // unit)
    offset = low + unit * chance.randint(0, (high - low - length) // unit)
    return offset, length
