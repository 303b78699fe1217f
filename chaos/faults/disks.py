"""Faults of disks: full, refusing, slow, forgetful of bits."""

from __future__ import annotations

from chaos.faults.interface import Ending, Fault, NotNow, Scene
from chaos.faults.links import Arguments


async def _full(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    for node in nodes:
        await scene.testbed.disk_full(node, True)

    async def end() -> None:
        for node in nodes:
            await scene.testbed.disk_full(node, False)
            await scene.testbed.restart(node)  # a master whose log cannot be written may have stopped

    return end


async def _errors(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    share = float(given.setdefault("share", 1.0))
    for node in nodes:
        await scene.testbed.disk_errors(node, share=share)

    async def end() -> None:
        for node in nodes:
            await scene.testbed.disk_errors(node, share=0.0)
            await scene.testbed.restart(node)  # a failed sync stops a program: it is never tried again

    return end


async def _slow(scene: Scene, nodes: list[str], given: Arguments) -> Ending:
    for node in nodes:
        await scene.testbed.slow_disk(node, seconds=float(given.setdefault("delay_seconds", 0.2)))

    async def end() -> None:
        for node in nodes:
            await scene.testbed.slow_disk(node, seconds=0.0)

    return end


async def _rot(scene: Scene, nodes: list[str], given: Arguments) -> None:
    flipped = 0
    for node in nodes:
        count = await scene.testbed.bit_rot(node, bits=int(given.setdefault("bits", 3)))
        if count:
            scene.damaged.add(node)
        flipped += count
    given["flipped"] = flipped
    if not flipped:
        raise NotNow("no chunk was there whose bits could be flipped")


DISK_FAULTS: tuple[Fault, ...] = (
    Fault(
        "disk-full",
        "every write finds the disk full",
        frozenset({"disk_full"}),
        "chunkserver",
        _full,
        takes_out=True,
    ),
    Fault(
        "io-errors",
        "this `share` of writes and syncs fails with EIO",
        frozenset({"disk_errors"}),
        "chunkserver",
        _errors,
        takes_out=True,
        arguments=("share",),
    ),
    Fault(
        "slow-disk",
        "every write and sync takes `delay_seconds` longer",
        frozenset({"slow_disk"}),
        "chunkserver",
        _slow,
        arguments=("delay_seconds",),
    ),
    Fault(
        "bit-rot",
        "`bits` flip in files of committed chunks",
        frozenset({"bit_rot"}),
        "chunkserver",
        _rot,
        damages=True,
        arguments=("bits",),
    ),
)
