"""One connection of two masters: first a handshake, then Raft messages or pieces of checkpoints, in frames.

Whatever arrives is limited before it is read, and a peer that breaks the rules loses its connection and gets
a log line, never a traceback. Which connections there are is for `peer_connections`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from gfs.errors import FrameTooLarge, GfsError, ProtocolFault, Superseded, WrongCluster
from gfs.master.replication.handshake import Dialer, Introduction, Listener
from gfs.master.replication.options import (
    HANDSHAKE_FRAME_BYTES_MAX,
    RAFT_FRAME_BYTES_MAX,
    SEND_BUFFER_BYTES_MAX,
    UNAUTHENTICATED_CONNECTIONS_MAX,
)
from gfs.master.replication.raft_messages import FRAME_HEAD_BYTES, FetchPiece, Message, frame
from gfs.master.replication.silence import CLOSED
from gfs.telemetry import logger
from gfs.vocabulary import MasterId

if TYPE_CHECKING:
    from gfs.master.replication.peer_connections import PeerConnections

_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_fetch = msgspec.msgpack.Decoder(FetchPiece).decode


class ConnectionEvents(Protocol):
    """What the owner of the connections is told, on the loop's thread."""

    def introduce(self) -> Introduction: ...

    def check_peer(self, member: MasterId, introduction: Introduction, *, is_connected: bool) -> None:
        """`is_connected`: another connection of this peer is alive. Raises: GfsError to refuse the peer."""
        ...

    def refused_by(self, member: MasterId, introduction: Introduction) -> None:
        """A peer that has proven to know the secret does not let us in."""
        ...

    def peer_up(self, member: MasterId) -> None: ...

    def peer_down(self, member: MasterId) -> None: ...

    def message(self, member: MasterId, message: Message) -> None: ...

    def messages_done(self) -> None:
        """All messages of one read have been handed over."""
        ...

    def serve_piece(self, request: FetchPiece) -> Awaitable[msgspec.Struct]: ...


