"""The operation log: what survives a restart, a tail torn at any byte, damage, and random schedules."""

from __future__ import annotations

import random
import struct

import pytest

from chaos.simulation.disk import ForgetfulDisk, PoweredOff
from gfs import failpoints
from gfs.disk import read_whole_file
from gfs.errors import CorruptState, UnsupportedVersion
from gfs.master.replication.log import FIRST_INDEX, OperationLog, Position, bytes_on_disk, segment_path
from gfs.vocabulary import LogIndex, Term

DIRECTORY = "/data/log"


def open_log(
    disk: ForgetfulDisk, *, segment_bytes: int = 2**20, base: Position | None = None
) -> OperationLog:
    return OperationLog(DIRECTORY, disk, segment_bytes=segment_bytes, base=base)


def contents(log: OperationLog) -> list[tuple[bytes, int, int]]:
    return log[1:]


def restart(disk: ForgetfulDisk, **options: object) -> OperationLog:
    disk.power_cut()
    disk.power_on()
    return open_log(disk, **options)  # type: ignore[arg-type]


def test_a_new_log_holds_only_the_entry_every_master_starts_with() -> None:
    log = open_log(ForgetfulDisk())
    assert log.end == log.base == (FIRST_INDEX, 0) and len(log) == 1
    assert log.getCurrentTerm() == 0 and log.getVotedForNodeId() is None


def test_what_was_flushed_survives_a_power_cut_and_what_was_not_does_not() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk)
    log.setCurrentTerm(3, "m2")
    log.add(b"one", 2, 3)
    log.add(b"two", 3, 3)
    log.flush()
    log.add(b"lost", 4, 3)
    log.setCurrentTerm(4, "m3")
    log = restart(disk)
    assert contents(log) == [(b"one", 2, 3), (b"two", 3, 3)]
    assert (log.getCurrentTerm(), log.getVotedForNodeId()) == (3, "m2")


def test_what_a_kill_left_unsynced_survives_a_power_cut_once_it_counts_as_durable() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk)
    log.add(b"one", 2, 1)
    log.flush()
    log.add(b"two", 3, 1)
    batch = log.take_batch()
    assert batch is not None and batch.file is not None
    batch.file.pwrite(batch.content, batch.offset)  # kill -9 comes between the write and its sync
    log = open_log(disk)
    assert log.end == (3, 1) and log.durable_index == 3  # a follower would acknowledge it to its leader
    assert contents(restart(disk)) == [(b"one", 2, 1), (b"two", 3, 1)]


def test_a_segment_whose_name_a_kill_left_unsynced_survives_a_power_cut() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk, segment_bytes=100)
    log.add(b"x" * 100, 2, 1)
    log.flush()
    log.add(b"two", 3, 1)
    batch = log.take_batch()
    assert batch is not None and batch.file is None
    file = disk.open(batch.path, create=True)
    file.pwrite(batch.content, 0)
    file.sync()  # kill -9 comes before the directory is synced
    log = open_log(disk)
    log.add(b"three", 4, 1)
    log.flush()
    assert contents(restart(disk))[1:] == [(b"two", 3, 1), (b"three", 4, 1)]


def test_durable_index_covers_an_entry_only_after_its_batch_is_settled() -> None:
    log = open_log(ForgetfulDisk())
    log.add(b"one", 2, 1)
    batch = log.take_batch()
    assert batch is not None and log.durable_index == 1
    file = log.write(batch)
    log.truncate_after(LogIndex(1))  # a new leader overrules the entry while it is on its way to the disk
    log.add(b"other", 2, 2)
    log.settle(batch, file)
    assert log.durable_index == 1
    log.flush()
    assert log.durable_index == 2


def test_truncation_and_reset_are_one_record_each_and_survive() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk)
    for index in range(2, 10):
        log.add(b"%d" % index, index, 1)
    log.deleteEntriesFrom(4)
    log.add(b"new", 5, 2)
    log.flush()
    assert contents(restart(disk)) == [(b"2", 2, 1), (b"3", 3, 1), (b"4", 4, 1), (b"new", 5, 2)]
    log = restart(disk)
    log.clear()
    log.add(b"gone", 100, 7)
    log.add(b"after", 101, 8)
    log.flush()
    log = restart(disk)
    assert log.base == (100, 7) and contents(log) == [(b"after", 101, 8)]


