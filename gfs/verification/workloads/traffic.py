"""The ground every workload stands on: clients that each do one thing after the other, and attempts that are
written down. What is done, and what is looked at afterwards, is each workload's own.

All chance comes from what the workload was given, all waiting from the subject: in virtual time the same seed
does the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.verification.history import Json
from gfs.verification.recorder import RecordedProcess, Recorder
from gfs.verification.subject import Subject
from gfs.verification.workloads.final_state import look_at_cluster

T = TypeVar("T")

REFUSED_PAUSE_SECONDS = 0.3  # before the next try of a client whose call was refused or lost


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """How one call ended. `answer` is there when it is `ok`; `lost`: nobody can say whether it happened."""

    ok: bool
    lost: bool
    answer: T | None = None
    error: str = ""


@dataclass(slots=True)
class Actor:
    """One client that does one thing after the other, with chance of its own."""

    number: int
    client: AsyncClient
    process: RecordedProcess
    chance: random.Random
    subject: Subject

    async def attempt(
        self,
        function: str,
        arguments: dict[str, Json],
        call: Awaitable[T],
        *,
        partition: str = "",
        result: Callable[[T], Json] = lambda _: None,
    ) -> Attempt[T]:
        """Do it and write it down. What the cluster refuses or loses is not raised; a fault of the SDK is."""
        try:
            answer = await self.process.run(function, arguments, call, partition=partition, result=result)
        except GfsError as error:
            return Attempt(ok=False, lost=not error.definite, error=error.code)
        return Attempt(ok=True, lost=False, answer=answer)

    async def pause(self, mean_seconds: float) -> None:
        await self.subject.sleep(mean_seconds * self.chance.uniform(0.2, 1.8))


class Traffic:
    """A workload of `clients` actors. Subclasses say what they prepare, what a step is, what they look at."""

    name = ""
    checkers: tuple[str, ...] = ()
    floor_per_second = 2.0
    clients = 4
    pause_seconds = 0.12  # of each client between two steps, on average

    def __init__(self, directory: str, chance: random.Random) -> None:
        self.directory, self.chance = directory, chance
        self.name = type(self).name  # a mix has its parts write under its own
        self.clients = type(self).clients

    # --- what a workload says -------------------------------------------------------------------

    async def prepare(self, client: AsyncClient) -> None:
        """Make what the clients need. Raises: GfsError."""

    async def step(self, actor: Actor) -> bool:
        """One thing of one client. False when the cluster did not do it."""
        raise NotImplementedError

    async def look(self, client: AsyncClient, subject: Subject, recorder: Recorder) -> None:
        """Write down what is left, beyond what `final_state` does for every workload. Raises: GfsError."""

    # --- Workload -------------------------------------------------------------------------------

    async def set_up(self, subject: Subject, recorder: Recorder) -> None:
        async with await subject.client(self._client_name("audit")) as client:
            await client.mkdir(self.directory, parents=True)
            await self.prepare(client)

    async def run(self, subject: Subject, recorder: Recorder, ended: Callable[[], bool]) -> None:
        seeds = [self.chance.getrandbits(64) for _ in range(self.clients)]
        acting = [
            asyncio.create_task(self._act(number, seed, subject, recorder, ended))
            for number, seed in enumerate(seeds)
        ]
        try:
            await asyncio.gather(*acting)
        finally:
            for task in acting:
                task.cancel()
            await asyncio.gather(*acting, return_exceptions=True)

    async def audit(self, subject: Subject, recorder: Recorder) -> None:
        async with await subject.client(self._client_name("audit")) as client:
            await look_at_cluster(client, subject, recorder, self.name, self.directory)
            await self.look(client, subject, recorder)

    async def _act(
        self, number: int, seed: int, subject: Subject, recorder: Recorder, ended: Callable[[], bool]
    ) -> None:
        async with await subject.client(self._client_name(str(number))) as client:
            actor = Actor(number, client, recorder.process(self.name), random.Random(seed), subject)
            while not ended():
                is_done = await self.step(actor)
                await actor.pause(self.pause_seconds if is_done else REFUSED_PAUSE_SECONDS)

    def _client_name(self, which: str) -> str:
        """Told apart from those of every other workload of the run: directories are."""
        return "-".join([*(part.strip(".") for part in self.directory.split("/") if part), which])
