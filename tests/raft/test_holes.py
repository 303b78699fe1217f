"""Every hole told in replication/engine that shows in one member: plain pysyncobj has it, ours has not.

F3, F5 and the cluster's side of F1, F2 and P5 are in test_cluster and test_real_loop.
"""

from __future__ import annotations

import gzip
import os
import pickle
import pickletools
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from pysyncobj import journal as plain_journal
from pysyncobj.node import Node
from pysyncobj.poller import POLL_EVENT_TYPE
from pysyncobj.tcp_connection import TcpConnection

from chaos.simulation.disk import ForgetfulDisk, PoweredOff
from gfs.errors import InvalidArgument
from gfs.master.replication.engine import MemberNode
from gfs.master.replication.group_commit import GroupCommit
from gfs.master.replication.log import OperationLog, Position
from gfs.master.replication.options import APPEND_BYTES_MAX, ENTRY_BYTES_MAX, PROPOSAL_BYTES_MAX, RaftOptions
from gfs.master.replication.raft_messages import AppendAnswer, AppendEntries, Message, Vote, VoteRequest
from gfs.vocabulary import LogIndex, MasterId, Term
from tests.raft.single import (
    ME,
    PEER,
    THIRD,
    OurMember,
    PlainMember,
    Spinning,
    StoppedClock,
    answer,
    append,
    command,
    stopped_clock,
)

__all__ = ["stopped_clock"]

both = pytest.mark.parametrize("make", [PlainMember, OurMember], ids=["plain", "ours"])


def entries(first: int, last: int, term: int = 1) -> list[tuple[bytes, int, int]]:
    return [(command(f"{index}/{term}"), index, term) for index in range(first, last + 1)]


# --- F1: nothing is ever synced -----------------------------------------------------------------------


def test_f1_plain_journal_never_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(os, "fsync", syncs.append)
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    journal = plain_journal.FileJournal(str(tmp_path / "journal"))
    journal.setCurrentTerm(3, "m1")
    journal.add(command("acknowledged"), 2, 3)
    journal.onOneSecondTimer()
    assert not syncs


def test_f1_a_vote_leaves_only_when_term_and_vote_are_on_the_disk(stopped_clock: StoppedClock) -> None:
    member = OurMember()
    member.raft.election_deadline = stopped_clock.now + 1e6
    member.receive(PEER, {"type": "request_vote", "term": 5, "last_log_index": 9, "last_log_term": 4})
    assert member.sent_to(PEER) == []
    member.synced()
    assert member.sent_to(PEER) == [Vote(5)]
    member.disk.power_cut()
    member.disk.power_on()
    log = OperationLog("/log", member.disk, segment_bytes=2**20)
    assert (log.getCurrentTerm(), log.getVotedForNodeId()) == (5, PEER)


def test_f1_a_candidate_asks_for_votes_only_when_its_own_vote_is_on_the_disk(
    stopped_clock: StoppedClock,
) -> None:
    member = OurMember()
    stopped_clock.now += 10
    member.tick()
    assert member.raft.is_candidate and member.sent_to(PEER) == []
    member.synced()
    assert member.sent_to(PEER) == [VoteRequest(1, 1, 0)]


def test_f1_entries_are_acknowledged_only_when_they_are_on_the_disk(stopped_clock: StoppedClock) -> None:
    member = OurMember()
    member.receive(PEER, append(1, (1, 0), entries(2, 4)))
    member.writer.is_slow = True
    member.receive(PEER, append(1, (4, 1), []))
    assert member.sent_to(PEER) == [AppendAnswer(1, 0, False, False)], "visible, but promising nothing"
    member.synced()
    assert member.sent_to(PEER)[1:] == [AppendAnswer(1, 5, True, False)]


def test_f1_an_answer_counts_only_up_to_what_the_leaders_own_disk_holds(stopped_clock: StoppedClock) -> None:
    member = OurMember()
    member.lead()
    member.raft.append(command("fast follower"))
    member.tick()
    end = member.oplog.end.index
    member.receive(PEER, answer(end + 1, success=True))
    member.tick()
    assert member.raft.commit_index < end and not member.applied
    member.synced()
    member.tick()
    assert member.raft.commit_index == end and member.applied == [(end, command("fast follower"))]


