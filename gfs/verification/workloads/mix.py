"""Mix: several workloads at once, each in its own directory with few clients; chance says which and how
many.

Writes down what its parts do, all under the name `mix`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.append import AppendWorkload
from gfs.verification.workloads.final_state import look_at_cluster
from gfs.verification.workloads.leases import LeasesWorkload
from gfs.verification.workloads.namespace import NamespaceWorkload
from gfs.verification.workloads.regions import RegionsWorkload
from gfs.verification.workloads.snapshot import SnapshotWorkload
from gfs.verification.workloads.stream import StreamWorkload
from gfs.verification.workloads.traffic import Traffic
from gfs.verification.workloads.trash import TrashWorkload

# Namespace traffic is in every mix, so that what is asked of names is always judged.
OTHERS: tuple[type[Traffic], ...] = (
    AppendWorkload,
    RegionsWorkload,
    StreamWorkload,
    SnapshotWorkload,
    TrashWorkload,
    LeasesWorkload,
)
PARTS: tuple[type[Traffic], ...] = (NamespaceWorkload, *OTHERS)
OTHERS_MIN, OTHERS_MAX = 2, 4
CLIENTS_MIN, CLIENTS_MAX = 1, 3


class MixWorkload:
    name = "mix"
    checkers: tuple[str, ...] = tuple(dict.fromkeys(name for part in PARTS for name in part.checkers))
    floor_per_second = 3.0

    def __init__(self, directory: str, chance: random.Random) -> None:
        self.directory = directory
        kinds: list[type[Traffic]] = [
            NamespaceWorkload,
            *chance.sample(OTHERS, chance.randint(OTHERS_MIN, OTHERS_MAX)),
        ]
        self.parts: list[Traffic] = []
        for kind in kinds:
            part = kind(f"{directory}/{kind.name}", random.Random(chance.getrandbits(64)))
            part.name = self.name
            part.clients = chance.randint(CLIENTS_MIN, CLIENTS_MAX)
            self.parts.append(part)

    async def set_up(self, subject: Subject, recorder: Recorder) -> None:
        for part in self.parts:
            await part.set_up(subject, recorder)

    async def run(self, subject: Subject, recorder: Recorder, ended: Callable[[], bool]) -> None:
        running = [asyncio.create_task(part.run(subject, recorder, ended)) for part in self.parts]
        try:
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def audit(self, subject: Subject, recorder: Recorder) -> None:
        async with await subject.client(self.directory.strip("/.").replace("/", "-") + "-audit") as client:
            await look_at_cluster(client, subject, recorder, self.name, self.directory)
            for part in self.parts:
                await part.look(client, subject, recorder)
