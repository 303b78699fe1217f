"""A master's state read out while it works: whole, of one moment, bounded; with a real master and client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from gfs.client.client import AsyncClient
from gfs.errors import ChecksumMismatch, NotFound, Overloaded
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import find, names_of, read_counters
from gfs.master.lmdb_tables import LmdbTables
from gfs.master.state_machine import read_applied
from gfs.messages.backup import BackupOpened
from gfs.messages.cluster import StateDigestReply, TakeCheckpoint
from gfs.settings import BACKUPS_OPEN_MAX, ClientSettings
from gfs.vocabulary import MIB
from tests.client.real_cluster import RealCluster
from tests.waiting import until


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with RealCluster(tmp_path, masters=1, chunkservers=1) as found:
        yield found


@pytest_asyncio.fixture
async def client(cluster: RealCluster) -> AsyncIterator[AsyncClient]:
    async with await cluster.client(ClientSettings(retry_seconds=2.0)) as found:
        yield found


async def content_of(client: AsyncClient, opened: BackupOpened) -> bytes:
    return b"".join([piece async for piece in client.backups.pieces(opened)])


def tables_of(content: bytes, tmp_path: Path) -> LmdbTables:
    path = tmp_path / "read-back.lmdb"
    path.write_bytes(content)
    return LmdbTables(str(path), bytes_max=64 * MIB)


async def checkpoint(client: AsyncClient) -> None:
    request = TakeCheckpoint()
    await client._connections.masters.ask_leader(request, StateDigestReply, "take a checkpoint")


async def test_a_backup_has_all_that_was_acknowledged_before_it_was_asked_for(
    client: AsyncClient, tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def make_files() -> None:
        while not stop.is_set():
            path = f"/f{len(acknowledged)}"
            await client.create(path)
            acknowledged.append(path)

    async def reached(files: int) -> bool:
        return len(acknowledged) >= files

    making = asyncio.create_task(make_files())
    for _ in range(3):
        at_least = len(acknowledged) + 20
        await until(partial(reached, at_least), "more files are made")
        before = list(acknowledged)
        opened = await client.backups.open()
        tables = tables_of(await content_of(client, opened), tmp_path)
        assert read_applied(tables.committed()) == (opened.index, opened.term)
        for path in before:
            assert find(tables.committed(), names_of(path))
        check_invariants(tables.committed())
        assert read_counters(tables.committed()).files == opened.files
        tables.close()
    stop.set()
    await making


async def test_an_open_backup_stays_readable_when_newer_checkpoints_replace_it(
    client: AsyncClient, tmp_path: Path
) -> None:
    await client.create("/first")
    opened = await client.backups.open()
    for number in range(5):
        await client.create(f"/later{number}")
        await checkpoint(client)
    tables = tables_of(await content_of(client, opened), tmp_path)
    assert read_counters(tables.committed()).files == 1
    tables.close()


async def test_two_backups_with_nothing_between_are_of_one_checkpoint(client: AsyncClient) -> None:
    await client.create("/f")
    first = await client.backups.open()
    await client.backups.close(first)
    second = await client.backups.open()
    assert (first.index, first.crc32c) == (second.index, second.crc32c)
    assert first.session != second.session


async def test_no_more_than_a_few_are_open_at_once(client: AsyncClient) -> None:
    await client.create("/f")
    held = [await client.backups.open() for _ in range(BACKUPS_OPEN_MAX)]
    with pytest.raises(Overloaded, match="are being read already"):
        await client.backups.open()
    await client.backups.close(held[0])
    await client.backups.open()


async def test_a_backup_that_was_closed_cannot_be_read_on(client: AsyncClient) -> None:
    await client.create("/f")
    opened = await client.backups.open()
    await client.backups.close(opened)
    await client.backups.close(opened)
    with pytest.raises(NotFound, match="not open here"):
        await content_of(client, opened)


async def test_bytes_that_rotted_on_the_masters_disk_are_not_taken_for_a_backup(
    client: AsyncClient, tmp_path: Path
) -> None:
    await client.create("/f")
    opened = await client.backups.open()
    (file,) = tmp_path.rglob(f"checkpoint-{opened.index:020}-*.lmdb")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ChecksumMismatch, match="damaged"):
        await content_of(client, opened)


async def test_an_operator_can_hold_garbage_and_let_it_be_collected_again(client: AsyncClient) -> None:
    await client.create("/f")
    assert await client.backups.hold_garbage(True)
    assert await client.backups.hold_garbage(True)  # asked twice is harmless
    assert any("no garbage is collected" in reason for reason in (await client.cluster_status()).reasons)
    assert not await client.backups.hold_garbage(False)
    assert not any("garbage" in reason for reason in (await client.cluster_status()).reasons)
