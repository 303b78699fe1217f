"""Exactly once under everything at once (I9): lost, repeated and reordered messages, lost answers, crashes,
new primaries, grants cut short, padding and seals.

The client acts as the SDK's does: it repeats a record in its chunk until it is told where it is, and goes on
to the next chunk only when the chunk is padded, or sealed and known not to hold it. Checked after every step:
an acknowledged record is at its offset on every member of its chunk's set; none is twice in the chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gfs.chunkserver.core.append_window import AppendWindow, decode_window, encode_window
from gfs.chunkserver.core.mutations import AppendAt, ChunkFull, Mutation
from gfs.chunkserver.core.primary_order import PrimaryOrder, RecordId
from gfs.chunkserver.core.secondary_order import Receipt, SecondaryOrder
from gfs.errors import GfsError, RecordForgotten, Unavailable
from gfs.messages.replicas import AppendedRecord
from gfs.vocabulary import (
    CHUNK_BYTES,
    MIB,
    ChunkHandle,
    ChunkVersion,
    ClientId,
    PushId,
    SerialNumber,
    ServerId,
)

SERVERS = [ServerId(name) for name in "abc"]
CLIENTS = [ClientId(1), ClientId(2)]
UNIT_BYTES = 8 * MIB
IN_FLIGHT_MAX = 2  # records of one client


@dataclass
class Replica:
    """`records` and `window` are on the disk, changed together; orders are lost in a crash."""

    version: int = 0
    length: int = 0
    records: dict[RecordId, int] = field(default_factory=dict)  # offsets
    window: AppendWindow = field(default_factory=AppendWindow)
    order: SecondaryOrder | None = None
    lead: PrimaryOrder | None = None


@dataclass
class Chunk:
    replicas: dict[ServerId, Replica]
    version: int
    members: list[ServerId]
    primary: ServerId
    told: bool = False
    sealed: bool = False


@dataclass
class Flying:
    """A record whose client does not know where it is."""

    id: RecordId
    units: int
    chunk: int
    sent: bool = False
    not_before: int = 0


@dataclass
class Apply:
    chunk: int
    lead: PrimaryOrder
    to: ServerId
    mutation: Mutation


class ExactlyOnceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[Chunk] = []
        self.flying: list[Flying] = []
        self.sequences = dict.fromkeys(CLIENTS, 0)
        self.ends: dict[tuple[ClientId, int], int] = {}
        self.places: dict[RecordId, tuple[int, int]] = {}  # where each was acknowledged: chunk, offset
        self.network: list[Apply] = []
        self.pushes = 0
        self.grow()

    def grow(self) -> None:
        chunk = Chunk({name: Replica() for name in SERVERS}, 0, list(SERVERS), SERVERS[0])
        self.chunks.append(chunk)
        self.log_grant(chunk, list(SERVERS), SERVERS[0])
        self.complete(chunk)

    # --- the master ---------------------------------------------------------------------------

    def log_grant(self, chunk: Chunk, members: list[ServerId], primary: ServerId) -> None:
        chunk.version += 1
        chunk.members, chunk.primary, chunk.told = members, primary, False

    def bump(self, chunk: Chunk, name: ServerId) -> None:
        replica = chunk.replicas[name]
        if replica.version == chunk.version:
            return
        version = ChunkVersion(chunk.version)
        if replica.order is not None:
            replica.order.supersede(version)
        if replica.lead is not None:
            replica.lead.supersede("a newer version")
        replica.version, replica.lead = version, None
        replica.order = SecondaryOrder(handle=ChunkHandle(1), version=version, me=name, primary=chunk.primary)
        if name == chunk.primary:
            replica.lead = PrimaryOrder(
                handle=ChunkHandle(1),
                version=version,
                me=name,
                members=chunk.members,
                length_bytes=replica.length,
                now=0.0,
                lease_seconds=1e9,
                window=replica.window.copy(),
            )

    def complete(self, chunk: Chunk) -> None:
        for name in chunk.members:
            self.bump(chunk, name)
        shortest = min(chunk.replicas[name].length for name in chunk.members)
        for name in chunk.members:
            replica = chunk.replicas[name]
            if replica.order is None or not replica.order.is_untouched:
                return  # it crashed since: only a newer version helps
        for name in chunk.members:
            replica = chunk.replicas[name]
            replica.length = shortest
            replica.records = {id: at for id, at in replica.records.items() if at < shortest}
            replica.window.cut(shortest)
            if replica.lead is not None:
                replica.lead.align(shortest)
        chunk.told = True

    def choose_set(self, data: st.DataObject, chunk: Chunk) -> tuple[list[ServerId], ServerId]:
        subsets = [list(s) for n in range(len(chunk.members), 0, -1) for s in combinations(chunk.members, n)]
        members = data.draw(st.sampled_from(subsets))
        return members, data.draw(st.sampled_from(members))

    def some_chunk(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.chunks) - 1))

    @rule(data=st.data(), whole=st.booleans())
    def grant(self, data: st.DataObject, whole: bool) -> None:
        chunk = self.chunks[self.some_chunk(data)]
        if chunk.sealed:
            return
        members, primary = self.choose_set(data, chunk)
        self.log_grant(chunk, members, primary)
        if whole:
            self.complete(chunk)
        else:
            self.bump(chunk, data.draw(st.sampled_from(members)))

    @rule(data=st.data())
    def complete_a_grant(self, data: st.DataObject) -> None:
        chunk = self.chunks[self.some_chunk(data)]
        if not chunk.told:
            self.complete(chunk)

    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        chunk = self.chunks[self.some_chunk(data)]
        if chunk.sealed:
            return
        self.log_grant(chunk, *self.choose_set(data, chunk))
        self.complete(chunk)
        if not chunk.told:
            return
        chunk.sealed = True
        for name in chunk.members:
            replica = chunk.replicas[name]
            if replica.lead is not None:
                replica.lead.seal()

    # --- clients ------------------------------------------------------------------------------

    @rule(client=st.sampled_from(CLIENTS), units=st.integers(1, 2))
    def append(self, client: ClientId, units: int) -> None:
        if sum(one.id[0] == client for one in self.flying) == IN_FLIGHT_MAX:
            return
        self.sequences[client] += 1
        self.flying.append(Flying((client, self.sequences[client]), units, len(self.chunks) - 1))
        self.send(self.flying[-1], answered=True)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), answered=st.booleans())
    def repeat(self, data: st.DataObject, answered: bool) -> None:
        one = data.draw(st.sampled_from(self.flying))
        chunk = self.chunks[one.chunk]
        if chunk.sealed:
            self.ask_sealed(one, data.draw(st.sampled_from(chunk.members)))
        else:
            self.send(one, answered=answered)

    def send(self, one: Flying, *, answered: bool) -> None:
        chunk = self.chunks[one.chunk]
        lead = chunk.replicas[chunk.primary].lead
        if not chunk.told or lead is None:
            return
        client, sequence = one.id
        if not one.sent:
            one.not_before = self.ends.get((client, one.chunk), 0)
        repeated, one.sent = one.sent, True
        try:
            if one.id in lead._identified:
                return  # it shares the outcome of the first
            place = lead.find_record(client, sequence, repeated=repeated, not_before=one.not_before)
            if place is not None:
                self.told_of(one.id, one.chunk, place.offset_bytes, answered=answered)
                return
            settled = min(other.id[1] for other in self.flying if other.id[0] == client)
            record = AppendedRecord(client, sequence, settled, one.units * UNIT_BYTES)
            self.pushes += 1
            placed = lead.place_records(
                [record], push=PushId(f"p{self.pushes}"), version=lead.version, now=1.0
            )
        except RecordForgotten:
            raise
        except GfsError:
            return
        if isinstance(placed, ChunkFull):
            if answered:
                self.go_on(one)
            return
        mutation = lead.ordered(placed.serial)
        assert isinstance(placed, AppendAt) == (mutation.kind == "record")
        self.network += [Apply(one.chunk, lead, name, mutation) for name in sorted(lead.members - {lead.me})]
        self.apply(Apply(one.chunk, lead, lead.me, mutation), answered=answered)

    def ask_sealed(self, one: Flying, name: ServerId) -> None:
        window = self.chunks[one.chunk].replicas[name].window
        client, sequence = one.id
        place = window.find(client, sequence, repeated=True, not_before=one.not_before) if one.sent else None
        if place is None:
            self.go_on(one)
        else:
            self.told_of(one.id, one.chunk, place.offset_bytes, answered=True)

    def go_on(self, one: Flying) -> None:
        one.chunk, one.sent = one.chunk + 1, False
        if one.chunk == len(self.chunks):
            self.grow()

    def told_of(self, id: RecordId, chunk: int, offset: int, *, answered: bool) -> None:
        """The cluster has said where a record is; whether its client hears of it or not, it holds."""
        assert self.places.setdefault(id, (chunk, offset)) == (chunk, offset)
        if answered:
            self.flying = [one for one in self.flying if one.id != id]
            end = self.ends.get((id[0], chunk), 0)
            self.ends[id[0], chunk] = max(end, offset + 1)

    # --- replicas and the network ---------------------------------------------------------------

    @precondition(lambda self: self.network)
    @rule(data=st.data(), twice=st.booleans(), answered=st.booleans())
    def deliver(self, data: st.DataObject, twice: bool, answered: bool) -> None:
        at = data.draw(st.integers(0, len(self.network) - 1))
        self.apply(self.network[at] if twice else self.network.pop(at), answered=answered)

    @precondition(lambda self: self.network)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        lost = self.network.pop(data.draw(st.integers(0, len(self.network) - 1)))
        lost.lead.member_failed(lost.to, Unavailable("no answer"))

    @precondition(lambda self: self.network)
    @rule(answered=st.booleans())
    def deliver_all(self, answered: bool) -> None:
        while self.network:
            self.apply(self.network.pop(0), answered=answered)

    def apply(self, message: Apply, *, answered: bool) -> None:
        replica = self.chunks[message.chunk].replicas[message.to]
        order = replica.order
        if order is None:
            message.lead.supersede("started anew")
            return
        try:
            receipt = order.receive(message.mutation, version=message.lead.version, primary=message.lead.me)
        except GfsError as error:
            message.lead.supersede(error.message)
            return
        applied = [message.mutation] if receipt is Receipt.APPLIED else []
        while run := order.next_run():
            for mutation in run:
                self.put_on_disk(replica, mutation)
            order.finish_run(len(run))
            applied += run
        for mutation in applied:
            self.acknowledge(message, mutation.serial, answered)

    def acknowledge(self, message: Apply, serial: SerialNumber, answered: bool) -> None:
        lead = message.lead
        try:
            mutation = lead.ordered(serial)
        except KeyError:
            return  # decided before
        if message.to == lead.me:
            done = lead.applied_here(serial, length_bytes=mutation.end_bytes)
        else:
            done = lead.applied_on(serial, message.to)
        if done is None:
            return
        if mutation.kind == "pad":
            return  # who had no room for it finds the chunk full
        offset = mutation.offset_bytes
        for record in mutation.records:
            self.told_of((record.client, record.sequence), message.chunk, offset, answered=answered)
            offset += record.length_bytes

    def put_on_disk(self, replica: Replica, mutation: Mutation) -> None:
        assert mutation.offset_bytes == replica.length
        offset = mutation.offset_bytes
        for record in mutation.records:
            id = (record.client, record.sequence)
            assert id not in replica.records
            replica.records[id] = offset
            offset += record.length_bytes
        replica.length = mutation.end_bytes
        replica.window.note(mutation.records, end_bytes=mutation.end_bytes)

    @rule(data=st.data(), name=st.sampled_from(SERVERS))
    def crash(self, data: st.DataObject, name: ServerId) -> None:
        replica = self.chunks[self.some_chunk(data)].replicas[name]
        replica.order = replica.lead = None
        replica.window = decode_window(encode_window(replica.window))

    # --- what must hold -----------------------------------------------------------------------

    @invariant()
    def acknowledged_records_are_where_they_were_acknowledged(self) -> None:
        for id, (at, offset) in self.places.items():
            chunk = self.chunks[at]
            for name in chunk.members:
                assert chunk.replicas[name].records.get(id) == offset, (id, name)

    @invariant()
    def no_record_is_there_twice(self) -> None:
        seen: set[RecordId] = set()
        for chunk in self.chunks:
            here: set[RecordId] = set()
            for name in chunk.members if chunk.told else ():
                here.update(chunk.replicas[name].records)
            assert not here & seen, here & seen
            seen |= here

    @invariant()
    def windows_and_orders_are_sound(self) -> None:
        for chunk in self.chunks:
            for replica in chunk.replicas.values():
                replica.window.check_invariants()
                assert 0 <= replica.length <= CHUNK_BYTES
                if replica.lead is not None:
                    replica.lead.check_invariants()


ExactlyOnceMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestExactlyOnce = ExactlyOnceMachine.TestCase
