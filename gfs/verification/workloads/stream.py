"""Streams: files written from their start to their end, published in one step, and read back whole.

Writes down
  operation `publish` {path, length, crc} and audit `file`, as the checker `durability` documents them: each
  path
    has one writer, which replaces what is there;
  operation `read_file` {path} → {length, crc}: a reader, which must find one file that was published, whole.
"""

from __future__ import annotations

import random

from gfs.checksums import crc32c
from gfs.client.client import AsyncClient
from gfs.errors import NotFound
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.replicas import audit_file
from gfs.verification.workloads.traffic import Actor, Traffic

FILES_PER_CLIENT = 3
SHARE_OF_READS = 0.5
PART_BYTES = 64 * 1024
PARTS_MAX = 4  # of most files; one of LONG_EVERY has so many times more
LONG_EVERY, LONG_TIMES = 25, 12


class StreamWorkload(Traffic):
    name = "stream"
    checkers: tuple[str, ...] = ("durability", "stale_reads", "fsck", "replay")
    floor_per_second = 2.0
    clients = 3

    def __init__(self, directory: str, chance: random.Random) -> None:
        super().__init__(directory, chance)
        self._written: set[str] = set()  # paths that somebody has begun to write

    async def step(self, actor: Actor) -> bool:
        if actor.chance.random() < SHARE_OF_READS and self._written:
            path = actor.chance.choice(sorted(self._written))
            fetched = await actor.attempt(
                "read_file",
                {"path": path},
                actor.client.read_bytes(path),
                result=lambda data: {"length": len(data), "crc": crc32c(data)},
            )
            return fetched.ok or fetched.error == NotFound.code
        path = f"{self.directory}/stream-{actor.number}-{actor.chance.randrange(FILES_PER_CLIENT)}"
        self._written.add(path)
        return await publish(actor, path, _parts(actor.chance))

    async def look(self, client: AsyncClient, subject: Subject, recorder: Recorder) -> None:
        for path in sorted(self._written):
            await audit_file(client, recorder, self.name, path)


async def publish(actor: Actor, path: str, parts: list[bytes]) -> bool:
    async def write() -> None:
        async with await actor.client.open(path, "wb", atomic=True) as file:
            for part in parts:
                await file.write(part)

    content = b"".join(parts)
    attempt = await actor.attempt(
        "publish", {"path": path, "length": len(content), "crc": crc32c(content)}, write()
    )
    return attempt.ok


def _parts(chance: random.Random) -> list[bytes]:
    """No two are alike, so that a part in another's place shows; the last one is shorter."""
    times = LONG_TIMES if chance.randrange(LONG_EVERY) == 0 else 1
    parts = [chance.randbytes(PART_BYTES) for _ in range(times * chance.randint(0, PARTS_MAX))]
    return [*parts, chance.randbytes(chance.randrange(PART_BYTES))]
