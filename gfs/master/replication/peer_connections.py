"""Connections between masters over asyncio: dialing, frames, handshake, pings. No Raft.

Of two masters the one with the greater id dials; the other one only after a while, because the greater may
not know of it, yet or any more. So there is at most one connection of theirs; when it comes again, the older
one is closed and can no longer speak. Whom to dial changes with the cluster's membership. Whatever arrives is
limited before it is read, and a peer that breaks the rules loses its connection and gets a log line, never a
traceback.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol, cast

import msgspec

from gfs.clock import Clock
from gfs.errors import FrameTooLarge, GfsError, ProtocolFault, Superseded, WrongCluster
from gfs.master.replication.handshake import Dialer, Introduction, Listener
from gfs.master.replication.options import (
    HANDSHAKE_FRAME_BYTES_MAX,
    RAFT_FRAME_BYTES_MAX,
    REFUSALS_MAX,
    SEND_BUFFER_BYTES_MAX,
    UNAUTHENTICATED_CONNECTIONS_MAX,
    RaftOptions,
)
from gfs.master.replication.raft_messages import FRAME_HEAD_BYTES, FetchPiece, Message, Ping, frame
from gfs.master.replication.silence import CLOSED, SILENT, Silence
from gfs.telemetry import logger
from gfs.transport.dial_map import dialled_endpoint
from gfs.vocabulary import ClusterId, MasterId

_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_fetch = msgspec.msgpack.Decoder(FetchPiece).decode
_PING_FRAME = frame(Ping())
_IDLE_SHIPPING_SECONDS = 60.0  # the follower is writing what it has got


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


class PeerConnections:
    def __init__(
        self,
        *,
        me: MasterId,
        peers: dict[MasterId, tuple[str, int]],
        listen: tuple[str, int],
        cluster: ClusterId,
        secret: bytes,
        options: RaftOptions,
        clock: Clock,
        chance: random.Random,
        events: ConnectionEvents,
    ) -> None:
        """`peers`: where each other master is dialed, maybe a proxy; who answers there has to prove it."""
        self.me, self.cluster, self.secret = me, cluster, secret
        self._peers = dict(peers)
        self.options, self.clock, self.events = options, clock, events
        self._chance = chance
        self.silence = Silence()
        self.last_refusal: dict[MasterId, str] = {}  # why a peer is not let in, or does not let us in
        self._refusal_errors: dict[MasterId, GfsError] = {}
        self._listen = listen
        self._live: dict[MasterId, Connection] = {}
        self._dialers: dict[MasterId, asyncio.Task[None]] = {}
        self.unfinished: set[Connection] = set()  # still shaking hands
        self.serving: set[Connection] = set()  # shipping checkpoints
        self.tasks: dict[asyncio.Task[None], None] = {}
        self._server: asyncio.Server | None = None
        self._closed = False
        self.numbers = itertools.count()
        self._last_frame: tuple[Message, bytes] | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        tls = self.options.tls
        context = None if tls is None else tls.raft_context()
        self._server = await loop.create_server(lambda: Connection(self, None), *self._listen, ssl=context)
        self.spawn(self._ping_for_ever())
        self.set_peers(self._peers)

    def set_peers(self, peers: dict[MasterId, tuple[str, int]]) -> None:
        """From now on keep connections with these, and none with those that were among them before."""
        assert self.me not in peers
        gone = self._peers.keys() - peers.keys()
        self._peers = dict(peers)
        for member in sorted(gone):
            if (dialer := self._dialers.pop(member, None)) is not None:
                dialer.cancel()
            if (connection := self._live.get(member)) is not None:
                connection.abort()
            self.last_refusal.pop(member, None)
            self._refusal_errors.pop(member, None)
        if self._server is None or self._closed:
            return
        for member in peers:
            if member not in self._dialers:
                self._dialers[member] = self.spawn(self._dial_for_ever(member))

    def address_of(self, member: MasterId) -> tuple[str, int] | None:
        return self._peers.get(member)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def abort_all(self) -> None:
        """Stop listening and dialing, and cut every connection, at once."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for task in list(self.tasks):
            task.cancel()
        for connection in sorted({*self._live.values(), *self.unfinished, *self.serving}, key=_age):
            connection.abort()

    async def stop(self) -> None:
        self.abort_all()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    # --- Wire -----------------------------------------------------------------------------------

    def transmit(self, member: MasterId, message: Message) -> bool:
        connection = self._live.get(member)
        if connection is None or connection.is_full:
            return False
        if self._last_frame is None or self._last_frame[0] is not message:
            self._last_frame = (message, frame(message))
        connection.write(self._last_frame[1])
        return True

    def connected(self) -> frozenset[MasterId]:
        return frozenset(self._live)

    # --- for Connection -------------------------------------------------------------------------

    def spawn(
        self, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:  # Any: what a coroutine yields is asyncio's
        task = asyncio.get_running_loop().create_task(work)
        self.tasks[task] = None
        task.add_done_callback(lambda done: self.tasks.pop(done, None))
        return task

    def established(self, connection: Connection, member: MasterId) -> None:
        older = self._live.get(member)
        if older is not None and self._crossed(older, connection, member):
            connection.abort()
            return
        if older is not None:
            del self._live[member]
            older.abort()
            self.events.peer_down(member)
        self.last_refusal.pop(member, None)
        self._refusal_errors.pop(member, None)
        self._live[member] = connection
        self.events.peer_up(member)

    def _crossed(self, older: Connection, newer: Connection, member: MasterId) -> bool:
        """Both have dialed at once: both keep the connection that the greater id has dialed."""
        greater_dialed = older.is_ours if self.me > member else not older.is_ours
        at_once = newer.opened_at - older.opened_at < self.options.lesser_dials_seconds
        return at_once and greater_dialed and older.is_ours != newer.is_ours

    def lost(self, connection: Connection, member: MasterId) -> None:
        if self._live.get(member) is connection:
            del self._live[member]
            self.silence.lost(member, heard_at=connection.last_heard, why=connection.ended_because)
            if not self._closed:
                self.events.peer_down(member)

    def serve_only(self, connection: Connection, member: MasterId) -> None:
        """A member fetches over one connection: an older one of its is what a broken link has left behind."""
        for older in sorted((found for found in self.serving if found.serves == member), key=_age):
            older.abort()
        connection.serves = member
        self.serving.add(connection)

    def is_current(self, connection: Connection, member: MasterId) -> bool:
        return self._live.get(member) is connection

    def check_peer(self, member: MasterId, introduction: Introduction) -> None:
        """Raises: GfsError to refuse the peer."""
        self.events.check_peer(member, introduction, is_connected=member in self._live)

    def refused(self, member: MasterId, error: GfsError) -> None:
        """Log a refusal once, not at every attempt."""
        if member not in self._refusal_errors and len(self._refusal_errors) >= REFUSALS_MAX:
            return
        self._refusal_errors[member] = error
        if self.last_refusal.get(member) != error.message:
            self.last_refusal[member] = error.message
            logger("raft").error("peer_refused", peer=member, reason=error.message, hint=error.hint)

    def kept_out(self) -> dict[MasterId, str]:
        """Which masters may not take part, as far as this one knows: a peer, or this one itself."""
        found: dict[MasterId, str] = {}
        for peer, error in self._refusal_errors.items():
            found[MasterId(error.details.get("master", peer))] = f"{error.message}. {error.hint}".rstrip(". ")
        return found

    # --- keeping connections up -----------------------------------------------------------------

    async def _dial_for_ever(self, member: MasterId) -> None:
        options = self.options
        patience = 0.0 if self.me > member else options.lesser_dials_seconds
        away_since = self.clock.monotonic()
        while not self._closed:
            if member in self._live:
                away_since = self.clock.monotonic()
            elif self.clock.monotonic() - away_since >= patience:
                await self._dial(member)
                away_since = self.clock.monotonic()
            await self.clock.sleep(
                self._chance.uniform(options.redial_seconds_min, options.redial_seconds_max)
            )

    async def _dial(self, member: MasterId) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.options.peer_silent_seconds):
                tls = self.options.tls
                _, connection = await loop.create_connection(
                    lambda: Connection(self, member),
                    *dialled_endpoint(*self._peers[member]),
                    ssl=None if tls is None else tls.client_context(),
                )
                await connection.settled.wait()
        except OSError as error:  # also when it takes too long
            self.silence.not_reached(member, error)
            return  # the next attempt is a moment away; peers that stay away show in status()

    async def _ping_for_ever(self) -> None:
        while not self._closed:
            now = self.clock.monotonic()
            too_long = self.options.peer_silent_seconds
            for connection in sorted(self.unfinished, key=_age):
                if now - connection.opened_at > too_long:
                    connection.abort()
            for connection in list(self._live.values()):
                if now - connection.last_heard > too_long:
                    connection.ended_because = SILENT
                    connection.abort()
                elif not connection.is_full:
                    connection.write(_PING_FRAME)
            for connection in sorted(self.serving, key=_age):
                if now - connection.last_heard > _IDLE_SHIPPING_SECONDS:
                    connection.abort()
            await self.clock.sleep(self.options.ping_seconds)


def _age(connection: Connection) -> int:
    """Sets of connections have an order that differs from run to run."""
    return connection.number


class Connection(asyncio.Protocol):
    """One connection: first a handshake, then Raft messages or pieces of checkpoints."""

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
