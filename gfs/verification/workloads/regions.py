"""Workload: clients write over each other in a few files; every byte tells which write it is of.

Operations and audits are those that `checkers/regions` documents.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from gfs.checksums import crc32c
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.crowd import PAUSE_SECONDS, Worker, close, work, workers
from gfs.verification.workloads.marked_bytes import CELL_BYTES, cells, spans_in
from gfs.verification.workloads.replica_audit import replicas_of

WRITERS, FILES = 3, 2
FILE_BYTES = 192 * 1024  # three checksum blocks: writes lie within and across their borders
WRITE_BYTES_MAX = 24 * 1024
PIECE_BYTES = 2**20  # no file is longer, so that each write is one mutation whatever the client's pieces are
assert FILE_BYTES <= PIECE_BYTES


class RegionsWorkload:
    """Several writers overwrite regions of the same files, within and across checksum blocks."""

    name = "regions"
    checkers: tuple[str, ...] = ("regions",)
    floor_per_second = 2.0
    pause_seconds = PAUSE_SECONDS

    def __init__(self, directory: str, chance: random.Random) -> None:
        self._directory, self._chance = directory, chance
        self._paths = [f"{directory}/file-{number}" for number in range(FILES)]
        self._crowd: list[Worker] = []
        self._tags = 0

    async def set_up(self, subject: Subject, recorder: Recorder) -> None:
        self._crowd = await workers(subject, recorder, self.name, WRITERS, self._chance)
        client = self._crowd[0].client
        await client.mkdir(self._directory)
        for path in self._paths:
            await client.create(path)

    async def run(self, subject: Subject, recorder: Recorder, ended: Callable[[], bool]) -> None:
        await work(subject, self._crowd, self._write_one, ended, pause_seconds=self.pause_seconds)
        await close(self._crowd)

    async def _write_one(self, worker: Worker) -> None:
        chance, path = worker.chance, worker.chance.choice(self._paths)
        length = CELL_BYTES * chance.randint(1, WRITE_BYTES_MAX // CELL_BYTES)
        offset = CELL_BYTES * chance.randint(0, (FILE_BYTES - length) // CELL_BYTES)
        self._tags += 1
        tag = self._tags
        await worker.process.run(
            "write",
            {"path": path, "offset": offset, "length": length, "tag": tag, "piece": PIECE_BYTES},
            worker.client.write(path, offset, cells(tag, length)),
        )

    async def audit(self, subject: Subject, recorder: Recorder) -> None:
        client = await subject.client(f"{self.name}-audit")
        try:
            for path in self._paths:
                async for seen in replicas_of(subject, client, path):
                    recorder.audit(
                        self.name,
                        "replica_spans",
                        path=path,
                        index=seen.chunk_index,
                        handle=seen.handle,
                        version=seen.version,
                        server=seen.server,
                        length=len(seen.content),
                        crc=crc32c(seen.content),
                        spans=[list(span) for span in spans_in(seen.content, seen.first_offset)],
                    )
                read = await client.read_bytes(path)
                recorder.audit(
                    self.name, "file_spans", path=path, spans=[list(span) for span in spans_in(read, 0)]
                )
        finally:
            await client.close()