class Connection(asyncio.Protocol):
    def __init__(self, owner: PeerConnections, target: MasterId | None) -> None:
        """`target`: whom we dial; None when we were dialed."""
        self._owner, self._target = owner, target
        self.is_ours = target is not None  # we have dialed
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._dialer = Dialer(me=owner.me, cluster=owner.cluster, secret=owner.secret) if target else None
        self._listener = None if target else Listener(me=owner.me, cluster=owner.cluster, secret=owner.secret)
        self._introduction: Introduction | None = None  # ours, once it was said
        self._step = 0
        self._serving = self._piece_under_way = False
        self._name = "an unknown peer"
        self._is_proven = False  # that the dialer is who it says
        self.member: MasterId | None = None  # set once Raft messages may flow
        self.serves: MasterId | None = None  # set once it may fetch pieces of a checkpoint
        self.opened_at = self.last_heard = owner.clock.monotonic()
        self.number = next(owner.numbers)  # connections that came later have higher ones
        self.is_full = False
        self.ended_because = CLOSED
        self.settled = asyncio.Event()  # the handshake is over, either way

    # --- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not instances of it
        self._transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES_MAX)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (tls := self._owner.options.tls) is not None:
            try:
                certificate = transport.get_extra_info("peercert")
                tls.require_node(certificate, cluster=self._owner.cluster, role="master")
            except GfsError as error:
                self._give_up(error)
                return
        if len(self._owner.unfinished) >= UNAUTHENTICATED_CONNECTIONS_MAX:
            self.abort()
            return
        self._owner.unfinished.add(self)
        if self._dialer is not None:
            assert self._target is not None
            self._name = self._target
            self.write(frame(self._dialer.hello(self._target, "raft")))

    def data_received(self, data: bytes) -> None:
        self.last_heard = self._owner.clock.monotonic()
        self._buffer += data
        try:
            self._take_frames()
        except GfsError as error:
            self._give_up(error)
        if self.member is not None:
            self._owner.events.messages_done()

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False

    def connection_lost(self, error: Exception | None) -> None:
        self.settled.set()
        self._owner.unfinished.discard(self)
        self._owner.serving.discard(self)
        if self.member is not None:
            self._owner.lost(self, self.member)

    # --- ours -------------------------------------------------------------------------------------

    def write(self, content: bytes) -> None:
        self._transport.write(content)

    def abort(self) -> None:
        self._transport.abort()

    def _take_frames(self) -> None:
        start, end = 0, len(self._buffer)
        try:
            while end - start >= FRAME_HEAD_BYTES and not self._transport.is_closing():
                length = int.from_bytes(self._buffer[start : start + FRAME_HEAD_BYTES], "little")
                limit = RAFT_FRAME_BYTES_MAX if self.member is not None else HANDSHAKE_FRAME_BYTES_MAX
                if length > limit:
                    raise FrameTooLarge(
                        f"{self._name} announces a frame of {length} bytes; the limit is {limit}"
                    )
                body_start = start + FRAME_HEAD_BYTES
                if end - body_start < length:
                    break
                start = body_start + length
                self._take_frame(bytes(self._buffer[body_start:start]))
        finally:
            del self._buffer[:start]

    def _take_frame(self, body: bytes) -> None:
        try:
            if self.member is not None:
                message = _decode_message(body)
                if self._owner.is_current(self, self.member):  # a superseded connection can no longer speak
                    self._owner.events.message(self.member, message)
            elif self._serving:
                self._take_fetch(_decode_fetch(body))
            elif self._dialer is not None:
                self._shake_as_dialer(self._dialer, body)
            else:
                assert self._listener is not None
                self._shake_as_listener(self._listener, body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ProtocolFault(f"{self._name} sends a frame that does not decode: {error}") from error

    def _shake_as_dialer(self, dialer: Dialer, body: bytes) -> None:
        assert self._target is not None
        if self._introduction is None:
            introduction = self._owner.events.introduce()
            self.write(frame(dialer.respond(body, introduction)))
            self._introduction = introduction
        else:
            theirs = dialer.finish(body, self._introduction)
            if dialer.refused_because:
                self._owner.events.refused_by(self._target, theirs)
            self._owner.check_peer(self._target, theirs)
            if dialer.refused_because:
                raise Superseded(
                    f"{self._target} refuses us: {dialer.refused_because}",
                    hint=f"See 'gfs status', and the log of {self._target}, for what to do.",
                    details={"master": self._owner.me},
                )
            self._establish(self._target)

    def _shake_as_listener(self, listener: Listener, body: bytes) -> None:
        self._step += 1
        if self._step == 1:
            challenge = listener.challenge(body)
            self._name = listener.hello.source
            self.write(frame(challenge))
            return
        theirs = listener.check(body)
        self._is_proven = True
        try:
            self._owner.check_peer(listener.hello.source, theirs)
        except GfsError as error:
            reason = f"{error.message}. {error.hint}".rstrip(". ")
            self.write(frame(listener.refuse(self._owner.events.introduce(), reason)))
            raise
        self.write(frame(listener.welcome(self._owner.events.introduce())))
        if listener.hello.purpose == "raft":
            self._establish(listener.hello.source)
        else:
            self._serving = True
            self._owner.unfinished.discard(self)
            self._owner.serve_only(self, listener.hello.source)

    def _establish(self, member: MasterId) -> None:
        self.member = member
        self._owner.unfinished.discard(self)
        self._owner.established(self, member)
        self.settled.set()

    def _take_fetch(self, request: FetchPiece) -> None:
        """One piece at a time, and none before the last has left: who reads slowly costs us one piece."""
        if self._piece_under_way or self._transport.get_write_buffer_size() > 0:
            raise ProtocolFault(f"{self._name} asks for a piece before it has taken the one before")
        self._piece_under_way = True
        self._owner.spawn(self._serve(request))

    async def _serve(self, request: FetchPiece) -> None:
        try:
            answer = await self._owner.events.serve_piece(request)
        finally:
            self._piece_under_way = False
        if not self._transport.is_closing():
            self.write(frame(answer))

    def _give_up(self, error: GfsError) -> None:
        """After a refusal was queued close() still sends it; abort() would not."""
        if isinstance(error, WrongCluster) and self._listener is not None:
            self._name = self._listener.hello.source  # as it calls itself
        if self.member is None and (self._is_proven or self._owner.address_of(MasterId(self._name))):
            self._owner.refused(MasterId(self._name), error)
        else:
            logger("raft").warning("raft_connection_closed", peer=self._name, reason=error.message)
        self._transport.close()
