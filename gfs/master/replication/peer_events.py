"""What a member does when its connections report: a peer to admit, up, down; a message; a piece to serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from gfs.errors import GfsError
from gfs.master.replication.checkpoint_shipping import serve_piece
from gfs.master.replication.handshake import Introduction
from gfs.master.replication.raft_messages import FetchPiece, Message, NoSuchCheckpoint, Ping
from gfs.vocabulary import MasterId

if TYPE_CHECKING:
    from gfs.master.replication.member_parts import MemberParts


class PeerEvents:
    """Satisfies ConnectionEvents. `pieces_served`: of checkpoints, since the start."""

    def __init__(self, parts: MemberParts, fatal: Callable[[BaseException], None]) -> None:
        self._parts, self._fatal = parts, fatal
        self.pieces_served = 0

    def introduce(self) -> Introduction:
        return self._parts.admission.introduce(log_end=self._parts.log.end.index)

    def check_peer(self, member: MasterId, introduction: Introduction, *, is_connected: bool) -> None:
        self._parts.admission.check(member, introduction, is_connected=is_connected)

    def refused_by(self, member: MasterId, introduction: Introduction) -> None:
        self._parts.admission.refused_by(member, introduction)

    def peer_up(self, member: MasterId) -> None:
        self._parts.raft_transport.peer_up(member)
        self._parts.turns.ask()

    def peer_down(self, member: MasterId) -> None:
        self._parts.raft_transport.peer_down(member)
        if member == self._parts.engine.leader:
            self._parts.elections.leader_connection_lost()

    def message(self, member: MasterId, message: Message) -> None:
        """Raises: GfsError when the message is the peer's fault; its connection is closed."""
        if type(message) is Ping:  # who dials decides last, and has kept the connection
            self._parts.membership.let_in_by(member)
        if not self._parts.turns.running:
            return
        try:
            self._parts.raft_transport.receive(member, message)
        except GfsError:
            raise
        except Exception as error:
            self._fatal(error)

    def messages_done(self) -> None:
        self._parts.turns.ask()

    async def serve_piece(self, request: FetchPiece) -> msgspec.Struct:
        parts = self._parts
        if parts.distrust.stands_back:
            return NoSuchCheckpoint()
        self.pieces_served += 1
        return await serve_piece(
            parts.given.checkpoints,
            parts.checkpoint_threads,
            request,
            on_gone_bad=parts.checkpointing.make,
        )
