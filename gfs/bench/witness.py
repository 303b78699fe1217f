"""Writers and readers beside a fault: what was acknowledged, and whether a later read ever denied it.

Each writer makes directories, one after the other, and never removes one. So each is a register that only
grows: a linearizable read that was begun after a write was acknowledged and does not find it is stale.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence

from gfs.client.client import AsyncClient
from gfs.errors import GfsError, NotFound
from gfs.messages.namespace import EntryReply, Stat
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address

READ_PAUSE_SECONDS = 0.005  # between two reads of one master: they must not be the load themselves
READ_SECONDS = 1.0
RECENT_WRITES = 8  # a reader asks for one of these, or of any


class Witness:
    """Start it under a directory of its own; `finish()` ends the load, `lost()` looks everything up."""

    def __init__(
        self,
        client: AsyncClient,
        root: str,
        *,
        masters: Sequence[Address],
        caller: WebSocketCaller,
        writers: int,
    ) -> None:
        """`masters`: asked directly, each by a reader of its own, whether or not it leads."""
        self._client, self._root, self._masters, self._caller = client, root, masters, caller
        self._writers = writers
        self._chance = random.Random(root)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.answered_at: list[float] = []
        self.acknowledged: list[str] = []
        self.failed: list[str] = []  # calls that ended with an error, in its words
        self.stale: list[str] = []
        self.reads = 0

    async def start(self) -> None:
        await self._client.mkdir(self._root, parents=True)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._write(number)) for number in range(self._writers)]
        self._tasks += [loop.create_task(self._read(master)) for master in self._masters]

    async def finish(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def lost(self) -> list[str]:
        """What was acknowledged and is not there."""
        there = {entry.path async for entry in self._client.list(self._root)}
        return sorted(set(self.acknowledged) - there)

    def longest_gap(self, *, since: float) -> float:
        """Seconds between two answers one after the other, of those that came after `since`."""
        around = [at for at in self.answered_at if at > since]
        return max((after - before for before, after in itertools.pairwise(around)), default=0.0)

    async def _write(self, writer: int) -> None:
        for number in itertools.count():
            if self._stopping:
                return
            path = f"{self._root}/{writer}-{number}"
            try:
                await self._client.mkdir(path)
            except GfsError as error:
                self.failed.append(f"mkdir {path}: {error.code}: {error.message}")
                await asyncio.sleep(READ_PAUSE_SECONDS)
                continue
            self.answered_at.append(time.monotonic())
            self.acknowledged.append(path)

    async def _read(self, master: Address) -> None:
        while not self._stopping:
            await asyncio.sleep(READ_PAUSE_SECONDS)
            if not self.acknowledged:
                continue
            recent = min(RECENT_WRITES, len(self.acknowledged))
            path = self.acknowledged[-self._chance.randint(1, recent)]
            try:
                await self._caller.call(master, Stat(path=path), EntryReply, deadline_seconds=READ_SECONDS)
            except NotFound:
                self.stale.append(f"{master} did not find {path}, which was acknowledged before it was asked")
            except GfsError:
                continue  # it does not lead, or is stopped: it may refuse, but not deny
            self.reads += 1
