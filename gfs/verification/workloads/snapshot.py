"""Snapshots: counters are appended to the files of a tree, and the tree is copied meanwhile (GFS §3.4, I10).

Writes down, as the checker `snapshot` documents them
  operation `count` {path, value}: each file of the tree `source` has one client, which appends 1, 2, 3 …;
    what was refused or lost is tried again;
  operation `snapshot` {source, target}: a target is used once;
  operation `copy` {source, target} → {files}: by who made it, when the snapshot has returned;
  operation `delete` {path, recursive, skip_trash} of a copy, without a partition. Every second one is past
    the trash: what it shares with other copies and the source is reclaimed while those are read and written;
  audit `copy` {source, target, files}: each copy that was acknowledged and not deleted, at the end.
A file of a copy without its file counts as -1, too.
"""

from __future__ import annotations

import random
from collections import Counter

from gfs.client.client import AsyncClient
from gfs.errors import NotFound
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.marks import MarkedRecord, find_records, make_record, record_id
from gfs.verification.workloads.sparse import Reached, records_and_end
from gfs.verification.workloads.traffic import Actor, Traffic

COPIES_KEPT = 2
SNAPSHOT_EVERY = 3  # steps of the client that takes them; in the others it counts, too
PADDING_BYTES_MAX = 200  # of a record, so that they are not all alike
BROKEN = -1


class SnapshotWorkload(Traffic):
    name = "snapshot"
    checkers: tuple[str, ...] = ("snapshot", "garbage", "fsck", "replay")
    floor_per_second = 3.0
    clients = 4

    def __init__(self, directory: str, chance: random.Random) -> None:
        super().__init__(directory, chance)
        self._reached: Counter[int] = Counter()  # by client: the highest value acknowledged
        self._tries: Counter[str] = Counter()  # by record: how often it was appended, or may have been
        self._files = Reached()  # by client, as copies are no longer than their sources
        self._steps = 0
        self._copies: list[str] = []  # acknowledged, and not deleted
        self._taken = self._deleted = 0

    @property
    def source(self) -> str:
        return f"{self.directory}/source"

    async def prepare(self, client: AsyncClient) -> None:
        await client.mkdir(self.source)
        for number in range(self.clients):
            await client.create(f"{self.source}/{number}")

    async def step(self, actor: Actor) -> bool:
        if actor.number == 0:
            self._steps += 1
            if self._steps % SNAPSHOT_EVERY == 0:
                return await self._take_one(actor)
        return await self._count(actor)

    async def look(self, client: AsyncClient, subject: Subject, recorder: Recorder) -> None:
        for target in self._copies:
            files = await self._read_copy(client, target)
            recorder.audit(self.name, "copy", source=self.source, target=target, files=files)

    async def _count(self, actor: Actor) -> bool:
        path, value = f"{self.source}/{actor.number}", self._reached[actor.number] + 1
        record = make_record(actor.number, value, actor.chance.randrange(PADDING_BYTES_MAX), actor.chance)
        self._tries[record_id(actor.number, value)] += 1
        counted = await actor.attempt(
            "count", {"path": path, "value": value}, actor.client.record_append(path, record)
        )
        if counted.answer is not None:
            self._reached[actor.number] = value
            self._files.note(str(actor.number), counted.answer + len(record))
        return counted.ok

    async def _take_one(self, actor: Actor) -> bool:
        self._taken += 1
        target = f"{self.directory}/copy-{self._taken}"
        names = {"source": self.source, "target": target}
        taken = await actor.attempt("snapshot", names, actor.client.snapshot(self.source, target))
        if not taken.ok:
            return False
        self._copies.append(target)
        read = await actor.attempt(
            "copy", names, self._read_copy(actor.client, target), result=lambda files: {"files": files}
        )
        if len(self._copies) > COPIES_KEPT:
            gone = self._copies.pop(actor.chance.randrange(len(self._copies)))
            self._deleted += 1
            how = {"recursive": True, "skip_trash": self._deleted % 2 == 1}
            await actor.attempt("delete", {"path": gone, **how}, actor.client.delete(gone, **how))
        return read.ok

    async def _read_copy(self, client: AsyncClient, target: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for number in range(self.clients):
            path = f"{target}/{number}"
            try:
                if self._files.has_holes(str(number)):
                    records, _ = await records_and_end(client, path)
                else:
                    records = find_records(await client.read_bytes(path)).records
            except NotFound:
                found[str(number)] = BROKEN
            else:
                found[str(number)] = self._highest(number, records)
        return found

    def _highest(self, number: int, records: list[MarkedRecord]) -> int:
        """BROKEN unless all values up to it are there, and none more often than it was tried."""
        times = Counter(record.id for record in records)
        highest = len(times)
        wanted = {record_id(number, value) for value in range(1, highest + 1)}
        repeated = any(count > self._tries[record] for record, count in times.items())
        return BROKEN if set(times) != wanted or repeated else highest
