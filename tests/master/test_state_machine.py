"""ReplicatedState: entries in, outcomes out, and what is left of it after each way to die."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs.disk import SystemDisk
from gfs.errors import NoSpace, NotFound, UnsupportedVersion
from gfs.master.core.lookup import stat
from gfs.master.state_machine import BOOT_FILE, STATE_FILE, ReplicatedState
from gfs.messages import operations as op
from gfs.vocabulary import LogIndex, Term
from tests.core.master_records import create, record
from tests.master import state_fixtures
from tests.master.state_fixtures import Node, entry, outcomes
from tests.paper.boxes import keeps


def test_a_fresh_state_is_at_the_beginning(tmp_path: Path) -> None:
    node = Node(tmp_path, ForgetfulDisk())
    assert node.state.applied() == (0, 0)
    node.digest()


@keeps("operation-log")
def test_every_proposal_of_an_entry_gets_its_outcome_in_order(tmp_path: Path) -> None:
    node = Node(tmp_path, ForgetfulDisk())
    proposals = [msgspec.msgpack.encode(record(create(path))) for path in ("/a", "/a", "/b")]
    first, second, third = outcomes(node.state.apply(LogIndex(1), Term(1), proposals))
    assert isinstance(first, op.Done)
    assert second == op.Refused(code="already_exists", message="/a exists")
    assert third == op.Done(inode=first.inode + 1)  # type: ignore[arg-type]


def test_readers_see_entries_only_when_they_are_committed(tmp_path: Path) -> None:
    node = Node(tmp_path, ForgetfulDisk())
    node.state.apply(LogIndex(1), Term(1), entry(1))
    assert node.state.applied() == (1, 1)
    assert node.state.committed_index() == 0
    with pytest.raises(NotFound):
        stat(node.state.committed(), "/f1")
    node.state.commit()
    assert node.state.committed_index() == 1
    assert stat(node.state.committed(), "/f1").kind == "file"


def test_an_empty_entry_moves_the_index_and_nothing_else(tmp_path: Path) -> None:
    node = Node(tmp_path, ForgetfulDisk())
    before = node.digest()
    assert node.state.apply(LogIndex(2), Term(3), []) == []
    node.state.commit()
    assert node.state.applied() == (2, 3)
    assert node.digest() == before


def test_a_gap_in_the_log_is_never_applied_over(tmp_path: Path) -> None:
    node = Node(tmp_path, ForgetfulDisk())
    node.apply_to(3)
    for index in (3, 5):
        with pytest.raises(AssertionError):
            node.state.apply(LogIndex(index), Term(1), [])


def test_a_record_from_a_newer_master_stops_this_one(tmp_path: Path) -> None:
    node = Node(tmp_path, ForgetfulDisk())
    newer = msgspec.msgpack.encode({"at_ms": 1, "operation": {"type": "of_tomorrow"}})
    with pytest.raises(UnsupportedVersion, match="entry 1"):
        node.state.apply(LogIndex(1), Term(1), [newer])


def test_listeners_hear_of_each_record_with_its_outcome(tmp_path: Path) -> None:
    node = Node(tmp_path, ForgetfulDisk())
    heard: list[tuple[int, op.LogRecord, op.AnyOutcome]] = []
    node.state.on_applied(lambda index, found, outcome: heard.append((index, found, outcome)))
    step = record(create("/f"))
    node.state.apply(LogIndex(1), Term(1), [msgspec.msgpack.encode(step)])
    [(index, found, outcome)] = heard
    assert (index, found) == (1, step)
    assert isinstance(outcome, op.Done)


def test_a_killed_process_goes_on_with_what_it_had_committed(tmp_path: Path) -> None:
    """The state is left open, as by kill -9; the same boot finds it in the page cache."""
    disk = ForgetfulDisk()
    first = Node(tmp_path, disk)
    first.apply_to(10)
    digest = first.digest()
    first.state.apply(LogIndex(11), Term(1), entry(11))
    first.state.close()
    again = Node(tmp_path, disk)
    assert again.state.applied() == (10, 1)
    assert again.digest() == digest


def test_after_a_power_cut_the_state_is_made_anew_from_the_newest_checkpoint(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    first = Node(tmp_path, disk)
    first.apply_to(10)
    first.checkpoint()
    digest = first.digest()
    first.apply_to(20)
    final = first.digest()
    first.state.close()
    disk.power_cut()
    disk.power_on()
    again = Node(tmp_path, disk)
    assert again.state.applied() == (10, 1)
    assert again.digest() == digest
    again.apply_to(20)
    assert again.digest() == final, "checkpoint and later log give the live state (I7)"


def test_after_a_power_cut_without_a_checkpoint_the_state_is_empty(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    first = Node(tmp_path, disk)
    first.apply_to(10)
    first.state.close()
    disk.power_cut()
    disk.power_on()
    assert Node(tmp_path, disk).state.applied() == (0, 0)


@pytest.mark.parametrize("operations", range(8))
def test_power_lost_while_starting_never_makes_an_old_state_look_sound(
    tmp_path: Path, operations: int
) -> None:
    disk = ForgetfulDisk()
    first = Node(tmp_path, disk)
    first.apply_to(10)
    first.state.close()
    disk.power_cut()
    disk.power_on()
    disk.cut_power_after(operations)
    with pytest.raises(OSError):
        Node(tmp_path, disk)
        raise OSError  # started before the cut
    disk.power_cut()
    disk.power_on()
    assert Node(tmp_path, disk).state.applied() == (0, 0)


def test_a_damaged_state_is_made_anew(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    first = Node(tmp_path, disk)
    first.apply_to(10)
    first.checkpoint()
    first.state.close()
    (tmp_path / STATE_FILE).write_bytes(b"x" * 8192)
    assert Node(tmp_path, disk).state.applied() == (10, 1)


def test_a_state_without_its_boot_file_is_not_trusted(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    first = Node(tmp_path, disk)
    first.apply_to(10)
    first.state.close()
    disk.unlink(str(tmp_path / BOOT_FILE))
    assert Node(tmp_path, disk).state.applied() == (0, 0)


def test_a_state_behind_its_checkpoint_is_replaced(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    node = Node(tmp_path, disk)
    node.apply_to(5)
    behind = (tmp_path / STATE_FILE).read_bytes()
    node.apply_to(10)
    node.checkpoint()
    node.state.close()
    (tmp_path / STATE_FILE).write_bytes(behind)
    assert Node(tmp_path, disk).state.applied() == (10, 1)


def test_a_full_state_raises_no_space_and_goes_on_answering_reads(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    node = Node(tmp_path, disk)
    state = ReplicatedState(str(tmp_path / "small"), node.files, disk=disk, bytes_max=2**20)
    with pytest.raises(NoSpace):
        for index in range(1, 100_000):
            state.apply(LogIndex(index), Term(1), entry(index))
            state.commit()
    assert state.committed_index() > 100
    assert stat(state.committed(), "/f1").kind == "file"


KILLED_WRITER = """
import sys
from pathlib import Path
from gfs.disk import SystemDisk
from gfs.vocabulary import LogIndex, Term
import tests.master.state_fixtures as fixtures
fixtures.CHECKPOINTS = sys.argv[1] + "/checkpoints"
node = fixtures.Node(Path(sys.argv[1]), SystemDisk())
index = node.state.applied()[0]
while True:
    index += 1
    node.state.apply(LogIndex(index), Term(1), fixtures.entry(index))
    if index % 3 == 0:
        node.state.commit()
    if index % 50 == 0:
        node.checkpoint()
    print(node.state.committed_index(), flush=True)
"""


def test_kill_9_at_any_moment_leaves_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process dies between, or in the middle of, applying, committing and checkpointing."""
    reached = 0
    for lines in (1, 37, 61, 102):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED_WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                reached = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split("\n")
            reached = max([reached, *(int(line) for line in rest[:-1] if line)])
        monkeypatch.setattr(state_fixtures, "CHECKPOINTS", f"{tmp_path}/checkpoints")
        node = Node(tmp_path, SystemDisk())
        applied = node.state.applied()[0]
        assert applied >= reached
        twin_directory = tmp_path / f"twin-{lines}"
        monkeypatch.setattr(state_fixtures, "CHECKPOINTS", f"{twin_directory}/checkpoints")
        twin = Node(twin_directory, SystemDisk())
        twin.apply_to(applied)
        assert node.digest() == twin.digest()
        node.state.close()
        twin.state.close()
    assert reached > 150
    assert os.listdir(tmp_path / "checkpoints")
