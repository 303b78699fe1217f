"""Chunk servers of a simulation that die in the middle of their work: real recovery, and no record lost."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from chaos import testbed as beds
from chaos.plan import Configuration, Plan
from chaos.simulation import entry
from chaos.simulation.disk import ForgetfulDisk
from chaos.simulation.mortal_disk import Died, MortalDisk
from chaos.simulation.world import World
from gfs.errors import GfsError
from gfs.verification.history import History
from gfs.verification.recorder import Recorder

PATH = "/records"
RECORDS = 24


def run(directory: Path, *, seed: int, power: bool) -> tuple[str, set[bytes], set[bytes]]:
    """A digest of what was seen; the acknowledged records; those that are found at the end."""
    plan = Plan(
        seed=seed,
        layer="sim",
        scenario="deaths",
        configuration=Configuration(masters=1, chunkservers=3, replication_goal=2, durability="sync"),
    )

    async def body(testbed: beds.Testbed) -> tuple[str, set[bytes], set[bytes]]:
        history = History()
        await testbed.start(Recorder(history, testbed.now_ns))
        client = await testbed.client("one")
        await client.create(PATH)
        acknowledged: set[bytes] = set()

        async def write() -> None:
            for number in range(RECORDS):
                await testbed.sleep(0.25)
                record = (b"%06d " % number) * 2000
                try:
                    await client.record_append(PATH, record, framed=True)
                    acknowledged.add(record)
                except GfsError:
                    continue

        writing = asyncio.create_task(write())
        for node in testbed.chunkservers:
            await testbed.sleep(1)
            if power:
                await testbed.power_cut([node])
            else:
                await testbed.kill(node)
            await testbed.sleep(1)
            await testbed.restart(node)
        await writing
        found = {bytes(record.payload) async for record in client.records(PATH)}
        seen = repr([(one.at_ns, one.node, one.what, one.values) for one in history.sightings])
        await client.close()
        return hashlib.sha256(seen.encode()).hexdigest(), acknowledged, found

    return entry.run(plan, str(directory), body)


@pytest.mark.parametrize("power", [False, True])
def test_what_was_acknowledged_outlives_servers_that_die_within_a_write(tmp_path: Path, power: bool) -> None:
    _, acknowledged, found = run(tmp_path, seed=3, power=power)
    assert len(acknowledged) > RECORDS // 2
    assert acknowledged <= found


def test_deaths_within_writes_come_at_the_same_calls_again(tmp_path: Path) -> None:
    first, *_ = run(tmp_path, seed=5, power=True)
    again, *_ = run(tmp_path, seed=5, power=True)
    assert first == again


@pytest.mark.parametrize("is_done_first", [False, True])
def test_a_process_dies_before_or_after_a_call_and_makes_no_other(is_done_first: bool) -> None:
    loop, below = World(1), ForgetfulDisk()
    disk = MortalDisk(below, loop, on_cut=lambda: None)
    ends: list[str] = []

    def end() -> None:
        ends.append("dead")
        disk.is_dead = True

    file = disk.open("/bytes", create=True)
    disk.die_at_call(1, is_done_first=is_done_first, on_death=end)
    file.pwrite(b"first", 0)
    with pytest.raises(Died):
        file.pwrite(b"second", 5)
    with pytest.raises(Died):
        file.sync()
    assert ends == ["dead"]
    assert below.open("/bytes").pread(20, 0) == (b"firstsecond" if is_done_first else b"first")
    loop.close()


def test_a_death_that_is_called_off_does_not_come() -> None:
    disk = MortalDisk(ForgetfulDisk(), loop := World(1), on_cut=lambda: None)
    disk.die_at_call(0, is_done_first=False, on_death=lambda: pytest.fail("died"))
    disk.live_on()
    disk.open("/bytes", create=True).sync()
    loop.close()
