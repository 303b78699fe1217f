"""The entries a log stands for, in order, without those that were overruled. Not what they do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from gfs.errors import CorruptState, GfsError, InvalidArgument, Unavailable
from gfs.inspect.oplog_segments import Fault, LogWalk, log_directory
from gfs.master.checkpoint_directory import checkpoint_name, decode_manifest
from gfs.master.replication.checkpoints import CheckpointManifest
from gfs.master.replication.log_format import Kind
from gfs.master.replication.member_disks import IDENTITY_FILE
from gfs.master.replication.recovery import LOG_DIRECTORY
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term

CHECKPOINT_DIRECTORY = "checkpoints"
_MANIFEST_SUFFIX = ".manifest"


class LogEntry(NamedTuple):
    # The tuple method this hides is never called.
    index: LogIndex  # type: ignore[assignment]
    term: Term
    payload: bytes


class _Cut(NamedTuple):
    """From here on (segment, byte) entries after `kept` that were written before do not count."""

    segment: int
    byte: int
    kept: int


class EntryReader:
    """The surviving entries of one log: what a master that starts from it would have.

    The log does not say how far it is committed: its last entries may still be overruled by another leader.
    """

    def __init__(self, directory: str) -> None:
        """Go through the log once, to learn which entries were dropped later.

        Raises: CorruptState when it is damaged; NotFound, InvalidArgument.
        """
        self._directory = directory
        self._cuts: list[_Cut] = []
        self._read_to = (0, 0)  # a master may go on writing; what it adds from here on is not looked at
        self.base = (LogIndex(0), Term(0))  # of the entry the log continues after
        self.last = LogIndex(0)
        walk = LogWalk(directory)
        for placed in walk.records():
            record = placed.record
            if record.kind is Kind.START and self.base[0] == 0:
                self.base = record.index, record.term
                self.last = record.index
            elif record.kind is Kind.ENTRY:
                if record.index != self.last + 1:
                    _require_sound(walk.faults)
                    raise CorruptState(
                        f"the log in {directory} goes on with entry {record.index} behind entry {self.last}",
                        hint="'gfs oplog verify' tells what is missing. Take the log of another master.",
                    )
                self.last = record.index
            elif record.kind in (Kind.TRUNCATE, Kind.RESET):
                if record.kind is Kind.RESET or record.index < self.base[0]:
                    self.base = record.index, record.term
                kept = record.index if record.kind is Kind.TRUNCATE else 0
                self._cuts.append(_Cut(placed.segment, placed.byte, kept))
                self.last = record.index
            self._read_to = placed.segment, placed.byte
        _require_sound(walk.faults)

    def entries(self, *, after: int) -> Iterator[LogEntry]:
        """Entries from `after` + 1 on, consecutive; that one itself comes first when the log has it.

        Raises: CorruptState; Unavailable when the master has dropped what was needed meanwhile.
        """
        limits = self._limits()
        expected: int | None = None
        cut = 0
        for placed in LogWalk(self._directory).records():
            position = (placed.segment, placed.byte)
            if position > self._read_to:
                return
            while cut < len(self._cuts) and self._cuts[cut][:2] <= position:
                cut += 1
            record = placed.record
            if record.kind is not Kind.ENTRY or record.index < after or record.index > limits[cut]:
                continue
            if expected is not None and record.index != expected:
                raise Unavailable(
                    f"entry {expected} has gone from the log in {self._directory} while it was read",
                    hint="A running master has dropped old segments. Try again.",
                )
            expected = record.index + 1
            yield LogEntry(record.index, record.term, record.payload)

    def _limits(self) -> list[int]:
        """For each number of cuts passed, the highest index that none of the later ones drops."""
        limits = [2**64]
        for cut in reversed(self._cuts):
            limits.append(min(limits[-1], cut.kept))
        return limits[::-1]


def _require_sound(faults: list[Fault]) -> None:
    for fault in faults:
        if fault.is_damage:
            raise CorruptState(
                f"{fault.segment}: {fault.what}",
                hint="'gfs oplog verify' tells all that is wrong. Take the log of another master.",
                details={"file": fault.segment, "byte": str(fault.byte)},
            )


class KeptCheckpoint(NamedTuple):
    path: str
    manifest: CheckpointManifest


def kept_checkpoints(directory: str) -> list[KeptCheckpoint]:
    """Checkpoints of the master whose directory or log this is, oldest first; their bytes are not read.

    What has no readable manifest is none.
    """
    place = os.path.join(master_directory(directory), CHECKPOINT_DIRECTORY)
    found: list[KeptCheckpoint] = []
    for name in os.listdir(place) if os.path.isdir(place) else ():
        if not name.endswith(_MANIFEST_SUFFIX):
            continue
        try:
            with open(os.path.join(place, name), "rb") as opened:
                manifest = decode_manifest(opened.read())
        except (GfsError, OSError):
            continue
        stem = name.removesuffix(_MANIFEST_SUFFIX)
        if checkpoint_name(manifest) == stem:
            found.append(KeptCheckpoint(os.path.join(place, f"{stem}.lmdb"), manifest))
    return sorted(found, key=lambda file: (file.manifest.index, file.manifest.term))


def master_directory(directory: str) -> str:
    log = os.path.normpath(log_directory(directory))
    return os.path.dirname(log) if os.path.basename(log) == LOG_DIRECTORY else log


class LogIdentity(msgspec.Struct, frozen=True):
    """What the log's directory says of itself (see master/replication/member_disks)."""

    cluster: ClusterId
    member: MasterId
    disk: str
    known: dict[MasterId, str]

    @property
    def members(self) -> dict[MasterId, str]:
        return dict(sorted((self.known | {self.member: self.disk}).items()))


def read_identity(directory: str) -> LogIdentity:
    """Raises: InvalidArgument when the log does not say whose it is."""
    path = os.path.join(log_directory(directory), IDENTITY_FILE)
    try:
        with open(path, "rb") as opened:
            return msgspec.json.decode(opened.read(), type=LogIdentity)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidArgument(
            f"{path} does not say whose log this is: {error}",
            hint="A log that begins before any checkpoint needs it, for the checkpoint to be made.",
        ) from error
