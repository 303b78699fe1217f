"""Damage to the disks of real programs: never read back, replaced by itself, and told by `gfs fsck`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest

from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.messages.chunks import ChunkPlace
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, MIB
from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster, eventually

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

BLOCK = CHECKSUM_BLOCK_BYTES


class Drill:
    """Four chunk servers, one master; files that are compared to the last byte whenever they are read."""

    def __init__(self, path: Path) -> None:
        self.cluster = ProcessCluster(path, masters=1, chunkservers=4)
        self.files: dict[str, bytes] = {}
        self.client: AsyncClient

    async def start(self, **environment: str) -> None:
        self.cluster.start(**environment)
        self.client = await self.cluster.connect()
        await self.cluster.ready(self.client)

    async def put(self, path: str, length: int) -> None:
        self.files[path] = os.urandom(length)
        await self.client.write_bytes(path, self.files[path])

    async def place(self, path: str) -> ChunkPlace:
        (found,) = await self.client.chunks(path)
        return found

    def node(self, place: ChunkPlace, position: int) -> str:
        control = place.replicas[position].control
        nodes = self.cluster.layout.settings.chunkservers.items()
        return next(name for name, node in nodes if node.control == control)

    def chunk_file(self, place: ChunkPlace, position: int) -> Path:
        directory = self.cluster.layout.settings.chunkservers[self.node(place, position)].directory
        (found,) = Path(directory).rglob(f"{place.handle:016x}.*")
        return found

    async def check_reads(self) -> None:
        """Whatever is damaged, what is read is what was written."""
        for path, data in self.files.items():
            for offset in range(0, len(data), BLOCK):
                assert await self.client.read(path, offset, 100) == data[offset : offset + 100]
            assert await self.client.read_bytes(path) == data

    async def until_whole(self) -> None:
        """Every file has three replicas, all of them verified to the last block."""

        async def is_whole() -> bool | None:
            for path in self.files:
                place = await self.place(path)
                try:
                    found = await self.client.verify_chunk(place)
                except GfsError:
                    return None
                if found.bad_blocks or found.unread or found.differing:
                    return None
                if len(place.replicas) != 3 or place.missing:
                    return None
            return True

        await eventually(is_whole, "all replicas are whole again")

    def fsck(self, *arguments: str) -> tuple[int, dict[str, object]]:
        command = ["--config", self.cluster.layout.config_path, "-o", "json", "fsck", *arguments]
        ran = subprocess.run([sys.executable, "-m", "gfs", *command], capture_output=True, timeout=90)
        assert b"Traceback" not in ran.stderr, ran.stderr.decode()
        return ran.returncode, json.loads(ran.stdout) if ran.stdout else {}


@pytest.fixture
async def drill(tmp_path: Path) -> AsyncIterator[Drill]:
    made = Drill(tmp_path / "cluster")
    yield made
    if hasattr(made, "client"):
        await made.client.close()
    made.cluster.stop()


def rot(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x20]))


@keeps("checksums")
async def test_bits_that_flip_and_files_that_are_cut_or_lost_are_replaced_within_a_scrub_pass(
    drill: Drill,
) -> None:
    """§5.2: idle servers scan what is seldom read; what they find is cloned anew from a good replica."""
    await drill.start(GFS__CHUNKSERVER__SCRUB_PASS_SECONDS="0.5")
    for number, length in enumerate((MIB + 77, 5 * BLOCK, 10, 3 * MIB)):
        await drill.put(f"/f{number}", length)
    flipped, cut, lost, both = [await drill.place(f"/f{number}") for number in range(4)]
    rot(drill.chunk_file(flipped, 0), MIB + 70)
    with drill.chunk_file(cut, 1).open("r+b") as file:
        file.truncate(2 * BLOCK + 1)
    drill.chunk_file(lost, 2).unlink()
    rot(drill.chunk_file(both, 0), 5)
    rot(drill.chunk_file(both, 2), MIB)
    await drill.check_reads()

    async def is_replaced() -> bool | None:
        versions = [(await drill.place(path)).version for path in drill.files]
        return True if all(version > flipped.version for version in versions) else None

    await eventually(is_replaced, "each chunk has got a new set")
    await drill.until_whole()
    await drill.check_reads()
    assert drill.fsck("--deep")[0] == 0


@keeps("checksums")
async def test_a_deep_check_finds_damage_nobody_has_met_and_repairs_it_on_demand(drill: Drill) -> None:
    await drill.start()
    for number in range(3):
        await drill.put(f"/f{number}", 4 * BLOCK + number)
    place = await drill.place("/f1")
    rot(drill.chunk_file(place, 0), 3 * BLOCK)
    status, found = drill.fsck()
    assert (status, found["files"], found["chunks"], found["files_at_risk"]) == (0, 3, 3, 0)
    status, found = drill.fsck("--deep", "/f1")
    assert status == 7
    (damage,) = found["damage"]  # type: ignore[misc]
    assert damage["path"] == "/f1" and damage["bad_blocks"] == {place.replicas[0].server: [3]}
    status, found = drill.fsck("--deep", "--repair")
    assert (status, found["damage"], found["files_at_risk"]) == (0, [], 0)
    await drill.until_whole()
    await drill.check_reads()
    assert drill.fsck("/nothing")[0] == 3
    command = ["--config", drill.cluster.layout.config_path, "fsck", "/f1"]
    told = subprocess.run(
        [sys.executable, "-m", "gfs", *command], capture_output=True, timeout=90, check=True
    )
    assert b"1 file, 1 chunk\n" in told.stdout and b"every chunk is ok" in told.stdout


async def test_a_rotten_index_entry_costs_one_replica_and_no_heartbeat(drill: Drill) -> None:
    await drill.start()
    for number in range(3):
        await drill.put(f"/f{number}", BLOCK)
    place = await drill.place("/f1")
    node = drill.node(place, 0)
    drill.cluster.kill([node], number=15)
    index = Path(drill.cluster.layout.settings.chunkservers[node].directory) / "chunks.lmdb"
    with lmdb.open(str(index), subdir=False, max_dbs=8) as environment:
        headers = environment.open_db(b"headers")
        key = place.handle.to_bytes(8, "big")
        with environment.begin(write=True) as transaction:
            entry = bytearray(transaction.get(key, db=headers))
            entry[5] ^= 1
            transaction.put(key, bytes(entry), db=headers)
    drill.cluster.start([node])
    await drill.cluster.ready(drill.client)  # its heartbeats come, and are understood
    await drill.until_whole()
    await drill.check_reads()
    assert "internal fault" not in drill.cluster.log(node)
