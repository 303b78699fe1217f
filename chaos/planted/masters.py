"""Bugs of the masters' log, votes, checkpoints and sessions. Leases and garbage are in `leases`."""

from __future__ import annotations

import asyncio
from typing import Any

from chaos.patches import Patches
from chaos.planted.bug import Catch, PlantedBug, Seen
from gfs.disk import OpenFile
from gfs.errors import GfsError
from gfs.master.core.records import APPLIED_KEY
from gfs.master.core.sessions import Sessions
from gfs.master.core.tables import Table
from gfs.master.replication.checkpoint_duty import CheckpointDuty
from gfs.master.replication.log import Batch, OperationLog
from gfs.master.replication.raft_messages import AppendEntries
from gfs.master.replication.raft_node import RaftNode
from gfs.master.replication.raft_transport import RaftTransport, _Held
from gfs.master.state_machine import ReplicatedState, applied_row
from gfs.messages.operations import AnyOutcome, RequestId
from gfs.vocabulary import LogIndex, MasterId, Term


def _ack_before_log_sync(patches: Patches) -> None:
    def write(log: OperationLog, batch: Batch) -> OpenFile:
        file = batch.file
        if file is None:
            file = log._disk.open(batch.path, create=True)
            file.truncate(0)
        file.pwrite(batch.content, batch.offset)
        return file

    patches.replace(OperationLog, "write", write)


def _vote_not_kept(patches: Patches) -> None:
    def set_current_term(log: OperationLog, term: int, voted_for: str | None) -> None:
        log._term, log._vote = Term(term), MasterId(voted_for or "")

    patches.replace(OperationLog, "setCurrentTerm", set_current_term)


def _promises_before_log_sync(patches: Patches) -> None:
    def promise(transport: RaftTransport, member: MasterId, message: Any) -> bool:  # Any: one of Message
        return transport._transmit_promise(_Held(transport._log.sequence, member, message))

    patches.replace(RaftTransport, "_promise", promise)


def _commit_index_taken_blindly(patches: Patches) -> None:
    as_it_should = RaftTransport._take_sign_of_life

    def take(transport: RaftTransport, member: MasterId, append: AppendEntries, *, commit_index: int) -> None:
        as_it_should(transport, member, append, commit_index=append.commit_index)

    patches.replace(RaftTransport, "_take_sign_of_life", take)


def _log_cut_before_checkpoint(patches: Patches) -> None:
    as_it_should = CheckpointDuty._make

    async def make(duty: CheckpointDuty) -> LogIndex:
        await duty._writer.drain()
        applied = min(duty._state.applied()[0], duty._log.durable_index)
        if applied > duty._log.base.index:
            duty._log.drop_segments(duty._log.compact_to(LogIndex(applied), files_to=LogIndex(applied)))
        return await as_it_should(duty)

    patches.replace(CheckpointDuty, "_make", make)


def _counters_not_committed(patches: Patches) -> None:
    def commit(state: ReplicatedState) -> None:
        if state._applied == state._committed_applied:
            return
        state._tables.put(Table.META, APPLIED_KEY, applied_row(*state._applied))
        state._tables.commit()
        state._committed_applied = state._applied

    patches.replace(ReplicatedState, "commit", commit)


def _checkpoint_mid_apply(patches: Patches) -> None:
    """What is pinned is one entry ahead of the position it is filed under, as soon as there is one."""

    def pin(state: ReplicatedState) -> Any:  # Any: PinnedCopy
        index, term = state._applied
        state.state.save()
        state._tables.put(Table.META, APPLIED_KEY, applied_row(LogIndex(max(2, index - 1)), term))
        state._tables.commit()
        pinned = state._tables.pin()
        state._tables.put(Table.META, APPLIED_KEY, applied_row(index, term))
        state._tables.commit()
        state._committed_applied = state._applied
        return pinned

    patches.replace(ReplicatedState, "pin", pin)


