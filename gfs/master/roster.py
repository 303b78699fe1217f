"""Who the masters are, as this master's log has it, for all of the master above the replication room.

Asked anew at every use: the set changes while everything runs. How far an answer may be trusted depends on
who gives it: only the leader's log is surely the newest.
"""

from __future__ import annotations

from collections.abc import Mapping

from gfs.errors import NotLeader
from gfs.master.replication.replicator import Member, Replicator
from gfs.vocabulary import Address, MasterId

_OUTSIDE = {"stranger": "waiting", "removed": "removed"}  # by the replicator's word for the part it takes


class Roster:
    def __init__(self, replicator: Replicator, *, me: Member, seeds: Mapping[MasterId, Address]) -> None:
        """
        Args:
            me: this master, with its addresses as its settings have them.
            seeds: control addresses of all masters in the settings; used while this master is no member.
        """
        self._replicator, self._me, self._seeds = replicator, me, dict(seeds)

    @property
    def me(self) -> MasterId:
        return self._me.id

    def members(self) -> tuple[Member, ...]:
        return self._replicator.members()

    def find(self, member: MasterId) -> Member | None:
        return next((one for one in self.members() if one.id == member), None)

    def voters(self) -> tuple[MasterId, ...]:
        return tuple(one.id for one in self.members() if one.voter)

    def controls(self) -> dict[MasterId, Address]:
        """Where all members are asked, learners too. The settings' word while this master is no member: who
        asks here by mistake is sent on to where members may be."""
        members = {one.id: one.control for one in self.members()}
        if self._me.id in members:
            return members
        known = self._seeds | members
        return {master: address for master, address in known.items() if master != self._me.id}

    def with_me(self) -> dict[MasterId, Address]:
        """As controls(), and this master in any case: what a person wants to see in a status."""
        return dict(sorted({self._me.id: self._me.control, **self.controls()}.items()))

    def control(self, member: MasterId) -> Address:
        """Empty when nobody knows."""
        return self.with_me().get(member, Address(""))

    # --- a master that is no member ---------------------------------------------------------------

    def outside(self) -> str:
        """waiting: it is to be added yet; removed: it was a member; empty: it is one."""
        return _OUTSIDE.get(self._replicator.status().part, "")

    def why_outside(self) -> str:
        """In words, with what to do; empty for a member."""
        match self.outside():
            case "waiting":
                return (
                    f"master {self._me.id} is no member of the cluster yet and waits: run 'gfs admin members "
                    f"add {self._me.id} --control {self._me.control} --raft {self._me.raft}'"
                )
            case "removed":
                return (
                    f"master {self._me.id} was removed from the cluster: stop it. To have it back, empty its "
                    f"directory, start it, and run 'gfs admin members add {self._me.id}' with its addresses"
                )
        return ""

    def refusal(self) -> NotLeader | None:
        """What to tell a client that asks a master which is no member; None for a member."""
        why = self.why_outside()
        if not why:
            return None
        named = ",".join(self.controls().values())
        return NotLeader(why, hint="Ask the masters of the cluster.", details={"masters": named})
