"""Workload: whole files are written, appear under their names in one step, and are read back.

Operations and audits of `publish` are those that `checkers/durability` documents.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from gfs.checksums import crc32c
from gfs.errors import GfsError, NotFound
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.crowd import PAUSE_SECONDS, Worker, close, work, workers

WRITERS, NAMES = 2, 12
FILE_BYTES_MAX = 300_000
READ_SHARE = 0.4


class StreamWorkload:
    """Files are written whole, published atomically under few names, and read back."""

    name = "stream"
    checkers: tuple[str, ...] = ("durability",)
    floor_per_second = 1.0
    pause_seconds = PAUSE_SECONDS

    def __init__(self, directory: str, chance: random.Random) -> None:
        self._directory, self._chance = directory, chance
        self._crowd: list[Worker] = []
        self._published: set[str] = set()

    async def set_up(self, subject: Subject, recorder: Recorder) -> None:
        self._crowd = await workers(subject, recorder, self.name, WRITERS, self._chance)
        await self._crowd[0].client.mkdir(self._directory)

    async def run(self, subject: Subject, recorder: Recorder, ended: Callable[[], bool]) -> None:
        await work(subject, self._crowd, self._one, ended, pause_seconds=self.pause_seconds)
        await close(self._crowd)

    async def _one(self, worker: Worker) -> None:
        chance = worker.chance
        # Each name has one writer, who publishes it again and again.
        path = f"{self._directory}/{worker.number}-{chance.randrange(NAMES)}"
        if path in self._published and chance.random() < READ_SHARE:
            await worker.process.run(
                "read_file",
                {"path": path},
                worker.client.read_bytes(path),
                result=lambda data: {"length": len(data), "crc": crc32c(data)},
            )
            return
        data = chance.randbytes(chance.randint(1, FILE_BYTES_MAX))
        self._published.add(path)
        await worker.process.run(
            "publish",
            {"path": path, "length": len(data), "crc": crc32c(data)},
            worker.client.write_bytes(path, data, atomic=True),
        )

    async def audit(self, subject: Subject, recorder: Recorder) -> None:
        client = await subject.client(f"{self.name}-audit")
        try:
            for path in sorted(self._published):
                try:
                    data = await client.read_bytes(path)
                except NotFound:
                    recorder.audit(self.name, "file", path=path, exists=False, length=0, crc=0)
                except GfsError as error:
                    recorder.audit(
                        self.name, "file", path=path, exists=True, length=0, crc=0, error=error.code
                    )
                else:
                    recorder.audit(
                        self.name, "file", path=path, exists=True, length=len(data), crc=crc32c(data)
                    )
        finally:
            await client.close()
