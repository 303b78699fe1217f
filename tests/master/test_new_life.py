"""Directories of masters that go on from an older state: whole, equal, and strangers to those of before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs import failpoints
from gfs.disk import SystemDisk
from gfs.errors import AlreadyExists, CorruptState, Superseded, Unavailable
from gfs.master.checkpoint_directory import CheckpointDirectory
from gfs.master.core.incarnation import ID_SHIFT, read_incarnation
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import read_counters, state_digest
from gfs.master.directory import MasterDirectory
from gfs.master.new_life import NewLife, begin_life
from gfs.master.replication.handshake import Introduction
from gfs.master.replication.log import OperationLog
from gfs.master.replication.member_disks import MemberDisks
from gfs.master.state_machine import ReplicatedState
from gfs.vocabulary import MIB, ClusterId, LogIndex, MasterId, Term
from tests.master.state_fixtures import Node

CLUSTER = ClusterId("c")
NAMES = [MasterId(name) for name in ("m1", "m2", "m3")]
NOW_MS = 1_795_000_000_500


class Source:
    """A state at entry 30 of term 4, as a checkpoint."""

    def __init__(self, directory: Path) -> None:
        node = Node(directory / "source", ForgetfulDisk())
        node.apply_to(30, term=4)
        self.manifest = node.checkpoint()
        self.content = b"".join(node.files.pieces(self.manifest))
        self.files = node.state.state.counters.files

    def begin(
        self,
        directory: Path,
        names: list[MasterId] = NAMES,
        *,
        replace: bool = False,
        now_ms: int = NOW_MS,
        index: int = 30,
        pieces: Iterator[bytes] | None = None,
    ) -> NewLife:
        return begin_life(
            iter([self.content]) if pieces is None else pieces,
            cluster=CLUSTER,
            position=(LogIndex(index), Term(4)),
            directories={name: str(directory / name) for name in names},
            replace=replace,
            now_ms=now_ms,
        )


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def opened(directory: str) -> ReplicatedState:
    disk = SystemDisk()
    files = CheckpointDirectory(f"{directory}/checkpoints", disk, kept_max=3)
    return ReplicatedState(directory, files, disk=disk, bytes_max=64 * MIB)


def disks_of(life: NewLife, name: MasterId) -> MemberDisks:
    directory = f"{life.directories[name]}/log"
    return MemberDisks(directory, SystemDisk(), me=name, cluster=CLUSTER, has_history=True)


def test_all_masters_start_from_one_state_and_one_position(source: Source, tmp_path: Path) -> None:
    life = source.begin(tmp_path / "new")
    assert life.files == source.files
    digests = set()
    for name, directory in life.directories.items():
        MasterDirectory.claim(directory, SystemDisk(), cluster=CLUSTER, master=name).release()
        state = opened(directory)
        assert state.applied() == life.at
        check_invariants(state.committed())
        digests.add(state_digest(state.committed()))
        log = OperationLog(f"{directory}/log", SystemDisk(), segment_bytes=MIB, base=life.at)
        assert (log.base, log.end) == (life.at, life.at)
        assert log.getCurrentTerm() == life.at.term  # the first leader's is above it
        state.close()
    assert len(digests) == 1


def test_index_term_and_ids_are_above_all_that_was_given_out_after_the_backup(
    source: Source, tmp_path: Path
) -> None:
    life = source.begin(tmp_path / "new")
    assert life.at.index >= NOW_MS // 1000 << ID_SHIFT
    assert life.at.term >= NOW_MS // 1000
    state = opened(life.directories[NAMES[0]])
    found = read_incarnation(state.committed())
    assert (found.name, found.settled, found.garbage_held) == (life.name, False, True)
    assert read_counters(state.committed()).next_handle >= NOW_MS // 1000 << ID_SHIFT
    state.close()
    later = source.begin(tmp_path / "again", now_ms=NOW_MS + 1000)
    assert later.at.index > life.at.index + 30_000 and later.at.term > life.at.term
    assert later.name != life.name


def test_masters_of_one_life_know_each_other_and_no_other_disk(source: Source, tmp_path: Path) -> None:
    first = source.begin(tmp_path / "first")
    second = source.begin(tmp_path / "second")
    m1, m2, stranger = disks_of(first, NAMES[0]), disks_of(first, NAMES[1]), disks_of(second, NAMES[1])
    m1.settle_life(NAMES[1], introduction(m2), has_log=True)
    m1.check(NAMES[1], introduction(m2), voters=NAMES)
    with pytest.raises(Superseded):
        m1.check(NAMES[1], introduction(stranger), voters=NAMES)


def introduction(disks: MemberDisks, *, log_end: int = 1000) -> Introduction:
    return Introduction(disks.mine, disks.all(), log_end, life=disks.life)


def old_disks(directory: Path, name: str) -> MemberDisks:
    return MemberDisks(str(directory), SystemDisk(), me=MasterId(name), cluster=CLUSTER, has_history=False)


def test_a_master_with_a_log_from_before_is_refused_by_name_on_both_sides(
    source: Source, tmp_path: Path
) -> None:
    life = source.begin(tmp_path / "new")
    m1, old = disks_of(life, NAMES[0]), old_disks(tmp_path / "old", "m2")
    with pytest.raises(Superseded, match="m2 has a log from before") as caught:
        m1.settle_life(NAMES[1], introduction(old), has_log=True)
    assert caught.value.details == {"master": "m2"}
    with pytest.raises(Superseded, match="m2 has a log from before"):
        old.settle_life(NAMES[0], introduction(m1), has_log=True)


def test_a_master_without_a_log_joins_the_life_of_those_it_meets_for_good(
    source: Source, tmp_path: Path
) -> None:
    life = source.begin(tmp_path / "new")
    m1, fresh = disks_of(life, NAMES[0]), old_disks(tmp_path / "fresh", "m4")
    m1.settle_life(MasterId("m4"), introduction(fresh, log_end=1), has_log=True)
    fresh.settle_life(NAMES[0], introduction(m1), has_log=False)
    again = MemberDisks(
        str(tmp_path / "fresh"), SystemDisk(), me=MasterId("m4"), cluster=CLUSTER, has_history=False
    )
    assert again.life == life.name
    old = old_disks(tmp_path / "old", "m3")
    with pytest.raises(Superseded, match="m3 has a log from before"):
        again.settle_life(MasterId("m3"), introduction(old), has_log=False)


def test_masters_of_a_first_life_shake_hands_as_ever(tmp_path: Path) -> None:
    m1, m2 = old_disks(tmp_path / "1", "m1"), old_disks(tmp_path / "2", "m2")
    m1.settle_life(MasterId("m2"), introduction(m2), has_log=True)
    m1.check(MasterId("m2"), introduction(m2), voters=NAMES)


def test_what_is_there_is_moved_aside_only_when_that_was_asked_for(source: Source, tmp_path: Path) -> None:
    first = source.begin(tmp_path / "new")
    with pytest.raises(AlreadyExists, match="not empty"):
        source.begin(tmp_path / "new")
    second = source.begin(tmp_path / "new", replace=True, now_ms=NOW_MS + 5000)
    assert len(second.moved_aside) == 3
    kept = opened(second.moved_aside[0])
    assert kept.applied() == first.at
    kept.close()
    assert disks_of(second, NAMES[0]).life == second.name


def test_nothing_is_made_where_a_master_is_running(source: Source, tmp_path: Path) -> None:
    life = source.begin(tmp_path / "new")
    directory = life.directories[NAMES[2]]
    held = MasterDirectory.claim(directory, SystemDisk(), cluster=CLUSTER, master=NAMES[2])
    with pytest.raises(Unavailable, match="a master is running"):
        source.begin(tmp_path / "new", replace=True)
    held.release()
    assert disks_of(life, NAMES[0]).life == life.name


def test_a_damaged_or_mistaken_state_leaves_no_directory_behind(source: Source, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield source.content[:5000]
        raise CorruptState("the checksum is another")

    with pytest.raises(CorruptState, match="checksum"):
        source.begin(tmp_path / "new", pieces=broken())
    with pytest.raises(CorruptState, match="said to be at"):
        source.begin(tmp_path / "new", index=29)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("name", ["restore.made", "restore.set_aside", "restore.in_place"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_restore_killed_at_any_step_is_made_again_and_loses_nothing_that_was_there(
    source: Source, tmp_path: Path, name: str, nth: int
) -> None:
    first = source.begin(tmp_path / "new")
    passes = 0

    def told(passed: str) -> None:
        nonlocal passes
        passes += passed == name
        if passed == name and passes == nth:
            raise OSError("killed here")

    failpoints.intercept(told)
    try:
        with pytest.raises(OSError, match="killed here"):
            source.begin(tmp_path / "new", replace=True, now_ms=NOW_MS + 5000)
    finally:
        failpoints.intercept(None)
    second = source.begin(tmp_path / "new", replace=True, now_ms=NOW_MS + 10_000)
    for directory in second.directories.values():
        state = opened(directory)
        assert state.applied() == second.at
        check_invariants(state.committed())
        state.close()
    assert {disks_of(second, member).life for member in NAMES} == {second.name}
    kept = [path for path in (tmp_path / "new").iterdir() if path.name not in NAMES]
    lives = {
        MemberDisks(f"{p}/log", SystemDisk(), me=MasterId(p.name[:2]), cluster=CLUSTER, has_history=True).life
        for p in kept
        if (p / "log").exists()
    }
    assert first.name in lives, "what was there before has been moved aside, not lost"
