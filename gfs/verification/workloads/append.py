"""Record append: many writers in few files, every record telling whose it is (GFS §3.3, I9).

Writes down
  operation `append` and audits `replica_records` and `file_records`, as the checker `append` documents them;
    `id` is the writer's number in hexadecimal, ".", its sequence. `length` and `crc` are of the record
    without the frame that the SDK puts before it in framed files. Some files are framed; both kinds promise
    exactly once (`exact`).
  operation `read_records` {path, offset} → {records, end}, as the checker `stale_reads` documents it; of a
    file that has grown past a chunk without its holes (see `sparse`).
In one run of eight the first file begins CHUNK_LEFT_BYTES before the end of a chunk, so that records meet it.
"""

from __future__ import annotations

import random

from gfs.checksums import crc32c
from gfs.client.client import AsyncClient
from gfs.verification.history import Json
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.marks import (
    CELL_BYTES,
    RECORD_HEAD_BYTES,
    find_records,
    make_record,
    record_id,
)
from gfs.verification.workloads.replicas import audit_records
from gfs.verification.workloads.sparse import Reached, records_and_end
from gfs.verification.workloads.traffic import Actor, Traffic
from gfs.vocabulary import CHUNK_BYTES

FILES = 3
CHUNK_LEFT_BYTES = 192 * 1024
SHARE_OF_CROSSING_RUNS = 0.125
SHARE_OF_READS = 0.12
RECORD_BYTES_MAX = 3000
BIG_RECORD_BYTES_MAX = 100_000
SHARE_OF_BIG_RECORDS = 0.04


class AppendWorkload(Traffic):
    name = "append"
    checkers: tuple[str, ...] = ("append", "stale_reads", "fsck", "leases", "replay")
    floor_per_second = 3.0
    clients = 5

    def __init__(self, directory: str, chance: random.Random) -> None:
        super().__init__(directory, chance)
        self.files = FILES
        self.crosses_chunks = chance.random() < SHARE_OF_CROSSING_RUNS
        self._writers = RecordWriters(chance.getrandbits(31))

    @property
    def paths(self) -> list[str]:
        return [f"{self.directory}/records-{number}" for number in range(self.files)]

    async def prepare(self, client: AsyncClient) -> None:
        for path in self.paths:
            await client.create(path)
        if self.crosses_chunks:
            await client.write(self.paths[0], CHUNK_BYTES - CHUNK_LEFT_BYTES, bytes(CELL_BYTES))

    async def step(self, actor: Actor) -> bool:
        chance = actor.chance
        number = chance.randrange(self.files)
        path = self.paths[number]
        # Whole files are read: the long one of a run that crosses chunks is left to the audit.
        if chance.random() < SHARE_OF_READS and not (self.crosses_chunks and number == 0):
            return await self._read(actor, path)
        is_big = chance.random() < SHARE_OF_BIG_RECORDS
        payload_bytes = chance.randrange(BIG_RECORD_BYTES_MAX if is_big else RECORD_BYTES_MAX)
        return await self._writers.append(actor, path, payload_bytes, framed=self.is_framed(number))

    async def look(self, client: AsyncClient, subject: Subject, recorder: Recorder) -> None:
        for number, path in enumerate(self.paths):
            await audit_records(client, subject, recorder, self.name, path, framed=self.is_framed(number))

    async def _read(self, actor: Actor, path: str) -> bool:
        async def read() -> dict[str, Json]:
            if self._writers.reached.has_holes(path):
                records, end = await records_and_end(actor.client, path)
            else:
                data = await actor.client.read_bytes(path)
                records, end = find_records(data).records, len(data)
            return {"records": [[r.offset, r.id] for r in records], "end": end}

        done = await actor.attempt(
            "read_records", {"path": path, "offset": 0}, read(), result=lambda told: told
        )
        return done.ok

    def is_framed(self, number: int) -> bool:
        return number % 2 == 1


class RecordWriters:
    """Numbers the records of one workload's clients: none is ever made twice."""

    def __init__(self, base: int) -> None:
        self._base = base
        self.reached = Reached()
        self._sequences: dict[int, int] = {}

    async def append(self, actor: Actor, path: str, payload_bytes: int, *, framed: bool) -> bool:
        client = (self._base + actor.number) % 2**32
        sequence = self._sequences[actor.number] = self._sequences.get(actor.number, 0) + 1
        record = make_record(client, sequence, payload_bytes, actor.chance)
        assert len(record) == RECORD_HEAD_BYTES + payload_bytes
        attempt = await actor.attempt(
            "append",
            {
                "path": path,
                "id": record_id(client, sequence),
                "length": len(record),
                "crc": crc32c(record),
                "exact": True,
            },
            actor.client.record_append(path, record, framed=framed),
            result=lambda offset: {"offset": offset},
        )
        if attempt.answer is not None:
            self.reached.note(path, attempt.answer + len(record))
        return attempt.ok