def _requests_not_recognised(patches: Patches) -> None:
    def answered(_sessions: Sessions, _request: RequestId) -> AnyOutcome | None:
        return None

    def remember(_sessions: Sessions, _request: RequestId, _outcome: AnyOutcome, *, at_ms: int) -> None:
        """Nobody will ask."""

    patches.replace(Sessions, "answered", answered)
    patches.replace(Sessions, "remember", remember)


def _reads_without_barrier(patches: Patches) -> None:
    def submit_read(node: RaftNode) -> asyncio.Future[LogIndex]:
        answer: asyncio.Future[LogIndex] = asyncio.get_running_loop().create_future()
        try:
            node._demand_leadership()
        except GfsError as error:
            answer.set_exception(error)
        else:
            answer.set_result(node.status().applied)
        return answer

    patches.replace(RaftNode, "submit_read", submit_read)


BUGS = (
    PlantedBug(
        "ack-before-log-sync",
        "A master says that an entry is on its disk when it is in the page cache only.",
        _ack_before_log_sync,
        Catch(
            "power-cuts",
            0,
            r"CorruptState: .*damage, not a crash|acknowledged operation is lost|committed entry was lost",
        ),
        Seen("power-cut-masters", 0, r"nothing acknowledged|is lost|is gone", fault_seconds=10.0, pace=3.0),
    ),
    PlantedBug(
        "promises-before-log-sync",
        "Votes and acknowledgements leave a master before what they rest on is on its disk.",
        _promises_before_log_sync,
        Catch("power-cuts", 0, r"an acknowledged operation is lost|a committed entry was lost"),
        "not in 2 seeds of power-cut-masters: the power has to go during one sync",
    ),
    PlantedBug(
        "vote-not-kept",
        "Term and vote are not written to the log: after a restart a master votes again in the same term.",
        _vote_not_kept,
        Catch("voter-asked-twice", 0, r"has voted for two masters in term"),
        "not tried: a master has to die between two candidacies in one term",
    ),
    PlantedBug(
        "commit-index-taken-blindly",
        "A follower takes the leader's commit index for a log that need not be the leader's.",
        _commit_index_taken_blindly,
        Catch(
            "masters-under-faults",
            0,
            r"which this master knows to be committed|differs at|acknowledged proposals are lost",
        ),
        "not in 4 seeds of snapshot-after-cut and partition-leader: uncommitted entries of an "
        "old leader have to stand where the new one has committed",
    ),
    PlantedBug(
        "log-cut-before-checkpoint",
        "The log is cut before the checkpoint that replaces its beginning has been written.",
        _log_cut_before_checkpoint,
        Catch("power-cuts", 0, r"starts after entry \d+, but the newest checkpoint ends"),
        "not in 4 seeds of power-cut-masters and checkpoint-replay: a master has to die while one is made",
    ),
    PlantedBug(
        "counters-not-committed",
        "The state is committed without its counters and its digest.",
        _counters_not_committed,
        Catch("power-cuts", 0, r"a committed entry was lost|differs from the log"),
        Seen("names-everything", 0, r"rows of m\d are not those", pace=3.0),
    ),
    PlantedBug(
        "checkpoint-mid-apply",
        "A checkpoint holds an entry more than it says.",
        _checkpoint_mid_apply,
        Catch("power-cuts", 0, r"but the state ends at|differs from the log"),
        Seen("checkpoint-replay", 0, r"replayed has the state none: .* its state is not", pace=3.0),
    ),
    PlantedBug(
        "requests-not-recognised",
        "A repeated request to a master is carried out again.",
        _requests_not_recognised,
        Catch("power-cuts", 0, r"one operation, two outcomes"),
        Seen("client-cut-after-send", 2, r"no order of the calls explains|is gone"),
    ),
    PlantedBug(
        "reads-without-barrier",
        "Who believes that it leads answers reads without asking anybody whether it still does.",
        _reads_without_barrier,
        Catch("leader-cut-off", 0, r"misses what was acknowledged"),
        "not in 8 seeds of partition-leader and oneway-leader-deaf: a client has to read from "
        "the old leader after the new one has acknowledged",
    ),
)
