"""Keeps engine, connections and listeners in step with who the masters are by the log. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gfs.master.replication.engine import Engine
from gfs.master.replication.log import FIRST_INDEX, Entry
from gfs.master.replication.membership import Membership
from gfs.master.replication.peer_connections import PeerConnections
from gfs.master.replication.replicator import Member, MembersListener
from gfs.telemetry import logger
from gfs.vocabulary import Address, MasterId


class MembershipDuty:
    def __init__(
        self,
        me: MasterId,
        membership: Membership,
        engine: Engine,
        connections: PeerConnections,
        *,
        dial: Callable[[Member], tuple[str, int]],
        listeners: Sequence[MembersListener],
    ) -> None:
        self._me, self._membership, self._engine, self._connections = me, membership, engine, connections
        self._dial, self._listeners = dial, listeners
        self._told = membership.founders
        self._has_settled = False

    def log_replaced(self, after: int, entries: Sequence[Entry]) -> None:
        """The log goes on with `entries` after `after`: what they say is in force from now on."""
        if self._membership.replaced(after, entries):
            self.follow()

    def settled(self) -> None:
        """A configuration is being applied: follow it when the entry is."""
        self._has_settled = True

    def follow_if_settled(self) -> None:
        if self._has_settled:
            self.follow()

    def follow(self) -> None:
        membership, applied = self._membership, self._engine.applied_index
        # As long as the log is empty, masters are looked for that need not be members.
        self._has_settled = self._engine.log.end.index <= FIRST_INDEX
        membership.committed(applied)
        self._engine.reconfigure(membership.latest.voters(), membership.receivers(applied))
        peers = membership.peers(applied)
        self._connections.set_peers({peer: self._dial(member) for peer, member in peers.items()})
        members = membership.latest.members
        if members == self._told:
            return
        self._told = members
        tell = logger("raft").error if membership.part() == "removed" else logger("raft").info
        tell("masters_are", members=[member.id for member in members], this_one_is=membership.part())
        for listener in self._listeners:
            listener(members)

    def address_of(self, member: MasterId, said: Address) -> tuple[str, int]:
        """Where to dial a master that may have joined while we were not told; `said`: by itself."""
        return self._connections.address_of(member) or self._dial(Member(member, said, said, voter=True))
