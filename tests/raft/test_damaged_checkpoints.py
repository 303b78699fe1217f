"""Whole masters start though checkpoints are damaged, and refuse those of a later gfs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gfs.errors import CorruptState, GfsError, UnsupportedVersion
from gfs.master.checkpoint_directory import encode_manifest
from tests.raft.checkpoint_world import (
    checkpoint,
    checkpoint_names,
    damage_checkpoint,
    fill,
    leader_of,
    run,
    until,
)
from tests.raft.whole_masters import WholeCluster, WholeMaster

__all__ = ["run"]


@pytest.mark.parametrize(
    "how", ["bit in the file", "bit in the manifest", "file cut short", "no manifest", "no file"]
)
@pytest.mark.parametrize("newest", [1, 2])
def test_a_master_whose_newest_checkpoints_are_damaged_starts_from_an_older_one_and_its_log(
    run: Callable[..., None], how: str, newest: int
) -> None:
    async def scenario(cluster: WholeCluster) -> None:
        leader = leader_of(cluster)
        for number in range(5):
            await fill(cluster, f"round{number}", 60)
            await checkpoint(leader)
        await fill(cluster, "behind the last", 30)
        await cluster.settled()
        leader.cut_power(torn=False)
        leader.power_on()
        names = checkpoint_names(leader)
        assert len(names) == 3
        for name in names[-newest:]:
            damage_checkpoint(leader, name, how)
        await leader.start()
        assert leader.state is not None and leader.state.applied()[0] == int(names[-1 - newest].split("-")[1])
        await cluster.settled()
        cluster.check()

    run(scenario)


def test_when_all_checkpoints_are_damaged_and_the_log_is_trimmed_the_master_says_so(
    run: Callable[..., None],
) -> None:
    async def scenario(cluster: WholeCluster) -> None:
        leader = leader_of(cluster)
        for number in range(5):
            await fill(cluster, f"round{number}", 60)
            await checkpoint(leader)
        leader.cut_power(torn=False)
        leader.power_on()
        for name in leader.disk.listdir(f"{leader.directory}/checkpoints"):
            if name.endswith(".lmdb"):
                leader.disk.flip_bit(f"{leader.directory}/checkpoints/{name}", 9_000)
        with pytest.raises(CorruptState, match="operation log") as caught:
            await leader.start()
        assert "readmit" in caught.value.hint
        leader.failure = None
        await until(cluster, lambda: cluster.leader() is not None)
        await fill(cluster, "the others go on", 5)

    run(scenario)


@pytest.mark.parametrize("file", ["manifest", "log", "identity"])
def test_files_of_a_later_gfs_are_refused_by_name_and_left_alone(run: Callable[..., None], file: str) -> None:
    async def scenario(cluster: WholeCluster) -> None:
        leader = leader_of(cluster)
        for number in range(2):
            await fill(cluster, f"round{number}", 20)
            await checkpoint(leader)
        leader.cut_power(torn=False)
        leader.power_on()
        path, content = of_a_later_gfs(leader, file)
        before = write(leader, path, content)
        with pytest.raises(UnsupportedVersion) as caught:
            await leader.start()
        told: GfsError = caught.value
        assert Path(path).name in told.message and "format" in told.message, told.message
        assert "newer gfs" in told.hint
        assert before == leader.disk.listdir(os.path.dirname(path)), "nothing was removed"
        leader.failure = None

    run(scenario)


def of_a_later_gfs(master: WholeMaster, file: str) -> tuple[str, bytes]:
    if file == "manifest":
        names = master.disk.listdir(f"{master.directory}/checkpoints")
        path = f"{master.directory}/checkpoints/{max(n for n in names if n.endswith('.manifest'))}"
        return path, later_manifest()
    if file == "log":
        names = master.disk.listdir(f"{master.directory}/log")
        path = f"{master.directory}/log/{max(n for n in names if n.endswith('.oplog'))}"
        number = int(Path(path).stem)
        return path, b"GFSOPLOG" + (2).to_bytes(4, "little") + number.to_bytes(4, "little") + bytes(range(60))
    return f"{master.directory}/log/identity.json", b'{"format":2,"colour":"blue"}'


def later_manifest() -> bytes:
    class Later(msgspec.Struct):
        format: int
        colour: str

    return encode_manifest(Later(2, "blue"))  # type: ignore[arg-type]


def write(master: WholeMaster, path: str, content: bytes) -> list[str]:
    file = master.disk.open(path, create=True)
    file.truncate(0)
    file.pwrite(content, 0)
    file.sync()
    return master.disk.listdir(os.path.dirname(path))
