"""Which peers are let in, and how one that was kept out comes back (see member_disks for why)."""

from __future__ import annotations

from gfs.errors import InvalidArgument, Superseded
from gfs.master.replication.configuration import Configuration
from gfs.master.replication.engine import Engine
from gfs.master.replication.group_commit import Readmission, encode_readmission
from gfs.master.replication.handshake import Introduction
from gfs.master.replication.log import FIRST_INDEX, Position
from gfs.master.replication.member_disks import MemberDisks
from gfs.master.replication.membership import Membership
from gfs.vocabulary import LogIndex, MasterId, Term


class Admission:
    def __init__(self, disks: MemberDisks, membership: Membership, engine: Engine) -> None:
        self._disks, self._membership, self._engine = disks, membership, engine
        self._kept_out: dict[MasterId, str] = {}  # the disks they came with

    def introduce(self, *, log_end: LogIndex) -> Introduction:
        disks, newest = self._disks, self._membership.latest.at
        known, configuration = disks.all(), (newest.term, newest.index)
        return Introduction(
            disks.mine,
            known,
            log_end,
            life=disks.life,
            starts=disks.starts,
            process=disks.process,
            configuration=configuration,
        )

    def check(self, member: MasterId, introduction: Introduction, *, is_connected: bool) -> None:
        """Raises: Superseded: the peer is no member, or does not vote from the disk it used to, or is a copy;
        or this master itself is one of these."""
        try:
            self._check(member, introduction, is_connected=is_connected)
        except Superseded as error:
            if error.details.get("master") != member:
                self.refused_by(member, introduction)
            raise

    def refused_by(self, member: MasterId, introduction: Introduction) -> None:
        """It does not let us in, or should not."""
        self._membership.refused_by(member, has_history=introduction.log_end > FIRST_INDEX)

    def _check(self, member: MasterId, introduction: Introduction, *, is_connected: bool) -> None:
        engine, membership = self._engine, self._membership
        self._disks.settle_life(member, introduction, has_log=engine.log.end.index > FIRST_INDEX)
        term, index = introduction.configuration
        membership.check(member, Position(LogIndex(index), Term(term)), applied=engine.applied_index)
        self._kept_out[member] = introduction.disk
        self._disks.check(member, introduction, voters=membership.latest.voters(), is_connected=is_connected)
        acknowledged = self._engine.match_index(member) if self._engine.is_leader else 0
        if introduction.log_end < acknowledged:
            raise Superseded(
                f"{member} came back with {introduction.log_end} entries but has acknowledged {acknowledged}",
                hint="Its disk loses synced bytes: replace it, then run "
                f"'gfs admin members readmit {member}'.",
                details={"master": member},
            )
        del self._kept_out[member]

    def configured(self, configuration: Configuration) -> None:
        """The entry is committed. Who is taken out may come back with another disk, but as a learner."""
        self._disks.replace(configuration.disks)
        self._disks.keep_only({member.id for member in configuration.members})

    def readmission(self, member: MasterId) -> bytes:
        """The log entry that lets a member in with the disk it has presented.

        Raises: InvalidArgument when no such member has been kept out here.
        """
        disk = self._kept_out.get(member)
        if disk is None:
            raise InvalidArgument(f"master {member} was not refused here, so there is nothing to readmit")
        return encode_readmission(member, disk)

    def readmitted(self, readmission: Readmission) -> None:
        """The entry is committed."""
        self._disks.replace({readmission.member: readmission.disk})
        self._kept_out.pop(readmission.member, None)
        self._engine.forget_match_index(readmission.member)
