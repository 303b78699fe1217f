"""Which disk each member votes from, so that a wiped one cannot vote again under its old name.

A Raft voter that forgets what it acknowledged can help elect a leader that lacks committed entries. So every
log gets a random identity when it is created, and every master keeps, in a file beside its log, the identity
it has met each member with, spread by hearsay with every handshake. Who comes back with another is refused
until an operator readmits it through the log (RaftNode.readmit): once that entry is committed, a majority of
the others has everything the wiped disk may have acknowledged, and no candidate without it can win.

A copied disk would be two voters with one name. So each disk counts the processes that have started on it,
and each process has a random name: of two with the same count, or while one is connected, only the one that
came first is let in, and none that counts less than one seen before. What this cannot tell from a restart: a
copy of a running master's disk that is started once the original is dead.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Collection, Mapping, Sequence

import msgspec

from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import CorruptState, NoSpace, Superseded, UnsupportedVersion, WrongCluster
from gfs.master.replication.configuration import ConfiguredMember, configured, members_of
from gfs.master.replication.handshake import Introduction
from gfs.master.replication.log import FIRST_INDEX
from gfs.master.replication.replicator import Member
from gfs.telemetry import logger
from gfs.vocabulary import Address, ClusterId, MasterId

IDENTITY_FILE = "identity.json"
_FORMAT = 1


class _Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`life`: which life of the cluster this log is of, see core/incarnation; empty for the first."""

    format: int
    cluster: ClusterId
    member: MasterId
    disk: str
    known: dict[MasterId, str]
    life: str = ""
    starts: int = 0
    founders: tuple[ConfiguredMember, ...] = ()  # as the settings named them at the first start


class _Format(msgspec.Struct):
    format: int


class MemberDisks:
    def __init__(
        self,
        directory: str,
        disk: Disk,
        *,
        me: MasterId,
        cluster: ClusterId,
        founders: Sequence[Member] = (),
        has_history: bool,
    ) -> None:
        """Read the identity of the log in `directory`, or make one for a master that has none yet.

        Args:
            founders: by the settings. Who they are is asked only once; later settings tell only addresses.
            has_history: a checkpoint or state exists, so the log must have existed too.
        Raises: WrongCluster; UnsupportedVersion; CorruptState when the log's directory was lost but the rest
            was not.
        """
        self._path, self._disk, self._me, self._cluster = f"{directory}/{IDENTITY_FILE}", disk, me, cluster
        self.process = secrets.token_hex(8)
        self._seen: dict[MasterId, tuple[int, str]] = {}  # the last process of each peer
        self._founders = configured(founders)
        disk.make_directory(directory)
        if disk.exists(self._path):
            self._load()
            self._count_start()
            return
        if has_history or any(name != IDENTITY_FILE + ".tmp" for name in disk.listdir(directory)):
            raise CorruptState(
                f"{self._path} is missing although this master has been in use: its log was lost",
                hint="Empty the whole directory and readmit this master: 'gfs admin members readmit'.",
            )
        self.mine = secrets.token_hex(16)
        self.known: dict[MasterId, str] = {}
        self.life = ""
        self.starts = 1
        self._save()

    @property
    def founders(self) -> tuple[Member, ...]:
        return members_of(self._founders)

    def settle_life(self, member: MasterId, introduction: Introduction, *, has_log: bool) -> None:
        """See that a peer is of the same life of the cluster. A master without a log joins that of its peer;
        one with a log of another life has a history that never happened in this one.

        Raises: Superseded, and no readmission helps; NoSpace.
        """
        theirs, theirs_is_empty = introduction.life, introduction.log_end <= FIRST_INDEX
        if theirs == self.life or (theirs_is_empty and not theirs):
            return
        if not has_log and not self.life:
            self.life = theirs
            try:
                self._save()
            except OSError as error:
                self.life = ""
                raise NoSpace(f"{self._path} cannot be written: {error.strerror}") from error
            return
        older = self._me if _began(self.life) < _began(theirs) else member
        raise Superseded(
            f"{older} has a log from before the cluster's state was put back, which is of no use any more",
            hint=f"Stop {older}, move its directory aside, start it with an empty one, and let it in with "
            f"'gfs admin members readmit {older}'.",
            details={"master": older},
        )

    def check(
        self,
        member: MasterId,
        introduction: Introduction,
        *,
        voters: Collection[MasterId],
        is_connected: bool = False,
    ) -> None:
        """Compare what a peer says of itself and of us with what is known, and remember what is new.

        Args:
            voters: of whom hearsay counts. Who was taken out may come back with a new disk, as a learner.
            is_connected: another connection of this peer is alive.
        Raises: Superseded: the peer, or this master itself, has lost its disk, or is a copy. NoSpace.
        """
        known = self.known.get(member)
        if known is not None and known != introduction.disk:
            raise Superseded(
                f"{member} has come back with another disk; what it acknowledged before is gone",
                hint=_readmit_hint(member),
                details={"master": member},
            )
        expected = introduction.known.get(self._me, self.mine)
        if expected != self.mine:
            raise Superseded(
                f"{member} knows {self._me} with another disk: this one was wiped or replaced",
                hint=_readmit_hint(self._me),
                details={"master": self._me},
            )
        self._demand_one_process(member, introduction, is_connected)
        heard = {m: d for m, d in introduction.known.items() if m in voters}
        self._note(heard | {member: introduction.disk})
        self._seen[member] = (introduction.starts, introduction.process)

    def _demand_one_process(self, member: MasterId, introduction: Introduction, is_connected: bool) -> None:
        theirs = (introduction.starts, introduction.process)
        seen = self._seen.get(member, theirs)
        if theirs == seen or (theirs[0] > seen[0] and not is_connected):
            return
        raise Superseded(
            f"two processes say that they are {member}, from one disk or copies of it; one was here first",
            hint=f"Find the copy and stop it. If {member} has just been restarted, this ends by itself.",
            details={"master": member},
        )

    def _note(self, disks: dict[MasterId, str]) -> None:
        """Remember members that were not known before; who cannot be remembered is not let in."""
        new = {m: d for m, d in disks.items() if m not in self.known and m != self._me}
        if not new:
            return
        before, self.known = self.known, self.known | new
        try:
            self._save()
        except OSError as error:
            self.known = before
            raise NoSpace(f"{self._path} cannot be written: {error.strerror}") from error

    def replace(self, disks: Mapping[MasterId, str]) -> None:
        """From the log or a checkpoint, where it is decided: these are the disks from now on."""
        changed = {m: d for m, d in disks.items() if m != self._me and self.known.get(m) != d}
        if changed:
            for member in changed:
                self._seen.pop(member, None)
            self.known = self.known | changed
            self._save()

    def keep_only(self, members: Collection[MasterId]) -> None:
        """Who was taken out may come back as a new member, with another disk."""
        kept = {m: d for m, d in self.known.items() if m in members}
        self._seen = {m: process for m, process in self._seen.items() if m in members}
        if kept != self.known:
            self.known = kept
            self._save()

    def all(self) -> dict[MasterId, str]:
        return dict(sorted((self.known | {self._me: self.mine}).items()))

    def _load(self) -> None:
        content = read_whole_file(self._disk, self._path)
        try:
            found = msgspec.json.decode(content, type=_Format).format  # first: a later one has other fields
            if found > _FORMAT:
                raise UnsupportedVersion(
                    f"{self._path} has format {found}; this program reads format {_FORMAT}",
                    hint="A newer gfs wrote it. Start that one, or upgrade this one.",
                )
            identity = msgspec.json.decode(content, type=_Identity)
        except msgspec.DecodeError as error:
            raise CorruptState(f"{self._path} does not decode: {error}") from error
        if identity.cluster != self._cluster:
            raise WrongCluster(f"{self._path} belongs to cluster {identity.cluster!r}, not {self._cluster!r}")
        if identity.member != self._me:
            raise WrongCluster(
                f"{self._path} is the log of master {identity.member!r}, not of {self._me!r}",
                hint=swapped_hint(self._me, identity.member),
            )
        self.mine, self.known, self.life = identity.disk, identity.known, identity.life
        self.starts = identity.starts + 1
        self._founders = _settle_founders(self._me, identity.founders, self._founders)

    def _count_start(self) -> None:
        try:
            self._save()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            logger("raft").warning("start_not_counted", reason=error.strerror)

    def _save(self) -> None:
        identity = _Identity(
            _FORMAT,
            self._cluster,
            self._me,
            self.mine,
            self.known,
            life=self.life,
            starts=self.starts,
            founders=self._founders,
        )
        write_file_durably(self._disk, self._path, msgspec.json.encode(identity))
        logger("raft").info("member_disks_noted", known=sorted(self.known))


