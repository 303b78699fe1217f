"""Checkpoints for tests: a small cluster's state with something in every table, and ways to damage it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb
from crc32c import crc32c

from gfs.master.checkpoint_directory import checkpoint_name, encode_manifest
from gfs.master.core.state import MasterState
from gfs.master.core.tables import Table
from gfs.master.lmdb_tables import LmdbTables
from gfs.master.replication.checkpoints import CHECKPOINT_FORMAT, CheckpointManifest
from gfs.master.state_machine import read_applied
from gfs.messages import operations as op
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term
from tests.core.master_records import (
    NOW_MS,
    A,
    B,
    C,
    D,
    add_chunk,
    create,
    delete,
    hint,
    mkdir,
    record,
    rename,
    seal,
)

MIB = 2**20
INDEX, TERM = LogIndex(41), Term(3)


class World:
    """A state that is written to by operations, and copied into checkpoints."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.tables = LmdbTables(str(directory / "state.lmdb"), bytes_max=64 * MIB)
        self.state = MasterState(self.tables)
        self._sequence = 0

    def __call__(self, operation: op.AnyOperation) -> int:
        """Carry out; returns the inode or handle that came of it."""
        self._sequence += 1
        outcome = self.state.apply(record(operation, sequence=self._sequence), index=INDEX)
        assert not isinstance(outcome, op.Refused), (operation, outcome)
        return outcome.handle if isinstance(outcome, op.ChunkGranted) else outcome.inode

    def checkpoint(self, folder: Path, *, index: int = INDEX, term: int = TERM) -> Path:
        """Returns: the .lmdb file; its manifest lies beside it."""
        self.state.save()
        self.tables.put(Table.META, b"applied", index.to_bytes(8, "big") + term.to_bytes(8, "big"))
        self.tables.commit()
        folder.mkdir(parents=True, exist_ok=True)
        content = b"".join(self.tables.pin().pieces())
        manifest = make_manifest(content, index=index, term=term)
        path = folder / f"{checkpoint_name(manifest)}.lmdb"
        path.write_bytes(content)
        path.with_suffix(".manifest").write_bytes(encode_manifest(manifest))
        return path


def make_manifest(content: bytes, *, index: int, term: int) -> CheckpointManifest:
    return CheckpointManifest(
        format=CHECKPOINT_FORMAT,
        cluster=ClusterId("c"),
        index=LogIndex(index),
        term=Term(term),
        length_bytes=len(content),
        crc32c=crc32c(content),
        members={MasterId("m1"): "disk-1"},
        made_at_ms=NOW_MS,
    )


def fill(world: World) -> None:
    """Something in every table: nested directories, long and shared files, trash, policies, a snapshot."""
    for path in ("/data", "/data/deep", "/data/deep/er", "/empty"):
        world(mkdir(path))
    for number in range(5):
        inode = world(create(f"/data/f{number}"))
        world(add_chunk(inode, 0, A, B, C))
        world(hint(inode, 1000 * (number + 1), closed=True))
    long = world(create("/data/deep/long"))
    handles = [world(add_chunk(long, index, B, C, D)) for index in range(4)]
    world(seal(handles[2], 1, 64 * MIB))
    world(hint(long, 3 * 64 * MIB + 5, closed=True))
    world(create("/data/deep/er/ünïcode"))
    world(op.ChangeOwner(path="/data/f1", owner="ann", group="crawl"))
    world(op.ChangeOwner(path="/data/f2", owner="bob", group="crawl"))
    world(op.SetPolicy(path="/data", replicas=2, files_max=1000))
    world(op.SetTenure(server=D, tenure="draining"))
    copy = world(op.BeginSnapshot(source="/data/deep", target="/copy"))
    while world(op.CopySnapshot(copy=op.InodeId(copy), rows=100)) == 0:
        pass
    world(create("/data/gone"))
    world(delete("/data/gone"))
    world(mkdir("/old"))
    world(create("/old/x"))
    world(delete("/old", recursive=True))
    world(rename("/data/f4", "/data/renamed"))
    world(op.BeginSnapshot(source="/data/f0", target="/half"))


def rewrite(path: Path, change: Callable[[lmdb.Transaction, dict[Table, lmdb._Database]], None]) -> None:
    """Change rows behind the master's back, with a manifest that fits the bytes."""
    env = lmdb.open(str(path), subdir=False, lock=False, max_dbs=20, map_size=64 * MIB)
    handles = {table: env.open_db(table.value) for table in Table}
    with env.begin(write=True) as transaction:
        change(transaction, handles)
    env.sync(True)
    env.close()
    remake_manifest(path)


def remake_manifest(path: Path) -> None:
    _, index, term = path.stem.split("-")
    manifest = make_manifest(path.read_bytes(), index=int(index), term=int(term))
    path.with_suffix(".manifest").write_bytes(encode_manifest(manifest))


def every_row(path: Path, table: Table) -> dict[bytes, bytes]:
    env = lmdb.open(str(path), subdir=False, lock=False, readonly=True, max_dbs=20)
    with env.begin() as transaction, transaction.cursor(env.open_db(table.value, transaction)) as cursor:
        rows = dict(cursor.iternext(True, True))
    env.close()
    return rows


def make(directory: Path) -> Path:
    """A filled checkpoint in `directory`."""
    world = World(directory / "world")
    fill(world)
    path = world.checkpoint(directory / "checkpoints")
    assert read_applied(world.tables.committed()) == (INDEX, TERM)
    world.tables.close()
    return path
