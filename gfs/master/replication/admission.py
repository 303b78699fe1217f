"""Which peers are let in, and how one that was kept out comes back (see member_disks for why)."""

from __future__ import annotations

from gfs.errors import InvalidArgument, Superseded
from gfs.master.replication.engine import Engine
from gfs.master.replication.group_commit import Readmission, encode_readmission
from gfs.master.replication.handshake import Introduction
from gfs.master.replication.log import FIRST_INDEX
from gfs.master.replication.member_disks import MemberDisks
from gfs.vocabulary import MasterId


class Admission:
    def __init__(self, disks: MemberDisks, engine: Engine) -> None:
        self._disks, self._engine = disks, engine
        self._kept_out: dict[MasterId, str] = {}  # the disks they came with

    def check(self, member: MasterId, introduction: Introduction) -> None:
        """Raises: Superseded: the peer, or this master itself, does not vote from the disk it used to."""
        self._disks.settle_life(member, introduction, has_log=self._engine.log.end.index > FIRST_INDEX)
        self._kept_out[member] = introduction.disk
        self._disks.check(member, introduction)
        acknowledged = self._engine.match_index(member) if self._engine.is_leader else 0
        if introduction.log_end < acknowledged:
            raise Superseded(
                f"{member} came back with {introduction.log_end} entries but has acknowledged {acknowledged}",
                hint="Its disk loses synced bytes: replace it, then run "
                f"'gfs admin members readmit {member}'.",
                details={"master": member},
            )
        del self._kept_out[member]

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
