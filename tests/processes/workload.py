"""A seeded workload that remembers what was acknowledged, and checks that all of it is there."""

from __future__ import annotations

import hashlib
import random

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.vocabulary import KIB


class Workload:
    """Directories, files, overwrites, renames and deletes under one root. `acknowledged` is the truth."""

    def __init__(self, client: AsyncClient, root: str, seed: int) -> None:
        self.client = client
        self.root = root
        self._rng = random.Random(seed)
        self._number = 0
        self.acknowledged: dict[str, str] = {}  # path -> SHA-256
        self.gone: set[str] = set()
        self.steps_done = 0

    async def overwrite_step(self) -> None:
        """One file of two blocks and more, part of it written over in place; both are acknowledged."""
        self._number += 1
        path = f"{self.root}/o{self._number:05d}"
        content = bytearray(self._rng.randbytes(200 * KIB))
        await self.client.write_bytes(path, bytes(content))
        patch = self._rng.randbytes(70 * KIB)
        await self.client.write(path, 1000, patch)
        content[1000 : 1000 + len(patch)] = patch
        self.acknowledged[path] = hashlib.sha256(content).hexdigest()
        self.steps_done += 1

    async def set_up(self) -> None:
        await self.client.mkdir(self.root, parents=True)

    async def step(self) -> None:
        """One acknowledged mutation; raises what the SDK raises after its whole retry budget."""
        self._number += 1
        path = f"{self.root}/f{self._number:05d}"
        dice = self._rng.random()
        if dice < 0.25 and self.acknowledged:
            source = self._rng.choice(sorted(self.acknowledged))
            await self.client.rename(source, path)
            self.acknowledged[path] = self.acknowledged.pop(source)
            self.gone.add(source)
        elif dice < 0.35 and self.acknowledged:
            victim = self._rng.choice(sorted(self.acknowledged))
            await self.client.delete(victim)
            del self.acknowledged[victim]
            self.gone.add(victim)
        else:
            content = self._rng.randbytes(self._rng.choice((0, 1, 1000, 64 * KIB, 65537, 300 * KIB)))
            await self.client.write_bytes(path, content)
            self.acknowledged[path] = hashlib.sha256(content).hexdigest()
        self.steps_done += 1

    async def verify(self) -> None:
        """Everything acknowledged is there byte for byte; nothing deleted or moved has come back."""
        listed = {entry.path async for entry in self.client.list(self.root)}
        missing = set(self.acknowledged) - listed
        assert not missing, f"acknowledged and lost: {sorted(missing)[:5]}"
        back = self.gone & listed
        assert not back, f"deleted or moved, and back: {sorted(back)[:5]}"
        for path, digest in self.acknowledged.items():
            content = await self.client.read_bytes(path)
            assert hashlib.sha256(content).hexdigest() == digest, f"{path}: other bytes ({len(content)})"


async def run_until_dead(workload: Workload, dead: object, steps_max: int) -> None:
    """Steps until `dead()` is true; a step may fail only if it says so by a GfsError."""
    assert callable(dead)
    for _ in range(steps_max):
        if dead():
            return
        try:
            await workload.step()
        except GfsError as error:
            raise AssertionError(f"the retry budget did not outlast one crash: {error.message}") from error
    raise AssertionError(f"the program was still alive after {steps_max} steps: its failpoint was not passed")
