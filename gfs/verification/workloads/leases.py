"""Leases: many writers and readers of two small files, so that primaries change under load (GFS §3.1).

Writes down what the workloads `append` and `regions` do: records in the file `records`; in `cells` each
client writes its own OWN_BYTES and everybody reads all of them, so that a stale replica or an old primary
shows.
"""

from __future__ import annotations

import random

from gfs.client.client import AsyncClient
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.append import RecordWriters
from gfs.verification.workloads.marks import CELL_BYTES
from gfs.verification.workloads.regions import Tags, read_spans
from gfs.verification.workloads.replicas import audit_records, audit_spans
from gfs.verification.workloads.traffic import Actor, Traffic

OWN_BYTES = 512 * CELL_BYTES
RECORD_BYTES_MAX = 200
SHARES = {"append": 4, "write": 4, "read": 3}


class LeasesWorkload(Traffic):
    name = "leases"
    checkers: tuple[str, ...] = (
        "leases",
        "append",
        "regions",
        "stale_reads",
        "fsck",
        "replay",
    )
    floor_per_second = 4.0
    clients = 6

    def __init__(self, directory: str, chance: random.Random) -> None:
        super().__init__(directory, chance)
        self._writers = RecordWriters(chance.getrandbits(31))
        self._tags = Tags()

    @property
    def records(self) -> str:
        return f"{self.directory}/records"

    @property
    def cells(self) -> str:
        return f"{self.directory}/cells"

    async def prepare(self, client: AsyncClient) -> None:
        await client.create(self.records)
        await client.create(self.cells)

    async def step(self, actor: Actor) -> bool:
        (kind,) = actor.chance.choices(list(SHARES), list(SHARES.values()))
        if kind == "append":
            payload_bytes = actor.chance.randrange(RECORD_BYTES_MAX)
            return await self._writers.append(actor, self.records, payload_bytes, framed=False)
        if kind == "write":
            return await self._tags.write(actor, self.cells, actor.number * OWN_BYTES, OWN_BYTES)
        return await read_spans(actor, self.cells, 0, self.clients * OWN_BYTES)

    async def look(self, client: AsyncClient, subject: Subject, recorder: Recorder) -> None:
        await audit_records(client, subject, recorder, self.name, self.records, framed=False)
        await audit_spans(client, subject, recorder, self.name, self.cells)
