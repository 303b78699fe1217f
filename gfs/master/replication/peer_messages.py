"""What masters say to each other besides the messages of pysyncobj: each is answered here, or handed on."""

from __future__ import annotations

from gfs.errors import ProtocolFault
from gfs.master.replication.checkpoint_duty import CheckpointDuty
from gfs.master.replication.distrust import Distrust
from gfs.master.replication.elections import Elections
from gfs.master.replication.engine import Engine
from gfs.master.replication.log import OperationLog
from gfs.master.replication.raft_messages import (
    CheckpointInstalled,
    CheckpointOffer,
    CheckpointWanted,
    Message,
    PreVote,
    PreVoteRequest,
    ReadIndexAnswer,
    ReadIndexRequest,
)
from gfs.master.replication.raft_transport import DiskState, RaftTransport, Wire
from gfs.master.replication.read_rounds import ReadRounds
from gfs.vocabulary import MasterId


class PeerMessages:
    def __init__(
        self,
        *,
        engine: Engine,
        log: OperationLog,
        wire: Wire,
        raft: RaftTransport,
        writer: DiskState,
        elections: Elections,
        reads: ReadRounds,
        checkpointing: CheckpointDuty,
        distrust: Distrust,
    ) -> None:
        self._engine, self._log, self._wire, self._raft, self._writer = engine, log, wire, raft, writer
        self._elections, self._reads, self._checkpointing = elections, reads, checkpointing
        self._distrust = distrust

    def receive(self, member: MasterId, message: Message) -> None:
        """Raises: ProtocolFault."""
        engine = self._engine
        match message:
            case PreVoteRequest():
                if message.term < engine.term:
                    self._raft.answer(member, 0, success=False)  # tells our term
                elif not self._writer.out_of_space and self._elections.would_vote_for(member, message):
                    self._wire.transmit(member, PreVote(message.term))
            case PreVote():
                self._elections.take_pre_vote(member, message)
            case ReadIndexRequest():
                self._reads.asked(member, message)
            case ReadIndexAnswer():
                self._reads.answered(member, message)
            case CheckpointOffer(term, manifest, source):
                if term == engine.term and engine.leader == member:
                    self._checkpointing.take_offer(member, manifest, source)
            case CheckpointWanted(term, index_min):
                if term == engine.term and engine.is_leader and not self._distrust.stands_back:
                    self._checkpointing.offer_later_than(member, index_min)
            case CheckpointInstalled():
                self._installed(member, message)
            case _:
                raise ProtocolFault(f"{member} sends an unexpected {type(message).__name__}")

    def _installed(self, member: MasterId, message: CheckpointInstalled) -> None:
        engine = self._engine
        if message.term != engine.term or not engine.is_leader or not engine.sends_to(member):
            return
        if engine.next_index(member) <= message.index:
            engine.set_next_index(member, min(message.index, self._log.end.index) + 1)