def test_segments_behind_a_checkpoint_are_dropped_and_the_rest_still_reads() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk, segment_bytes=300)
    log.setCurrentTerm(1, "m1")
    for index in range(2, 40):
        log.add(b"x" * 50, index, 1)
        log.flush()
    before = len(disk.listdir(DIRECTORY))
    log.drop_segments(log.compact_to(LogIndex(30)))
    assert len(disk.listdir(DIRECTORY)) < before / 2
    log.truncate_after(LogIndex(35))
    log.add(b"new", 36, 2)
    log.flush()
    log = restart(disk, segment_bytes=300, base=Position(LogIndex(30), Term(1)))
    assert log.holds(Position(LogIndex(30), Term(1))) and log.end == (36, 2)
    assert (log.getCurrentTerm(), log.getVotedForNodeId()) == (1, "m1")


def test_its_size_on_disk_is_that_of_its_segments_and_of_nothing_beside_them() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk, segment_bytes=4096)
    for index in range(2, 40):
        log.add(bytes(500), LogIndex(index), Term(1))
        log.flush()
    paths = [f"{DIRECTORY}/{name}" for name in disk.listdir(DIRECTORY) if name.endswith(".oplog")]
    assert len(paths) > 3
    beside = disk.open(f"{DIRECTORY}/notes", create=True)
    beside.pwrite(bytes(10_000), 0)
    assert bytes_on_disk(DIRECTORY, disk) == sum(disk.length_of(path) for path in paths) > 38 * 500


def test_a_truncation_that_reaches_behind_the_first_kept_segment_still_replays() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk, segment_bytes=200)
    for index in range(2, 12):
        log.add(b"x" * 50, index, 1)
        log.flush()
    log.truncate_after(LogIndex(5))
    for index in range(6, 20):
        log.add(b"y" * 50, index, 2)
        log.flush()
    log.drop_segments(log.compact_to(LogIndex(18)))
    log = restart(disk, segment_bytes=200, base=Position(LogIndex(18), Term(2)))
    assert log.end == (19, 2) and log.holds(Position(LogIndex(18), Term(2)))


def test_a_log_that_ends_before_the_checkpoint_starts_over_from_it() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk)
    log.add(b"old", 2, 1)
    log.flush()
    log = restart(disk, base=Position(LogIndex(50), Term(4)))
    assert log.base == log.end == (50, 4)
    assert restart(disk).base == (50, 4)


def test_a_log_that_starts_after_the_newest_checkpoint_is_refused() -> None:
    disk = ForgetfulDisk()
    open_log(disk, base=Position(LogIndex(50), Term(4)))
    with pytest.raises(CorruptState, match="checkpoint ends at entry 40"):
        restart(disk, base=Position(LogIndex(40), Term(3)))


def written_log(disk: ForgetfulDisk) -> bytes:
    log = open_log(disk)
    log.setCurrentTerm(1, "m1")
    log.flush()
    for index in range(2, 6):
        log.add(b"payload-%d" % index, index, 1)
        log.flush()
    return read_whole_file(disk, segment_path(DIRECTORY, 1))


def put_file(content: bytes, number: int = 1) -> ForgetfulDisk:
    disk = ForgetfulDisk()
    disk.make_directory(DIRECTORY)
    file = disk.open(segment_path(DIRECTORY, number), create=True)
    file.pwrite(content, 0)
    file.sync()
    disk.sync_directory(DIRECTORY)
    return disk


def test_a_tail_torn_at_any_byte_is_cut_and_the_records_before_it_stay() -> None:
    whole = written_log(ForgetfulDisk())
    seen = set()
    for length in range(len(whole)):
        log = open_log(put_file(whole[:length]))
        expected = [(b"payload-%d" % index, index, 1) for index in range(2, log.end.index + 1)]
        assert contents(log) == expected
        seen.add(log.end.index)
        log.add(b"next", log.end.index + 1, 2)
        log.flush()
    assert seen == {1, 2, 3, 4}


