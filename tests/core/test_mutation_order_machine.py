"""Mutation order under everything at once: reordered, lost and repeated messages, new versions, crashes.

The bytes are modelled by the list of mutations each replica has on its disk. Checked after every step:
all members apply the same mutations in the same order under one version (I4); what was acknowledged is on
every member of its set and of all later sets (I2); a replica applies nothing of a version older than its
own (I1, I3); an acknowledged record stands at the acknowledged offset on every member of its set and of all
later sets, and overlaps no other (§3.3), except where a write was sent over it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gfs.chunkserver.core.mutations import Acknowledged, ChunkFull, Mutation, UnderWay
from gfs.chunkserver.core.primary_order import PrimaryOrder
from gfs.chunkserver.core.secondary_order import Receipt, SecondaryOrder
from gfs.errors import GfsError, LeaseExpired, NotPrimary, StaleVersion, Unavailable
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

HANDLE = ChunkHandle(7)
SERVERS = [ServerId(name) for name in "abc"]
UNIT_BYTES = 4 * MIB  # content is modelled in such units; a record has one or two
CHUNK_UNITS = CHUNK_BYTES // UNIT_BYTES


@dataclass
class Apply:
    """A mutation on its way to a secondary, from one run of one primary."""

    lead: PrimaryOrder
    to: ServerId
    mutation: Mutation


@dataclass
class Answer:
    """A secondary's word on its way back; `error` None: it has the mutation."""

    lead: PrimaryOrder
    by: ServerId
    serial: SerialNumber
    error: GfsError | None


@dataclass
class Server:
    version: ChunkVersion  # on the disk
    disk: list[tuple[ChunkVersion, PushId]] = field(default_factory=list)
    content: list[PushId | None] = field(
        default_factory=list
    )  # whose byte is where; None in a gap, or padding
    order: SecondaryOrder | None = None  # in memory
    lead: PrimaryOrder | None = None
    run: tuple[Mutation, ...] = ()
    owed: list[Apply] = field(default_factory=list)  # answers owed once a mutation is applied


class MutationOrderMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.servers = {name: Server(ChunkVersion(0)) for name in SERVERS}
        self.sets: dict[ChunkVersion, list[ServerId]] = {}
        self.primary: dict[ChunkVersion, ServerId] = {}
        self.network: list[Apply | Answer] = []
        self.acknowledged: list[tuple[ChunkVersion, PushId]] = []
        self.record_bytes: dict[PushId, int] = {}
        self.write_offsets: dict[PushId, int] = {}
        self.records: list[tuple[ChunkVersion, Mutation]] = []  # acknowledged ones
        self.pushes = 0
        self.version = ChunkVersion(0)
        self.told = False  # clients know the version: all of its set has it
        self._grant(list(SERVERS), SERVERS[0])
        for name in SERVERS:
            self._bump(name)

    # --- the master ---------------------------------------------------------------------------

    def _grant(self, members: list[ServerId], primary: ServerId) -> None:
        self.version = ChunkVersion(self.version + 1)
        self.sets[self.version], self.primary[self.version] = members, primary
        self.told = False

    def _bump(self, name: ServerId) -> None:
        server = self.servers[name]
        assert not server.run  # the service has the chunk exclusively
        if server.version >= self.version:
            return
        for old in (server.order,) if server.order is not None else ():
            for mutation in old.supersede(self.version):
                self._answer_owed(name, mutation.serial, old.verdict())
        if server.lead is not None:
            server.lead.supersede("a newer version")
        server.version = self.version
        primary, members = self.primary[self.version], self.sets[self.version]
        server.order = SecondaryOrder(handle=HANDLE, version=self.version, me=name, primary=primary)
        server.lead = None
        if name == primary:
            server.lead = PrimaryOrder(
                handle=HANDLE,
                version=self.version,
                me=name,
                members=members,
                length_bytes=len(server.content) * UNIT_BYTES,
                now=0.0,
                lease_seconds=1e9,
            )
        if all(self.servers[member].version == self.version for member in members):
            self._align(members)
            self.told = True

    def _align(self, members: list[ServerId]) -> None:
        """As the master does once every member holds the version: cut all to the shortest."""
        shortest = min(len(self.servers[member].content) for member in members)
        for member in members:
            server = self.servers[member]
            if len(server.content) > shortest:
                del server.content[shortest:]
                if server.lead is not None:
                    server.lead.align(shortest * UNIT_BYTES)

    @rule(data=st.data())
    def grant_a_newer_version(self, data: st.DataObject) -> None:
        present = self.sets[self.version]
        subsets = [list(s) for n in range(len(present), 0, -1) for s in combinations(present, n)]
        members = data.draw(st.sampled_from(subsets))
        self._grant(members, data.draw(st.sampled_from(members)))

    @rule(data=st.data())
    def bump_a_member(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.sets[self.version]))
        if not self.servers[name].run:
            self._bump(name)

    # --- clients ------------------------------------------------------------------------------

    @precondition(lambda self: self.told)
    @rule(units=st.lists(st.sampled_from([0, 3]), min_size=1, max_size=4))
    def write(self, units: list[int]) -> None:
        for unit in units:
            self.pushes += 1
            push = PushId(f"p{self.pushes}")
            self.write_offsets[push] = unit * UNIT_BYTES
            self._write_to(self.primary[self.version], self.version, push)

    @precondition(lambda self: self.told)
    @rule(sizes=st.lists(st.integers(1, 2), min_size=1, max_size=4))
    def append(self, sizes: list[int]) -> None:
        for size in sizes:
            self.pushes += 1
            push = PushId(f"p{self.pushes}")
            self.record_bytes[push] = size * UNIT_BYTES
            self._write_to(self.primary[self.version], self.version, push)

    @precondition(lambda self: self.pushes)
    @rule(data=st.data())
    def repeat_a_write_whose_answer_was_lost(self, data: st.DataObject) -> None:
        push = PushId(f"p{data.draw(st.integers(1, self.pushes))}")
        version = data.draw(st.sampled_from(sorted(self.sets)))
        if version < self.version or self.told:
            self._write_to(self.primary[version], version, push)

    def _write_to(self, name: ServerId, version: ChunkVersion, push: PushId) -> None:
        server = self.servers[name]
        lead, order = server.lead, server.order
        if lead is None or order is None or lead.version != version:
            return
        if push in self.record_bytes:
            self._append_to(lead, order, version, push)
            return
        offset = self.write_offsets[push]
        known = lead.recall(push, offset_bytes=offset, length_bytes=UNIT_BYTES)
        if isinstance(known, Acknowledged):
            assert (version, push) in self.acknowledged
        if isinstance(known, Acknowledged | UnderWay):
            return
        try:
            mutation = lead.admit(
                push, version=version, offset_bytes=offset, length_bytes=UNIT_BYTES, now=1.0
            )
        except GfsError:
            return
        self._send(lead, order, mutation)

    def _append_to(
        self, lead: PrimaryOrder, order: SecondaryOrder, version: ChunkVersion, push: PushId
    ) -> None:
        record_bytes = self.record_bytes[push]
        known = lead.recall_record(push, record_bytes=record_bytes)
        if known is not None:
            return
        try:
            record = AppendedRecord(ClientId(0), 0, 0, record_bytes)
            placed = lead.place_records([record], push=push, version=version, now=1.0)
        except GfsError:
            return
        if not isinstance(placed, ChunkFull):
            self._send(lead, order, lead.ordered(placed.serial))

    def _send(self, lead: PrimaryOrder, order: SecondaryOrder, mutation: Mutation) -> None:
        self.network += [Apply(lead, member, mutation) for member in sorted(lead.members - {lead.me})]
        assert order.receive(mutation, version=lead.version, primary=lead.me) is Receipt.ACCEPTED

    # --- the network --------------------------------------------------------------------------

    @precondition(lambda self: self.network)
    @rule(data=st.data(), twice=st.booleans())
    def deliver_a_message(self, data: st.DataObject, twice: bool) -> None:
        at = data.draw(st.integers(0, len(self.network) - 1))
        message = self.network[at] if twice else self.network.pop(at)
        if isinstance(message, Apply):
            self._deliver_apply(message)
        else:
            self._deliver_answer(message)

    @precondition(lambda self: self.network)
    @rule(data=st.data())
    def lose_a_message(self, data: st.DataObject) -> None:
        lost = self.network.pop(data.draw(st.integers(0, len(self.network) - 1)))
        if data.draw(st.booleans(), label="the primary notices"):
            by = lost.to if isinstance(lost, Apply) else lost.by
            lost.lead.member_failed(by, Unavailable("no answer in time"))

    def _deliver_apply(self, message: Apply) -> None:
        server = self.servers[message.to]
        serial = message.mutation.serial
        if server.order is None:
            self.network.append(Answer(message.lead, message.to, serial, LeaseExpired("started anew")))
            return
        try:
            receipt = server.order.receive(
                message.mutation, version=message.lead.version, primary=message.lead.me
            )
        except GfsError as error:
            self.network.append(Answer(message.lead, message.to, serial, error))
            return
        if receipt is Receipt.APPLIED:
            self.network.append(Answer(message.lead, message.to, serial, None))
        else:
            server.owed.append(message)

    def _deliver_answer(self, answer: Answer) -> None:
        error = answer.error
        if error is None:
            self._note(answer.lead, answer.lead.applied_on(answer.serial, answer.by))
        elif isinstance(error, LeaseExpired | NotPrimary | StaleVersion):
            answer.lead.supersede(error.message)
        else:
            answer.lead.member_failed(answer.by, error)

    def _answer_owed(self, name: ServerId, serial: int, error: GfsError | None) -> None:
        server = self.servers[name]
        due = [message for message in server.owed if message.mutation.serial == serial]
        server.owed = [message for message in server.owed if message.mutation.serial != serial]
        self.network += [Answer(message.lead, name, message.mutation.serial, error) for message in due]

    def _note(self, lead: PrimaryOrder, done: Acknowledged | None) -> None:
        if done is None:
            return
        mutation = next(m for m, _ in lead._answered.values() if m.serial == done.serial)
        self.acknowledged.append((lead.version, mutation.push))
        if mutation.kind == "record":
            for _, other in self.records:
                assert mutation.end_bytes <= other.offset_bytes or other.end_bytes <= mutation.offset_bytes
            self.records.append((lead.version, mutation))

    # --- replicas -----------------------------------------------------------------------------

    @rule(name=st.sampled_from(SERVERS))
    def begin_to_apply(self, name: ServerId) -> None:
        server = self.servers[name]
        if server.order is not None and not server.run:
            server.run = server.order.next_run()

    @rule(name=st.sampled_from(SERVERS), fails=st.booleans(), data=st.data())
    def finish_applying(self, name: ServerId, fails: bool, data: st.DataObject) -> None:
        run = self.servers[name].run
        if run:
            count = data.draw(st.integers(0, len(run) - 1)) if fails else len(run)
            self._finish(name, count, failed=fails)

    def _finish(self, name: ServerId, count: int, *, failed: bool) -> None:
        server = self.servers[name]
        order, run = server.order, server.run
        assert order is not None
        self._put_on_disk(server, run[:count])
        server.run = ()
        never = order.finish_run(count, failure="disk full" if failed else None)
        for mutation in run[:count]:
            if server.lead is not None:
                self._note(server.lead, server.lead.applied_here(mutation.serial, length_bytes=1))
            self._answer_owed(name, mutation.serial, None)
        for mutation in never:
            if server.lead is not None:
                server.lead.member_failed(name, Unavailable("disk full"))
            self._answer_owed(name, mutation.serial, order.verdict())

    @rule(name=st.sampled_from(SERVERS), data=st.data())
    def give_up_waiting_for_a_gap(self, name: ServerId, data: st.DataObject) -> None:
        order = self.servers[name].order
        if order is None or self.servers[name].lead is not None:
            return
        serial = SerialNumber(data.draw(st.integers(1, 6)))
        if order.withdraw(serial):
            self._answer_owed(name, serial, Unavailable("waited too long"))

    @precondition(lambda self: self.told)
    @rule()
    def grant_anew_with_a_primary_that_is_ahead(self) -> None:
        name, members = self.primary[self.version], self.sets[self.version]
        server = self.servers[name]
        if server.order is not None:
            server.run = server.run or server.order.next_run()
            self._finish(name, len(server.run), failed=False)
        self._grant(members, name)
        self._complete_grant()

    @rule()
    def complete_the_grant(self) -> None:
        self._complete_grant()

    def _complete_grant(self) -> None:
        for name in self.sets[self.version]:
            if self.servers[name].run:
                self._finish(name, len(self.servers[name].run), failed=False)
            self._bump(name)

    @rule(name=st.sampled_from(SERVERS), data=st.data())
    def crash(self, name: ServerId, data: st.DataObject) -> None:
        server = self.servers[name]
        self._put_on_disk(server, server.run[: data.draw(st.integers(0, len(server.run)))])
        server.run, server.order, server.lead, server.owed = (), None, None, []

    def _put_on_disk(self, server: Server, mutations: tuple[Mutation, ...]) -> None:
        assert server.order is not None or not mutations
        for mutation in mutations:
            assert server.order is not None and server.order.version == server.version  # I1, I3
            server.disk.append((server.version, mutation.push))
            start, end = mutation.offset_bytes // UNIT_BYTES, mutation.end_bytes // UNIT_BYTES
            assert mutation.kind == "write" or start == len(server.content)  # right behind what is committed
            server.content += [None] * (end - len(server.content))
            server.content[start:end] = [None if mutation.kind == "pad" else mutation.push] * (end - start)

    @rule(choices=st.lists(st.integers(0, 2**16), min_size=5, max_size=40))
    def let_things_run(self, choices: list[int]) -> None:
        """A stretch without faults; or else hardly any mutation would ever come to its end."""
        for choice in choices:
            name = SERVERS[choice % len(SERVERS)]
            server = self.servers[name]
            if choice % 2 and self.network:
                message = self.network.pop(choice // 2 % len(self.network))
                self._deliver_apply(message) if isinstance(message, Apply) else self._deliver_answer(message)
            elif server.run:
                self._finish(name, len(server.run), failed=False)
            elif server.order is not None:
                server.run = server.order.next_run()

    # --- what must hold -----------------------------------------------------------------------

    @invariant()
    def orders_are_sound(self) -> None:
        for server in self.servers.values():
            if server.order is not None:
                server.order.check_invariants()
            if server.lead is not None:
                server.lead.check_invariants()

    @invariant()
    def members_apply_the_same_in_the_same_order(self) -> None:
        for version, members in self.sets.items():
            applied = [[p for v, p in self.servers[name].disk if v == version] for name in members]
            longest = max(applied, key=len)
            assert all(longest[: len(one)] == one for one in applied), (version, applied)
            assert len(set(longest)) == len(longest)

    @invariant()
    def what_was_acknowledged_is_on_every_member_of_its_set_and_of_later_sets(self) -> None:
        for version, push in self.acknowledged:
            for later, members in self.sets.items():
                if later >= version:
                    assert all((version, push) in self.servers[name].disk for name in members)

    @invariant()
    def an_acknowledged_record_is_where_it_was_acknowledged(self) -> None:
        overwritten = {offset // UNIT_BYTES for offset in self.write_offsets.values()}
        for version, record in self.records:
            units = set(range(record.offset_bytes // UNIT_BYTES, record.end_bytes // UNIT_BYTES))
            for later, members in self.sets.items():
                for name in members if later >= version else ():
                    content = self.servers[name].content
                    assert len(content) * UNIT_BYTES >= record.end_bytes, (name, record)
                    assert all(content[unit] == record.push for unit in units - overwritten), (name, record)


MutationOrderMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestMutationOrder = MutationOrderMachine.TestCase
