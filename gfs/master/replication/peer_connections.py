"""The connections of one master with the others: dialing, pings, who is kept out. No frames, no Raft.

Of two masters the one with the greater id dials; the other one only after a while, because the greater may
not know of it, yet or any more. So there is at most one connection of theirs; when it comes again, the older
one is closed and can no longer speak. Whom to dial changes with the cluster's membership.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Coroutine
from typing import Any

from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.master.replication.connection import Connection, ConnectionEvents
from gfs.master.replication.handshake import Introduction
from gfs.master.replication.options import REFUSALS_MAX, RaftOptions
from gfs.master.replication.raft_messages import Message, Ping, frame
from gfs.master.replication.silence import SILENT, Silence
from gfs.telemetry import logger
from gfs.transport.dial_map import dialled_endpoint
from gfs.vocabulary import ClusterId, MasterId

_PING_FRAME = frame(Ping())
_IDLE_SHIPPING_SECONDS = 60.0  # the follower is writing what it has got


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