def test_a_tail_torn_at_any_sector_is_cut_even_when_later_sectors_reached_the_disk() -> None:
    for seed in range(200):
        disk = ForgetfulDisk(seed)
        log = open_log(disk)
        log.add(b"synced" * 200, 2, 1)
        log.flush()
        for index in range(3, 12):
            log.add(b"%d" % index * 400, index, 1)
        batch = log.take_batch()
        assert batch is not None and batch.file is not None
        batch.file.pwrite(batch.content, batch.offset)
        disk.power_cut(torn=True)
        disk.power_on()
        assert open_log(disk).end.index >= 2


def test_any_flipped_bit_below_the_last_batch_is_refused_with_file_byte_and_record() -> None:
    whole = written_log(ForgetfulDisk())
    last_batch = len(whole) - len(b"payload-5") - 25 - 8
    chance = random.Random(5)
    for offset in range(last_batch):
        disk = put_file(whole)
        disk.flip_bit(segment_path(DIRECTORY, 1), offset, chance.randrange(8))
        with pytest.raises((CorruptState, UnsupportedVersion)) as refused:
            open_log(disk)
        assert segment_path(DIRECTORY, 1) in refused.value.message
        if isinstance(refused.value, CorruptState):
            assert {"file", "byte", "record"} <= refused.value.details.keys()
            assert "record" in refused.value.message and "byte" in refused.value.message


def test_after_an_orderly_stop_a_flipped_bit_in_the_last_batch_is_refused_too() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk)
    log.add(b"last", 2, 1)
    log.flush()
    end = len(read_whole_file(disk, segment_path(DIRECTORY, 1)))
    log.close()
    disk.flip_bit(segment_path(DIRECTORY, 1), end - 1)
    with pytest.raises(CorruptState):
        open_log(disk)


def test_a_missing_segment_and_a_fault_before_the_last_segment_are_refused() -> None:
    def many() -> ForgetfulDisk:
        disk = ForgetfulDisk()
        log = open_log(disk, segment_bytes=100)
        for index in range(2, 10):
            log.add(b"x" * 60, index, 1)
            log.flush()
        return disk

    disk = many()
    disk.unlink(segment_path(DIRECTORY, 3))
    with pytest.raises(CorruptState, match="gap"):
        open_log(disk)
    disk = many()
    path = segment_path(DIRECTORY, 3)
    disk.open(path).truncate(len(read_whole_file(disk, path)) - 1)
    with pytest.raises(CorruptState, match="0000000000000003"):
        open_log(disk)


def test_a_newer_format_is_refused_by_name() -> None:
    disk = put_file(struct.pack("<8sII", b"GFSOPLOG", 7, 1) + b"whatever a newer program writes")
    with pytest.raises(UnsupportedVersion, match="format 7"):
        open_log(disk)


def test_a_full_disk_changes_nothing_and_the_same_batch_can_be_written_later() -> None:
    disk = ForgetfulDisk()
    log = open_log(disk)
    log.add(b"x" * 1000, 2, 1)
    batch = log.take_batch()
    assert batch is not None
    disk.space_bytes_left = 100
    with pytest.raises(OSError):
        log.write(batch)
    log.add(b"more", 3, 1)
    disk.space_bytes_left = None
    log.settle(batch, log.write(batch))
    log.flush()
    assert [payload for payload, _, _ in contents(restart(disk))] == [b"x" * 1000, b"more"]


