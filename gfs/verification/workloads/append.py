"""Workload: many clients append records to a few files, each record telling whose it is and that it is whole.

Operations and audits are those that `checkers/append` documents.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from gfs.checksums import crc32c
from gfs.errors import NotFound
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.crowd import PAUSE_SECONDS, Worker, close, work, workers
from gfs.verification.workloads.marked_bytes import RECORD_BYTES_MIN, record, record_id, records_in
from gfs.verification.workloads.replica_audit import replicas_of

SMALL_BYTES_MAX, BIG_BYTES_MAX = 3000, 150_000  # the bigger ones are pushed down the chain (GFS §3.2)
BIG_SHARE = 0.03


class AppendWorkload:
    """Many writers append self-describing records to a few files, each exactly once."""

    name = "append"
    checkers: tuple[str, ...] = ("append",)
    floor_per_second = 2.0
    pause_seconds = PAUSE_SECONDS
    writers, files = 4, 2

    def __init__(self, directory: str, chance: random.Random) -> None:
        self._directory, self._chance = directory, chance
        self._paths = [f"{directory}/log-{number}" for number in range(self.files)]
        self._crowd: list[Worker] = []
        self._sequences = 0

    async def set_up(self, subject: Subject, recorder: Recorder) -> None:
        self._crowd = await workers(subject, recorder, self.name, self.writers, self._chance)
        client = self._crowd[0].client
        await client.mkdir(self._directory)
        for path in self._paths:
            await client.create(path)

    async def run(self, subject: Subject, recorder: Recorder, ended: Callable[[], bool]) -> None:
        await work(subject, self._crowd, self._append_one, ended, pause_seconds=self.pause_seconds)
        await close(self._crowd)

    async def _append_one(self, worker: Worker) -> None:
        chance, path = worker.chance, worker.chance.choice(self._paths)
        longest = BIG_BYTES_MAX if chance.random() < BIG_SHARE else SMALL_BYTES_MAX
        self._sequences += 1
        sequence = self._sequences
        data = record(worker.number, sequence, chance.randint(RECORD_BYTES_MIN, longest), chance)
        arguments = {
            "path": path,
            "id": record_id(worker.number, sequence),
            "length": len(data),
            "crc": crc32c(data),
            "exact": True,
        }
        await worker.process.run(
            "append",
            arguments,
            worker.client.record_append(path, data),
            result=lambda offset: {"offset": offset},
        )

    async def audit(self, subject: Subject, recorder: Recorder) -> None:
        client = await subject.client(f"{self.name}-audit")
        try:
            for path in self._paths:
                try:
                    await client.stat(path)
                except NotFound:  # nobody deletes it: the empty list says what is missing
                    recorder.audit(self.name, "file_records", path=path, records=[])
                    continue
                async for seen in replicas_of(subject, client, path):
                    found, strange = records_in(seen.content, seen.first_offset)
                    recorder.audit(
                        self.name,
                        "replica_records",
                        path=path,
                        index=seen.chunk_index,
                        handle=seen.handle,
                        version=seen.version,
                        server=seen.server,
                        length=len(seen.content),
                        records=[list(one) for one in found],
                        strange=[list(one) for one in strange],
                    )
                found, _ = records_in(await client.read_bytes(path), 0)
                recorder.audit(self.name, "file_records", path=path, records=[list(one) for one in found])
        finally:
            await client.close()
