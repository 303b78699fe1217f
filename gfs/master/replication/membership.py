"""Who the masters are, as this master's log tells it, and what that lets it do. Changing it: member_changes.

A configuration is a log entry that names all masters: voters, and learners, who get the log and count in no
majority. Why masters that know different ones never make two majorities (Raft dissertation §4):

1. A master uses the newest configuration in its log from the moment it is appended, committed or not. When
   the entry is dropped the one before it is in force again. Nobody waits for anybody to switch.
2. Two configurations that follow each other differ by at most one voter, so each majority of the one shares
   a master with each majority of the other. A learner's coming, becoming a voter and going are three changes.
3. A leader appends a configuration only when the one before it is committed, so only neighbours are ever in
   use together: whoever wins by the older one has, from the shared master, had a vote of one who holds the
   newer entry, and its log is then at least as new; or the newer entry is not committed and may be dropped.
4. And only when an entry of its own term is committed (the correction of 2015): otherwise two leaders could
   each add a neighbour of the same configuration, and these two differ by two voters.
5. A leader is always a voter of its own configuration: one that is to go hands over first, and the new one
   takes it out. So "a majority, this master included" is always meant as it says.

Who asks for a vote counts only voters of its own configuration. Who is asked may not know yet that it is
one, so it answers all the same, unless its log is empty: then the cluster has told it nothing, and it is new
here, or has lost its disk. Nor does an empty log vote or stand once a master with a history has refused it;
and one that could found a cluster alone first gives those whom its settings name the time to refuse it.

Two masters may disagree on whether one of them is a member at all. Who knows of the newer configuration is
right: a leader that was added while we slept is let in, one that was taken out meanwhile is not. Newer is by
(term, index), as for logs: whoever has missed a committed configuration holds none of the same or later term.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gfs.errors import Superseded
from gfs.master.replication.configuration import (
    ConfiguredMember,
    configured,
    decode_configuration,
    members_of,
)
from gfs.master.replication.log import FIRST_INDEX, Entry, OperationLog, Position
from gfs.master.replication.replicator import Member
from gfs.vocabulary import LogIndex, MasterId, Term

NEVER_CHANGED = Position(LogIndex(0), Term(0))


class Version(NamedTuple):
    at: Position  # of the entry, or of the checkpoint that was the newest thing known of it
    members: tuple[Member, ...]

    def voters(self) -> frozenset[MasterId]:
        return frozenset(member.id for member in self.members if member.voter)

    def learners(self) -> frozenset[MasterId]:
        return frozenset(member.id for member in self.members if not member.voter)

    def find(self, member: MasterId) -> Member | None:
        return next((one for one in self.members if one.id == member), None)


class Membership:
    """Invariants: versions are in log order; the first one is committed."""

    def __init__(self, me: MasterId, founders: Sequence[Member], log: OperationLog) -> None:
        """`founders`: as the settings, or what they said at the first start, name them. Who is no voter there
        is no founder: it was, or is to be, added later."""
        self._me, self._log = me, log
        self._acquainted = Version(NEVER_CHANGED, tuple(sorted(founders)))
        self._founders = Version(NEVER_CHANGED, tuple(member for member in sorted(founders) if member.voter))
        self._versions = [self._founders]
        self._was_member = False
        self._refused_by: set[MasterId] = set()

    def restart(self, base: Position, configuration: Sequence[ConfiguredMember]) -> None:
        """Begin with a checkpoint at `base` (an empty configuration: never changed) and what the log adds."""
        self._versions = [Version(base, members_of(configuration)) if configuration else self._founders]
        self._read([entry for entry in self._log if entry[1] > base.index])

    def replaced(self, after: int, entries: Sequence[Entry]) -> bool:
        """The log now goes on with `entries` after `after`. Returns: whether another version is in force."""
        before = self.latest
        while self._versions[-1].at.index > after:
            self._versions.pop()
            assert self._versions, "a committed configuration is never dropped"
        self._read(entries)
        return self.latest is not before

    def committed(self, applied: LogIndex) -> None:
        """Nobody asks again for versions that were over before `applied`."""
        settled = self.as_of(applied)
        self._versions = self._versions[self._versions.index(settled) :]

    def _read(self, entries: Sequence[Entry]) -> None:
        for payload, index, term in entries:
            configuration = decode_configuration(payload)
            if configuration is not None:
                self._was_member = self._was_member or self.latest.find(self._me) is not None
                at = Position(LogIndex(index), Term(term))
                self._versions.append(Version(at, members_of(configuration.members)))

    # --- who is in --------------------------------------------------------------------------------

    @property
    def founders(self) -> tuple[Member, ...]:
        return self._founders.members

    @property
    def latest(self) -> Version:
        return self._versions[-1]

    def as_of(self, index: LogIndex) -> Version:
        """What was in force at `index`, which is not before the last committed change."""
        return next(v for v in reversed(self._versions) if v.at.index <= index or v is self._versions[0])

    def to_keep(self, index: LogIndex) -> tuple[ConfiguredMember, ...]:
        """For a checkpoint at `index`: empty as long as nothing was ever changed."""
        version = self.as_of(index)
        return () if version.at == NEVER_CHANGED else configured(version.members)

    def receivers(self, applied: LogIndex) -> frozenset[MasterId]:
        """Who gets the log without counting: learners, and whom a change takes out that may be dropped."""
        known = {member.id for member in (*self.as_of(applied).members, *self.latest.members)}
        return frozenset(known) - self.latest.voters()

    def peers(self, applied: LogIndex) -> dict[MasterId, Member]:
        """Whom to be connected with. One that is yet to be added begins with those it was told of."""
        settled = self.as_of(applied)
        versions = [settled, self.latest]
        if settled.find(self._me) is None or self._log.end.index <= FIRST_INDEX:
            versions.insert(0, self._acquainted)
        found = {member.id: member for version in versions for member in version.members}
        found.pop(self._me, None)
        return dict(sorted(found.items()))

    # --- what this master may do ------------------------------------------------------------------

    def part(self) -> str:
        """As in ReplicatorStatus."""
        mine = self.latest.find(self._me)
        if mine is not None:
            return "voter" if mine.voter else "learner"
        return "removed" if self._was_member or self._founders.find(self._me) else "stranger"

    def may_stand(self) -> bool:
        return self._me in self.latest.voters() and not self._shut_out()

    def may_vote(self) -> bool:
        if self._shut_out():
            return False
        return self._me in self.latest.voters() or self._log.end.index > FIRST_INDEX

    def founds_alone(self) -> bool:
        """Nothing is in the log, nobody else is needed, and yet there may be others: this may be a cluster's
        first master, or one that has lost its disk and whose cluster goes on without it."""
        empty = self._log.end.index <= FIRST_INDEX
        return empty and self.latest.voters() == {self._me} and len(self._acquainted.members) > 1

    def refused_by(self, member: MasterId, *, has_history: bool) -> None:
        """A master that has proven to know the secret does not let us in."""
        if has_history:
            self._refused_by.add(member)

    def let_in_by(self, member: MasterId) -> None:
        self._refused_by.discard(member)

    def _shut_out(self) -> bool:
        return bool(self._refused_by) and self._log.end.index <= FIRST_INDEX

    # --- whom it lets in --------------------------------------------------------------------------

    def check(self, member: MasterId, theirs: Position, *, applied: LogIndex) -> None:
        """`theirs`: where the newest configuration stands that `member` knows. Raises: Superseded."""
        settled = self.as_of(applied)
        if self.latest.find(member) is not None or settled.find(member) is not None:
            return
        if _order(theirs) > _order(settled.at):
            return
        raise Superseded(
            f"{member} is not, or no longer, one of the masters of this cluster: "
            f"{', '.join(one.id for one in self.latest.members)}",
            hint=f"Stop it; or empty its directory and let it in: 'gfs admin members add {member}'.",
            details={"master": member},
        )


def _order(position: Position) -> tuple[int, int]:
    return position.term, position.index
