"""Watches real gfs programs from beside, past every spoilt link, and writes down what they do as Sightings.

Shared by the layers of real programs. What a kind of sighting means is documented where the checkers are that
read it; here is where each comes from:

    role        asked of each master a few times a second: whenever its role or term has changed
    state       asked of each master every second
    granted     from the replies to AcquireLease in masters' RPC logs, and from the BumpVersions that chunk
                servers followed, which also name the sets of grants no client is told of. Once a version;
                one that is older than what was told before is left out, for logs are read in no common order
    raised      from the BumpVersions that chunk servers followed
    deleted     from their events; `version` is the newest that the leader meant
    unseen      what a program could not keep for us: {records}; nobody may count on having seen all

What an RPC log cannot tell is left out rather than guessed: it has calls as they were answered, and an answer
that was lost on a spoilt link is none. So there are no serials of mutations here, and no ends of leases; who
broke their order shows in what replicas hold. The simulation sees both.
Times are when a program says it was, by its wall clock, which on these layers is the harness's; where clocks
are under attack, `trusts_clocks` is False and it is when we heard of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gfs.errors import GfsError
from gfs.messages.cluster import (
    ClusterStatus,
    ClusterStatusReply,
    StateDigest,
    StateDigestReply,
)
from gfs.messages.diagnosis import EventPage, EventRecord, ReadEvents, ReadRpcLog, RpcLogPage, RpcRecord
from gfs.transport.interface import RpcCaller
from gfs.verification.history import Json, Sighting
from gfs.verification.recorder import Recorder
from gfs.vocabulary import Address

LOOK_SECONDS = 0.25
READ_SECONDS = 1.0  # between two looks into logs
ANSWER_SECONDS = 1.0
PAGE_RECORDS = 1000
MICROSECOND = 1000
MICROSECONDS_A_SECOND = 1_000_000
_METHODS = ["bump", "acquire_lease"]
_DELETED = "replica deleted on the leader's word"

Addresses = Callable[[], dict[str, Address]]  # by node, of those that are in the cluster now


class Sightings:
    """Of one cluster, from start() to stop()."""

    def __init__(
        self,
        caller: RpcCaller,
        masters: Addresses,
        chunkservers: Addresses,
        recorder: Recorder,
        *,
        trusts_clocks: bool = True,
    ) -> None:
        """Addresses are control addresses, as the harness reaches them."""
        self._caller, self._recorder = caller, recorder
        self._masters, self._chunkservers = masters, chunkservers
        self._trusts_clocks = trusts_clocks
        self._roles: dict[str, tuple[str, int]] = {}
        self._names: dict[str, str] = {}  # of chunk servers, by the ids they have given themselves
        self._granted: dict[int, tuple[int, str]] = {}  # by chunk, the newest version told of and its primary
        self._calls_read: dict[str, int] = {}  # position in each program's RPC log
        self._events_read: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        assert not self._tasks
        self._tasks = [asyncio.create_task(self._watch_roles()), asyncio.create_task(self._watch_logs())]

    async def stop(self) -> None:
        """Read to the end what the programs have, and watch no more."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._read_logs()

    # --- masters ----------------------------------------------------------------------------------

    async def _watch_roles(self) -> None:
        while True:
            await asyncio.gather(*(self._look_at(*one) for one in self._masters().items()))
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_at(self, node: str, address: Address) -> None:
        try:
            answer = await self._caller.call(
                address, ClusterStatus(alone=True), ClusterStatusReply, deadline_seconds=ANSWER_SECONDS
            )
        except GfsError:
            self._says(node, "down", 0, 0)
            return
        for one in answer.masters:
            if one.id == node:
                self._says(node, one.role, one.term, one.applied_index)
        for server in answer.chunkservers:
            for name, known in self._chunkservers().items():
                if known == server.control:
                    self._names[str(server.id)] = name

    def _says(self, node: str, role: str, term: int, applied_index: int) -> None:
        if self._roles.get(node) != (role, term):
            self._roles[node] = (role, term)
            self._recorder.saw(node, "role", role=role, term=term, applied_index=applied_index)

    async def _ask_digest(self, node: str, address: Address) -> None:
        try:
            answer = await self._caller.call(
                address, StateDigest(), StateDigestReply, deadline_seconds=ANSWER_SECONDS
            )
        except GfsError:
            return
        self._recorder.saw(node, "state", index=answer.applied_index, digest=answer.digest)

    # --- logs of programs ---------------------------------------------------------------------------

    async def _watch_logs(self) -> None:
        while True:
            await asyncio.sleep(READ_SECONDS)
            await self._read_logs()

    async def _read_logs(self) -> None:
        await asyncio.gather(
            *(self._ask_digest(*one) for one in self._masters().items()),
            *(self._read_calls(*one) for one in self._masters().items()),
            *(self._read_calls(*one) for one in self._chunkservers().items()),
            *(self._read_events(*one) for one in self._chunkservers().items()),
        )

    async def _read_calls(self, node: str, address: Address) -> None:
        more = True
        while more:
            query = ReadRpcLog(after=self._calls_read.get(node, 0), limit=PAGE_RECORDS, methods=_METHODS)
            try:
                page = await self._caller.call(address, query, RpcLogPage, deadline_seconds=ANSWER_SECONDS)
            except GfsError:
                return  # it is asked again, from there on
            self._calls_read[node], more = page.next_after, page.more
            if page.dropped > self._dropped.get(node, 0):
                self._recorder.saw(node, "unseen", records=page.dropped - self._dropped.get(node, 0))
            self._dropped[node] = page.dropped  # less than before: the program has been started anew
            for record in page.records:
                self._called(node, record)

    async def _read_events(self, node: str, address: Address) -> None:
        more = True
        while more:
            query = ReadEvents(after=self._events_read.get(node, 0), limit=PAGE_RECORDS)
            try:
                page = await self._caller.call(address, query, EventPage, deadline_seconds=ANSWER_SECONDS)
            except GfsError:
                return
            self._events_read[node], more = page.next_after, page.more
            for record in page.records:
                self._happened(node, record)

    def _called(self, node: str, record: RpcRecord) -> None:
        if record.code != "ok":
            return
        told: dict[str, Json] | None = record.request if record.method == "bump" else record.reply
        if told is None:  # too long to be kept
            self._recorder.saw(node, "unseen", records=1)
            return
        ended_us = record.at_us + round(record.seconds * MICROSECONDS_A_SECOND)
        if record.method == "bump":
            values = {"chunk": told["handle"], "version": told["version"]}
            self._saw(ended_us, node, "raised", values)
        self._note_grant(ended_us, node, told)

    def _note_grant(self, at_us: int, node: str, told: dict[str, Json]) -> None:
        chunk, version, primary = told["handle"], told["version"], self._name(told["primary"])
        newest, its_primary = self._granted.get(chunk, (0, ""))
        if version < newest or (version == newest and primary == its_primary):
            return
        self._granted[chunk] = version, primary
        replicas = sorted(self._name(replica[0]) for replica in told["replicas"])
        values = {"chunk": chunk, "version": version, "primary": primary, "replicas": replicas}
        self._saw(at_us, node, "granted", values)

    def _name(self, server: str) -> str:
        return self._names.get(server, server)

    def _happened(self, node: str, record: EventRecord) -> None:
        if record.event == _DELETED:
            values = {"chunk": int(record.fields["chunk"], 16), "version": record.fields["named_version"]}
            self._saw(record.at_us, node, "deleted", values)

    def _saw(self, at_us: int, node: str, what: str, values: dict[str, Json]) -> None:
        now = self._recorder.now_ns()
        at_ns = now
        if self._trusts_clocks:
            at_ns = max(0, min(now, at_us * MICROSECOND - (time.time_ns() - now)))
        self._recorder.history.add(Sighting(at_ns, node, what, values))
