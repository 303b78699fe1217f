"""Workload: several others at once, in directories of their own, each as busy as the seed draws it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.append import AppendWorkload
from gfs.verification.workloads.namespace import NamespaceWorkload
from gfs.verification.workloads.regions import RegionsWorkload
from gfs.verification.workloads.stream import StreamWorkload

_Part = NamespaceWorkload | AppendWorkload | RegionsWorkload | StreamWorkload
_PAUSES = (0.05, 0.2, 0.8)  # seconds between two operations of one client


class MixWorkload:
    """Names, appends, regions and whole files at once, in shares drawn by the seed."""

    name = "mix"
    checkers: tuple[str, ...] = ("linearizability", "durability", "append", "regions")
    floor_per_second = 3.0

    def __init__(self, directory: str, chance: random.Random) -> None:
        self._directory = directory
        self._parts: list[_Part] = []
        for kind in (NamespaceWorkload, AppendWorkload, RegionsWorkload, StreamWorkload):
            part = kind(f"{directory}/{kind.name}", random.Random(chance.getrandbits(64)))
            part.name = self.name  # what its clients do is this workload's
            part.pause_seconds = chance.choice(_PAUSES)
            self._parts.append(part)

    async def set_up(self, subject: Subject, recorder: Recorder) -> None:
        client = await subject.client(f"{self.name}-set-up")
        try:
            await client.mkdir(self._directory)
        finally:
            await client.close()
        for part in self._parts:
            await part.set_up(subject, recorder)

    async def run(self, subject: Subject, recorder: Recorder, ended: Callable[[], bool]) -> None:
        await asyncio.gather(*(part.run(subject, recorder, ended) for part in self._parts))

    async def audit(self, subject: Subject, recorder: Recorder) -> None:
        for part in self._parts:
            await part.audit(subject, recorder)
