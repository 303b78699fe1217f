"""What would be lost, when the disks of chunk servers were asked, too."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from gfs.chunkserver.disk_identity import Identity
from gfs.errors import InvalidArgument, NotFound
from gfs.inspect.checkpoint_files import CheckpointFile, find_checkpoint
from gfs.inspect.inventories import InventoryRow, inventory_rows
from gfs.inspect.what_if import what_if
from gfs.vocabulary import ServerId
from tests.core.master_records import A, B, C, D, add_chunk, create, grant
from tests.inspect.planted import World
from tests.inspect.shell import gfs
from tests.inspect.test_chunk_disk import fill, open_store


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    """Chunks 1 to 4, each on A, B and C; the fourth at version 2 on B and C, which all hold at least at 1."""
    world = World(tmp_path / "world")
    for number in range(1, 5):
        inode = world(create(f"/f{number}"))
        world(add_chunk(inode, 0))
    world(grant(inode, 0, 4, 1, B, C, held_version=1))
    found = find_checkpoint(str(world.checkpoint(tmp_path / "checkpoints")))
    world.tables.close()
    return found


def report(path: Path, *rows: tuple[ServerId, int, int] | tuple[ServerId, int, int, str]) -> str:
    lines = [
        InventoryRow(server=row[0], handle=row[1], version=row[2], fault=row[3] if len(row) > 3 else "")
        for row in rows
    ]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return str(path)


def fates(file: CheckpointFile, servers: list[str], *inventories: str) -> dict[str, str]:
    _, files = what_if(file, servers=servers, rack_of={}, inventories=inventories)
    return {one.path: one.fate for one in files}


def test_what_a_disk_does_not_hold_is_not_counted_on(file: CheckpointFile, tmp_path: Path) -> None:
    asked = report(
        tmp_path / "r",
        (A, 0, 0),
        (A, 1, 1),
        (A, 2, 0),
        (A, 3, 1, "bad blocks"),
        (B, 1, 1),
        (B, 2, 1),
        (B, 4, 2),
    )
    outlook, files = what_if(file, servers=[C], rack_of={}, inventories=[asked])
    assert {one.path: one.fate for one in files} == {
        "/f2": "last_replica",
        "/f3": "lost",
        "/f4": "last_replica",
    }
    assert outlook.inventories == [A, B]
    assert outlook.absent_replicas == 3, "A: 2 and 3; B: 3"
    assert outlook.chunks["short"] == 1
    assert fates(file, [C]) == {"/f4": "last_replica"}, "without inventories the sets are believed"


def test_a_server_that_was_left_out_of_a_set_counts_only_with_a_later_version(
    file: CheckpointFile, tmp_path: Path
) -> None:
    stale = report(tmp_path / "stale", (A, 4, 1), (A, 4, 2))
    assert fates(file, [B], stale)["/f4"] == "last_replica"
    joined = report(tmp_path / "joined", (A, 4, 3))
    assert "/f4" not in fates(file, [B], joined), "it was cloned to A after the checkpoint"
    unknown = report(tmp_path / "unknown", (ServerId("cs-new"), 4, 3), (ServerId("cs-new"), 1, 9))
    outlook, files = what_if(file, servers=["cs-new"], rack_of={}, inventories=[unknown])
    assert list(files) == [] and outlook.surplus_replicas == 2 and outlook.servers_lost == ["cs-new"]


def test_a_disk_is_read_and_can_be_saved(file: CheckpointFile, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    store = open_store(disk)
    fill(store)
    store.close()
    (disk / "identity.json").write_bytes(msgspec.json.encode(Identity(server=D)))
    rows = list(inventory_rows(str(disk)))
    held = {row.handle for row in rows if row.handle}
    assert held and {row.server for row in rows} == {D} and not any(row.fault for row in rows)
    longest = max((disk / "chunks").rglob("*.chunk"), key=lambda path: path.stat().st_size)
    longest.write_bytes(b"")
    ran = gfs("chunk", "inventory", str(disk))
    (found,) = [one for one in map(json.loads, ran.stdout.splitlines()) if "fault" in one]
    assert found["handle"] == int(longest.stem, 16) and "its file has 0 of" in found["fault"]
    saved = tmp_path / "saved"
    saved.write_text(ran.stdout)
    assert list(inventory_rows(str(saved))) == list(inventory_rows(str(disk)))
    told = gfs(
        *("-o", "json", "checkpoint", "what-if", "lose-server", file.path, A),
        *("--inventory", str(disk), "--inventory", str(saved)),
    )
    assert json.loads(told.stdout)[0]["inventories"] == [D]
    words = gfs("checkpoint", "what-if", "lose-server", file.path, A, "--inventory", str(saved))
    assert "disks asked: 1" in words.stdout


def test_what_is_no_inventory_is_said_to_be_none(file: CheckpointFile, tmp_path: Path) -> None:
    (tmp_path / "nonsense").write_text('{"server": "a"}\n')
    with pytest.raises(InvalidArgument, match="line 1: no replica is described"):
        list(inventory_rows(str(tmp_path / "nonsense")))
    with pytest.raises(NotFound):
        list(inventory_rows(str(tmp_path / "nowhere")))
    with pytest.raises(InvalidArgument, match="no replica"):
        what_if(file, servers=[A], rack_of={}, inventories=[str(tmp_path / "nonsense")])
    with pytest.raises(NotFound):
        list(inventory_rows(str(tmp_path)))