def test_f1_a_master_alone_applies_only_what_is_on_its_disk(stopped_clock: StoppedClock) -> None:
    member = OurMember()
    member.raft._SyncObj__otherNodes.clear()
    stopped_clock.now += 10
    member.tick()
    assert member.raft.is_leader
    member.raft.append(command("alone"))
    member.tick()
    assert not member.applied
    member.synced()
    member.tick()
    assert member.applied == [(3, command("alone"))]


# --- P1: commit index on snapshot chunks --------------------------------------------------------------


@both
def test_p1_a_message_about_a_snapshot_says_nothing_of_our_own_entries(
    make: type[PlainMember | OurMember], stopped_clock: StoppedClock
) -> None:
    """An ex-leader with entries nobody has, offered a snapshot by its successor, must not apply them."""
    member = make()
    member.fill(entries(2, 6), applied=3, term=1)
    chunk = {"type": "append_entries", "term": 2, "commit_index": 9, "serialized": (b"first", True, False)}
    member.receive(PEER, chunk)
    member.tick()
    stale = [index for index, _ in member.applied if index > 3]
    assert stale == ([4, 5, 6] if make is PlainMember else [])


# --- P2: dump and journal are two steps -----------------------------------------------------------------


def test_p2_plain_throws_the_journal_away_when_it_died_between_dump_and_trim(tmp_path: Path) -> None:
    journal = plain_journal.FileJournal(str(tmp_path / "journal"))
    log = [(command(str(index)), index, 1) for index in range(1, 11)]
    for entry in log:
        journal.add(*entry)
    journal._destroy()
    dump = ({}, log[4], log[3], {Node(ME), Node(PEER), Node(THIRD)})
    (tmp_path / "dump").write_bytes(gzip.compress(pickle.dumps(dump)))
    member = PlainMember(journalFile=str(tmp_path / "journal"), fullDumpFile=str(tmp_path / "dump"))
    member.tick()
    assert member.log == log[3:5], "entries 6 to 10, acknowledged, are gone"


def test_p2_our_log_keeps_what_follows_a_checkpoint_whenever_it_died() -> None:
    disk = ForgetfulDisk()
    log = OperationLog("/log", disk, segment_bytes=60)
    for index in range(2, 11):
        log.add(command(str(index)), index, 1)
        log.flush()
    disk.power_cut()
    disk.power_on()
    base = Position(LogIndex(5), Term(1))
    log = OperationLog("/log", disk, segment_bytes=60, base=base)
    assert [index for _, index, _ in log.entries_after(LogIndex(5))] == [6, 7, 8, 9, 10]


# --- P3: trimming rewrites the file ---------------------------------------------------------------------


class _Death(BaseException):
    pass