@pytest.mark.parametrize(
    "name",
    ["oplog.before_write", "oplog.written", "oplog.segment_synced", "oplog.segment_created", "oplog.synced"],
)
def test_a_failpoint_in_every_step_of_a_write_is_seen_by_the_caller(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(ForgetfulDisk(), segment_bytes=1)
    log.add(b"x", 2, 1)
    batch = log.take_batch()
    assert batch is not None
    monkeypatch.setattr(failpoints, "_armed", failpoints._parse(f"{name}=nospace"))
    with pytest.raises(OSError):
        log.write(batch)
    monkeypatch.setattr(failpoints, "_armed", {})
    log.settle(batch, log.write(batch))
    assert log.durable_index == 2


class Model:
    """What the log should hold: all of it, and as of the last completed flush."""

    def __init__(self) -> None:
        self.entries: list[tuple[bytes, int, int]] = []
        self.base = Position(FIRST_INDEX, Term(0))
        self.term, self.vote = 0, ""

    def snapshot(self) -> tuple[object, ...]:
        return (tuple(self.entries), self.base, self.term, self.vote)

    @property
    def end(self) -> int:
        return self.entries[-1][1] if self.entries else self.base.index


def observe(log: OperationLog, model: Model) -> tuple[object, ...]:
    vote = log.getVotedForNodeId() or ""
    return (
        tuple(e for e in contents(log) if e[1] > model.base.index),
        model.base,
        log.getCurrentTerm(),
        vote,
    )


def random_step(chance: random.Random, log: OperationLog, model: Model) -> None:
    """One change, to the log and to the model."""
    what = chance.random()
    if what < 0.55:
        payload = chance.randbytes(chance.choice((0, 5, 40, 600)))
        log.add(payload, model.end + 1, model.term)
        model.entries.append((payload, model.end + 1, model.term))
    elif what < 0.7:
        model.term, model.vote = model.term + 1, chance.choice(("", "m1", "m2"))
        log.setCurrentTerm(model.term, model.vote or None)
    elif what < 0.85 and model.entries:
        kept = chance.randrange(len(model.entries))
        del model.entries[kept:]
        log.truncate_after(LogIndex(model.end))
    elif what < 0.9:
        model.base = Position(LogIndex(model.end + chance.randrange(1, 9)), Term(model.term))
        model.entries = []
        log.reset(model.base)
    elif model.entries:
        log.flush()
        index, term = chance.choice(model.entries)[1:]
        model.base = Position(LogIndex(index), Term(term))
        model.entries = [entry for entry in model.entries if entry[1] > index]
        log.drop_segments(log.compact_to(LogIndex(index)))


def test_ten_thousand_random_schedules_with_power_cuts_agree_with_a_model() -> None:
    """After a cut the log holds what the last flush made durable, or any whole prefix of changes since."""
    for seed in range(10_000):
        chance = random.Random(seed)
        disk = ForgetfulDisk(seed)
        segment_bytes = chance.choice((1, 150, 4000))
        model = Model()
        log = open_log(disk, segment_bytes=segment_bytes)
        possible = {model.snapshot()}
        disk.cut_power_after(chance.randrange(40), torn=chance.random() < 0.7)
        try:
            for _ in range(chance.randrange(1, 25)):
                random_step(chance, log, model)
                possible.add(model.snapshot())
                if chance.random() < 0.4:
                    log.flush()
                    possible = {model.snapshot()}
        except PoweredOff:
            possible.add(model.snapshot())
        disk.operations_until_cut = None
        if not disk.powered_off:
            disk.power_cut(torn=True)
        disk.power_on()
        log = open_log(disk, segment_bytes=segment_bytes)
        bases = {snapshot[1] for snapshot in possible}
        found = {observe(log, at) for base in bases for at in [_model_at(base)]}
        assert found & possible, f"seed {seed}"


def _model_at(base: object) -> Model:
    model = Model()
    assert isinstance(base, Position)
    model.base = base
    return model


@pytest.mark.parametrize("seed", range(20))
def test_segments_dropped_when_the_power_goes_leave_no_hole_though_directory_changes_are_reordered(
    seed: int,
) -> None:
    for operations in range(8):
        disk = ForgetfulDisk(seed)
        disk.reorders_names = True
        log = open_log(disk, segment_bytes=60)
        for index in range(2, 30):
            log.add(b"payload", index, 1)
            log.flush()
        unneeded = log.compact_to(LogIndex(25))
        assert len(unneeded) > 3
        disk.cut_power_after(operations, torn=True)
        with pytest.raises(PoweredOff):
            log.drop_segments(unneeded)
        disk.power_on()
        again = open_log(disk, segment_bytes=60)
        assert again.end.index == 29 and again.base.index <= 25