def found_identity(
    directory: str,
    disk: Disk,
    *,
    me: MasterId,
    cluster: ClusterId,
    disks: dict[MasterId, str],
    life: str,
) -> None:
    """Write the identity of a log that begins a life of the cluster. `disks`: of all its masters: each knows
    the others from the start, so that none of an earlier life can take the place of one of them."""
    disk.make_directory(directory)
    others = {member: found for member, found in disks.items() if member != me}
    no_address = Address("")  # settings tell these
    founders = tuple(ConfiguredMember(member, no_address, no_address, voter=True) for member in sorted(disks))
    identity = _Identity(_FORMAT, cluster, me, disks[me], others, life=life, founders=founders)
    write_file_durably(disk, f"{directory}/{IDENTITY_FILE}", msgspec.json.encode(identity))


def _began(life: str) -> int:
    """When a life began; its name starts with that."""
    number = life.partition("-")[0]
    return int(number) if number.isdigit() else 0


def _settle_founders(
    me: MasterId, noted: tuple[ConfiguredMember, ...], settings: tuple[ConfiguredMember, ...]
) -> tuple[ConfiguredMember, ...]:
    """Those of the first start, at the addresses that the settings give them now."""
    called = {member.id for member in settings if member.voter}
    founders = {member.id for member in noted if member.voter}
    if not noted:
        founders = called
    elif me not in founders:  # whom to learn from: nothing else hangs on it
        founders = called - {me}
    if added := called - founders - {me}:
        logger("raft").warning(
            "masters_not_in_the_cluster",
            masters=sorted(added),
            hint="Settings do not make a master a member: 'gfs admin members add' does.",
        )
    known = {member.id: member for member in (*noted, *settings)}
    return tuple(msgspec.structs.replace(known[name], voter=name in founders) for name in sorted(known))


def swapped_hint(mine: MasterId, found: MasterId) -> str:
    """What to look at when a master finds another one's directory."""
    return (
        f"Are the directories of {mine} and {found} swapped? Compare 'directory' in [masters.{mine}] and "
        f"[masters.{found}] of gfs.toml; each master must keep the one it began with."
    )


def _readmit_hint(member: MasterId) -> str:
    return f"Run 'gfs admin members readmit {member}' while all other masters are up."
