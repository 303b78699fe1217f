"""A state made again from checkpoint and log equals the one that lived (I7), at any index in the log."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from gfs.disk import SystemDisk
from gfs.errors import AlreadyExists, CorruptState, InvalidArgument
from gfs.inspect.oplog_entries import EntryReader
from gfs.inspect.oplog_lines import select_lines
from gfs.inspect.oplog_replay import open_replay, replay_to
from gfs.inspect.oplog_segments import LogWalk
from gfs.master.checkpoint_directory import CheckpointDirectory
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import state_digest
from gfs.master.state_machine import ReplicatedState
from gfs.messages import operations as op
from gfs.vocabulary import MasterId
from tests.core.master_records import NOW_MS, create
from tests.inspect.lived_master import LivedMaster, live
from tests.inspect.logs import flip, segments


def restored(directory: Path, index: int, work: Path) -> tuple[str, dict[str, str]]:
    """Digest and members of the checkpoint at `index`, taken up by a master's own code."""
    out = work / f"out-{index}"
    (out / "checkpoints").mkdir(parents=True)
    replay_to(str(directory), index=index, out=str(out / "checkpoints"), work=str(work))
    files = CheckpointDirectory(str(out / "checkpoints"), SystemDisk(), kept_max=3)
    state = ReplicatedState(str(out), files, disk=SystemDisk(), bytes_max=64 * 2**20)
    try:
        newest = files.newest()
        assert newest is not None and state.applied() == (newest.index, newest.term)
        assert newest.index == index
        check_invariants(state.committed())
        return state_digest(state.committed()), dict(newest.members)
    finally:
        state.close()


@pytest.mark.parametrize("seed", range(3))
def test_the_state_at_any_index_is_that_which_the_master_had(tmp_path: Path, seed: int) -> None:
    master = LivedMaster(tmp_path / "m1")
    chance = random.Random(seed)
    live(master, 40, seed=seed)
    master.checkpoint()
    live(master, 40, seed=seed + 100)
    middle = master.log.end.index
    master.checkpoint()
    live(master, 40, seed=seed + 200)
    master.close()
    last = max(master.digests)
    for index in {2, middle, middle + 1, last, *chance.sample(sorted(master.digests), 6)}:
        assert restored(tmp_path / "m1", index, tmp_path)[0] == master.digests[index], index