def test_p3_plain_loses_later_entries_when_it_dies_while_trimming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "journal")
    journal = plain_journal.FileJournal(path)
    for index in range(1, 11):
        journal.add(command(str(index)), index, 1)
    write, writes = plain_journal.ResizableFile.write, 0

    def dying_write(self: Any, offset: int, values: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == 6:
            raise _Death
        write(self, offset, values)

    monkeypatch.setattr(plain_journal.ResizableFile, "write", dying_write)
    with pytest.raises(_Death):
        journal.deleteEntriesTo(3)
    monkeypatch.undo()
    assert len(plain_journal.FileJournal(path)) < 7


def test_p3_our_log_keeps_later_entries_wherever_it_dies_while_trimming() -> None:
    for operations in range(12):
        disk = ForgetfulDisk(operations)
        log = OperationLog("/log", disk, segment_bytes=60)
        for index in range(2, 11):
            log.add(command(str(index)), index, 1)
            log.flush()
        disk.cut_power_after(operations, torn=True)
        try:
            log.drop_segments(log.compact_to(LogIndex(4)))
            log.deleteEntriesTo(1)
        except PoweredOff:
            pass
        disk.operations_until_cut = None
        disk.power_on()
        log = OperationLog("/log", disk, segment_bytes=60)
        assert log.end.index == 10 and log.term_at(5) == 1


# --- P4: catch-up livelock ------------------------------------------------------------------------------


@both
def test_p4_an_answer_to_a_later_message_does_not_undo_an_earlier_reset(
    make: type[PlainMember | OurMember], stopped_clock: StoppedClock
) -> None:
    """Two messages were in flight to a follower whose entry 6 conflicts: the first answer asks for 5."""
    member = make()
    member.fill(entries(2, 10), applied=4, term=1)
    member.lead()
    member.tick()
    member.receive(PEER, answer(5, reset=True))
    assert member.next_index(PEER) == 5
    member.receive(PEER, answer(9, reset=True))
    assert member.next_index(PEER) == (9 if make is PlainMember else 5)


# --- P5: commands near a multiple of the batch size -----------------------------------------------------


def test_p5_plain_follower_chokes_on_a_command_near_a_multiple_of_the_batch_size(
    stopped_clock: StoppedClock,
) -> None:
    jammed = []
    for length in range(1975, 2000):
        leader, follower = PlainMember(appendEntriesBatchSizeBytes=1000), PlainMember()
        leader.lead()
        leader.tick()
        index = leader.log[-1][1] + 1
        leader.raft._SyncObj__raftLog.add(b"\x00" * length, index, 1)
        stopped_clock.now += 1
        follower.fill(leader.log[1:-1], applied=1, term=1)
        leader.tick()
        try:
            for message in leader.sent_to(PEER):
                if "transmission" in message:
                    follower.receive(ME, message)
        except Exception:  # whatever unpickling half an entry raises
            jammed.append(length)
            continue
        if follower.log[-1][1] != index:
            jammed.append(length)
    assert jammed


def test_p5_no_entry_of_ours_is_long_enough_to_be_split() -> None:
    assert ENTRY_BYTES_MAX < APPEND_BYTES_MAX
    group = GroupCommit(RaftOptions())
    with pytest.raises(InvalidArgument):
        group.submit(bytes(PROPOSAL_BYTES_MAX + 1))


async def test_p5_waiting_proposals_fill_one_entry_up_to_its_limit_and_no_further() -> None:
    group = GroupCommit(RaftOptions())
    for _ in range(40):
        group.submit(bytes(PROPOSAL_BYTES_MAX))
    for _ in range(300):
        group.submit(bytes(10_000))
    index = 1
    while group.has_waiting:
        index += 1
        assert len(group.next_entry()) <= ENTRY_BYTES_MAX
        group.placed(Position(LogIndex(index), Term(1)))


# --- P6: spinning while a dump is being made ------------------------------------------------------------


@both
def test_p6_a_follower_that_needs_a_snapshot_gets_one_message_and_not_a_flood(
    make: type[PlainMember | OurMember], stopped_clock: StoppedClock
) -> None:
    member = make()
    member.fill(entries(2, 20), applied=15, term=1)
    member.lead()
    if isinstance(member, PlainMember):
        member.raft._SyncObj__raftLog.deleteEntriesTo(10)
        member.raft._SyncObj__serializer._Serializer__pid = 12345  # a dump is under way
        member.raft._SyncObj__serializer.checkSerializing = lambda: (1, None)
    else:
        member.oplog.compact_to(LogIndex(10))
    member.receive(PEER, answer(3, reset=True))
    stopped_clock.now += 0.11
    if isinstance(member, PlainMember):
        with pytest.raises(Spinning):
            member.tick()
        return
    member.wire.sent.clear()
    member.tick()
    assert member.checkpoints_needed == [PEER]
    assert [type(message) for message in member.sent_to(PEER)] == [AppendEntries], "a sign of life"
    stopped_clock.now += 0.06
    member.tick()
    assert member.checkpoints_needed == [PEER], "away until the moment is over"
    for back in member.later:
        back()
    stopped_clock.now += 0.06
    member.tick()
    assert member.checkpoints_needed == [PEER, PEER]


# --- P7: applied entries are deleted and added again ----------------------------------------------------


@both
def test_p7_entries_that_are_already_here_are_not_deleted(
    make: type[PlainMember | OurMember], stopped_clock: StoppedClock
) -> None:
    member = make()
    member.fill(entries(2, 8), applied=8, term=1)
    member.receive(PEER, append(1, (3, 1), entries(4, 5)))
    assert member.log[-1][1] == (5 if make is PlainMember else 8)


@both
def test_p7_a_late_answer_does_not_move_the_next_index_back(
    make: type[PlainMember | OurMember], stopped_clock: StoppedClock
) -> None:
    member = make()
    member.fill(entries(2, 10), applied=4, term=1)
    member.lead()
    member.tick()
    member.synced()
    member.receive(PEER, answer(7, success=True))
    assert member.next_index(PEER) == (7 if make is PlainMember else 12)


def test_a_leader_that_contradicts_a_committed_entry_is_not_obeyed(stopped_clock: StoppedClock) -> None:
    member = OurMember()
    member.fill(entries(2, 8), applied=8, term=1)
    member.receive(PEER, append(3, (5, 1), entries(6, 6, term=3)))
    assert member.failures and "contradicts log entry 6" in str(member.failures[0])
    assert member.oplog.end.index == 8


# --- F2: a leader without followers ---------------------------------------------------------------------


@both
def test_f2_a_leader_that_hears_nobody_steps_down_before_another_can_be_elected(
    make: type[PlainMember | OurMember], stopped_clock: StoppedClock
) -> None:
    member = make()
    member.lead()
    member.tick()
    stopped_clock.now += RaftOptions().election_seconds_min + 0.001
    member.tick()
    assert member.raft._isLeader() == (make is PlainMember)


# --- F4: pickles on the wire ----------------------------------------------------------------------------

_ran: list[str] = []


def note_that_code_ran(what: str) -> None:
    _ran.append(what)


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return note_that_code_ran, ("ran",)


class _CatchingPoller:
    def subscribe(self, descriptor: int, callback: Any, events: int) -> None:
        self.callback = callback

    def unsubscribe(self, descriptor: int) -> None:
        return


def test_f4_plain_runs_code_from_whoever_reaches_its_port() -> None:
    _ran.clear()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    poller = _CatchingPoller()
    connection = TcpConnection(poller, socket=ours, onMessageReceived=lambda message: None)
    body = zlib.compress(pickle.dumps(_Payload()))
    theirs.sendall(struct.pack("i", len(body)) + body)
    poller.callback(ours.fileno(), POLL_EVENT_TYPE.READ)
    assert _ran == ["ran"]
    connection.disconnect()
    theirs.close()


def test_f4_nothing_in_the_room_imports_pickle_and_no_message_of_ours_is_one() -> None:
    room = Path(__file__).parents[2] / "gfs/master/replication"
    for source in room.glob("*.py"):
        assert "import pickle" not in source.read_text() and "pickle.loads" not in source.read_text()
    for message in (AppendEntries(1, 1, 1, 1, [(b"x", 2, 1)]), Vote(1)):
        import msgspec

        with pytest.raises(Exception):  # noqa: B017 whatever pickletools finds wrong first
            list(pickletools.genops(msgspec.msgpack.encode(message)))


# --- F6: batching by waiting ----------------------------------------------------------------------------


@both
def test_f6_a_new_entry_is_sent_at_once_and_not_after_a_period(
    make: type[PlainMember | OurMember], stopped_clock: StoppedClock
) -> None:
    member = make()
    member.lead()
    member.tick()
    if isinstance(member, PlainMember):
        member.raft._applyCommand(b"now", None, 0)
        member.tick()
    else:
        member.raft.append(command("now"))
    before = len(member.sent_to(PEER))
    member.tick()
    assert len(member.sent_to(PEER)) - before == (0 if make is PlainMember else 1)


# --- F7, F8: seams and determinism ----------------------------------------------------------------------


def test_f7_the_engine_works_on_our_log_although_the_constructor_makes_a_journal() -> None:
    member = OurMember()
    assert member.raft._SyncObj__raftLog is member.oplog
    assert isinstance(PlainMember().raft._SyncObj__raftLog, plain_journal.MemoryJournal)


def test_f8_the_order_of_nodes_does_not_depend_on_the_hash_seed() -> None:
    assert hash(Node("m1")) == hash("m1"), "plain: Python's own hash, different in every process"
    assert hash(MemberNode("m1")) == zlib.crc32(b"m1")
    assert MemberNode("m1") == MemberNode("m1") != MemberNode("m2")


def test_f8_attributes_set_before_the_constructor_are_lost_from_plain_dumps_and_ours_has_no_dumps() -> None:
    plain = PlainMember()
    assert "_member" in plain.raft._SyncObj__properies, "left out of every dump"
    engine = OurMember().raft
    assert engine._SyncObj__serializer.getTransmissionData(Node(PEER)) is None
    assert not engine.conf.dynamicMembershipChange and not engine.readonlyNodes


def _messages() -> list[Message]:
    return [AppendEntries(1, 1, 1, 1, [(b"x", 2, 1)]), AppendAnswer(1, 2, True, False), Vote(1)]


@pytest.mark.parametrize("message", _messages())
def test_a_message_of_an_older_term_changes_nothing(message: Message, stopped_clock: StoppedClock) -> None:
    member = OurMember()
    member.fill(entries(2, 5), applied=2, term=7)
    member.transport.receive(MasterId(PEER), message)
    assert member.raft.term == 7 and member.oplog.end == (5, 1) and member.raft.commit_index == 2
