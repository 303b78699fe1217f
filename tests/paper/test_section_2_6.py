"""§2.6, metadata: what is in the log and what is not, how small it is, and what a checkpoint is."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb

from gfs.master.core.state import MasterState
from gfs.master.core.tables import Table
from gfs.master.lmdb_tables import LmdbTables
from gfs.messages import operations as op
from gfs.vocabulary import MIB, ChunkIndex, ServerId
from tests.client.real_cluster import RealCluster
from tests.core.master_records import create, mkdir, record
from tests.paper.boxes import keeps

FILES = 5_000
SERVERS = tuple(ServerId(f"a-chunk-server-with-a-long-id-{n}") for n in range(3))


@keeps("locations-not-persisted")
async def test_a_master_learns_where_chunks_are_from_chunk_servers_alone(tmp_path: Path) -> None:
    """Places are asked for at start-up and kept up to date by heartbeats, never written down."""
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.write_bytes("/a", b"abc")
        servers = list(cluster.chunkservers)
        for name in servers:
            await cluster.chunkservers.pop(name).stop()
        await cluster.stop_master("m1")
        await cluster.start_master("m1")
        async with await cluster.client() as again:
            place = (await again.chunks("/a"))[0]
            assert place.replicas == [] and len(place.missing) == 3
            for name in servers:
                await cluster.start_chunkserver(name)
            assert await again.read_bytes("/a") == b"abc"


@keeps("operation-log")
async def test_the_log_alone_gives_back_the_state(tmp_path: Path) -> None:
    """The log is the only lasting record of metadata, and the time line that orders it."""
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.mkdir("/d")
        await client.write_bytes("/d/a", b"abc")
        await client.rename("/d", "/e")
        before = await client.stat("/e/a")
        await cluster.stop_master("m1")
        thrown_away = [path for path in (tmp_path / "m1").rglob("state*") if path.is_file()]
        assert thrown_away
        for path in thrown_away:
            path.unlink()
        await cluster.start_master("m1")
        async with await cluster.client() as again:
            assert await again.stat("/e/a") == before
            assert await again.read_bytes("/e/a") == b"abc"


def _state_of(path: Path, directory: str) -> int:
    """A state of FILES files of one chunk each; its compacted size in bytes."""
    tables = LmdbTables(str(path / "state"), bytes_max=64 * MIB)
    state = MasterState(tables)
    state.apply(record(mkdir(directory, parents=True)))
    for number in range(FILES):
        made = state.apply(record(create(f"{directory}/part-{number:05d}")))
        assert isinstance(made, op.Done)
        state.apply(
            record(op.AddChunk(inode=made.inode, index=ChunkIndex(0), replicas=SERVERS, primary=SERVERS[0]))
        )
    state.save()
    tables.commit()
    tables.close()
    with lmdb.open(str(path / "state"), subdir=False, readonly=True, lock=False, max_dbs=len(Table)) as env:
        env.copy(str(path / "data.mdb"), compact=True)
    return os.path.getsize(path / "data.mdb")


@keeps("metadata-size")
def test_a_file_with_its_chunk_takes_little_and_the_names_above_it_nothing(tmp_path: Path) -> None:
    """A hundred bytes or so for a file and its chunk; the common beginning of names is stored once."""
    sizes = []
    for name, directory in (("short", "/d"), ("long", "/" + "/".join(["a-directory-with-a-long-name"] * 8))):
        (tmp_path / name).mkdir()
        sizes.append(_state_of(tmp_path / name, directory))
    assert sizes[0] / FILES < 140
    assert abs(sizes[1] - sizes[0]) / FILES < 2


@keeps("checkpoint-form")
def test_a_checkpoint_is_a_b_tree_that_any_lmdb_reads_in_place(tmp_path: Path) -> None:
    """Mapped into memory and used for lookup without parsing: one row is found without reading the rest."""
    _state_of(tmp_path, "/d")
    copy = str(tmp_path / "data.mdb")
    with lmdb.open(copy, subdir=False, readonly=True, lock=False, max_dbs=len(Table)) as env:
        entries = env.open_db(Table.DENTRIES.value, create=False)
        with env.begin(entries) as transaction:
            root = (1).to_bytes(8, "big")
            directory = int.from_bytes(transaction.get(root + b"d"), "big") >> 1
            assert transaction.get(directory.to_bytes(8, "big") + b"part-04711") is not None
            assert transaction.get(directory.to_bytes(8, "big") + b"part-99999") is None
            assert transaction.stat(entries)["depth"] > 1