def test_indices_older_than_the_log_are_refused_and_later_ones_are_in_reach(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    live(master, 60, seed=1)
    trimmed_at = master.checkpoint(trim=True).index
    live(master, 60, seed=2)
    master.close()
    assert len(segments(tmp_path / "m1/log")) > 1
    base = EntryReader(str(tmp_path / "m1")).base[0]
    assert 1 < base <= trimmed_at
    with pytest.raises(InvalidArgument, match="no checkpoint at or before entry 3"):
        replay_to(str(tmp_path / "m1"), index=3, out=str(tmp_path / "out.lmdb"))
    for index in (trimmed_at, trimmed_at + 1, trimmed_at + 30):
        assert restored(tmp_path / "m1", index, tmp_path)[0] == master.digests[index]
    with pytest.raises(InvalidArgument, match="there is no entry"):
        replay_to(str(tmp_path / "m1"), index=10_000, out=str(tmp_path / "out.lmdb"))
    assert not (tmp_path / "out.lmdb").exists()


def test_members_follow_readmissions_in_the_log(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    master.do(create("/a"))
    master.checkpoint()
    master.readmit("m2", "disk-2")
    first = int(master.log.end.index)
    master.readmit("m2", "disk-3")
    master.close()
    mine = master.disks.mine
    assert restored(tmp_path / "m1", first, tmp_path)[1] == {"m1": mine, "m2": "disk-2"}
    assert restored(tmp_path / "m1", first + 1, tmp_path)[1] == {"m1": mine, "m2": "disk-3"}


def test_who_the_masters_are_follows_the_log_into_the_checkpoint(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    master.do(create("/a"))
    master.checkpoint()
    mine = master.disks.mine
    master.configure("m1 m2", disks={MasterId("m2"): "disk-2"})
    grown = int(master.log.end.index)
    master.configure("m1", disks={})
    master.close()
    for index, voters, disks in (
        (grown - 1, [], {"m1": mine}),
        (grown, ["m1", "m2"], {"m1": mine, "m2": "disk-2"}),
        (grown + 1, ["m1"], {"m1": mine}),
    ):
        manifest, _ = replay_to(str(tmp_path / "m1"), index=index, out=str(tmp_path / f"{index}.lmdb"))
        assert [member.id for member in manifest.configuration] == voters
        assert manifest.members == disks
    lines = select_lines(LogWalk(str(tmp_path / "m1")))
    words = [line.words for line in lines if line.kind == "configuration"]
    assert words == ["the masters are m1, m2; m2 votes from the disk disk-2", "the masters are m1"]


def test_a_digest_that_differs_stops_the_replay_and_is_named(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    master.do(create("/a"))
    master.check_digest()
    index, _ = master.state.state.digest_mark()
    before = int(master.log.end.index)
    lie = op.LogRecord(at_ms=NOW_MS, operation=op.CheckDigest(index=index, digest="0" * 32))
    master.raw([msgspec.msgpack.encode(lie)])
    master.close()
    with pytest.raises(CorruptState, match=f"digest at index {index}"):
        replay_to(str(tmp_path / "m1"), index=before + 1, out=str(tmp_path / "out.lmdb"))
    assert not list(tmp_path.glob("out*"))
    assert restored(tmp_path / "m1", before, tmp_path)[0] == master.digests[before]


def test_digests_on_the_way_are_counted(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    for number in range(5):
        master.do(create(f"/f{number}"))
        master.check_digest()
    master.close()
    _, done = replay_to(str(tmp_path / "m1"), index=11, out=str(tmp_path / "out.lmdb"))
    assert done.digests_compared == 4  # the first one has nothing to compare with


def test_damage_of_the_log_or_the_checkpoint_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    live(master, 40, seed=5)
    master.checkpoint()
    live(master, 20, seed=6)
    last = max(master.digests)
    master.close()
    checkpoint = next((tmp_path / "m1/checkpoints").glob("*.lmdb"))
    flip(checkpoint, checkpoint.stat().st_size // 2)
    with pytest.raises(CorruptState, match="checksum"):
        replay_to(str(tmp_path / "m1"), index=last, out=str(tmp_path / "out.lmdb"))
    flip(checkpoint, checkpoint.stat().st_size // 2)
    victim = segments(tmp_path / "m1/log")[0]
    flip(victim, 200)
    with pytest.raises(CorruptState, match=victim.name):
        replay_to(str(tmp_path / "m1"), index=last, out=str(tmp_path / "out.lmdb"))
    assert not list(tmp_path.glob("out*"))


def test_a_missing_segment_is_damage_and_not_passed_over(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    live(master, 60, seed=9)
    last = max(master.digests)
    master.close()
    segments(tmp_path / "m1/log")[1].unlink()
    with pytest.raises(CorruptState, match="goes on with entry"):
        replay_to(str(tmp_path / "m1"), index=last, out=str(tmp_path / "out.lmdb"))


def test_nothing_that_exists_is_replaced(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    master.do(create("/a"))
    master.close()
    out = tmp_path / "out.lmdb"
    out.write_text("precious")
    with pytest.raises(AlreadyExists):
        replay_to(str(tmp_path / "m1"), index=2, out=str(out))
    assert out.read_text() == "precious"


def test_a_log_can_be_replayed_while_its_master_goes_on(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    live(master, 30, seed=3)
    log = EntryReader(str(tmp_path / "m1"))
    seen = master.log.end.index
    live(master, 30, seed=4)
    with open_replay(str(tmp_path / "m1"), log=log) as replay:
        replay.run(to=2**64)
        assert replay.applied[0] == seen
        assert replay.digest() == master.digests[seen]
    master.close()
