"""Operators to a master: a checkpoint of its state, piece by piece; and whether garbage is collected."""

from __future__ import annotations

from typing import ClassVar

from gfs.messages.base import Ack, Consistency, Reply, Request
from gfs.vocabulary import Address, ClusterId, LogIndex, MasterId, Term


class BackupOpened(Reply, tag="backup_opened", frozen=True, kw_only=True):
    """A checkpoint that `master`, at `control`, keeps open under `session` until it is closed or left alone.

    The counts are of this checkpoint; -1 when this master does not know them.
    """

    session: str
    master: MasterId
    control: Address
    cluster: ClusterId
    index: LogIndex
    term: Term
    length_bytes: int
    crc32c: int
    made_at_ms: int
    members: list[MasterId]
    format: int
    state_format: int
    files: int = -1
    directories: int = -1
    chunks: int = -1


class OpenBackup(Request, tag="open_backup", frozen=True, kw_only=True):
    """Make a checkpoint that has all that was acknowledged before this was asked, and keep it open.

    `consistency` stale: of whatever this master has, also without a quorum.
    """

    reply: ClassVar[type[Reply]] = BackupOpened
    consistency: Consistency = "linearizable"


class BackupPiece(Reply, tag="backup_piece", frozen=True, kw_only=True):
    piece: bytes


class ReadBackup(Request, tag="read_backup", frozen=True, kw_only=True):
    """Some bytes of an open backup; fewer than asked for only at its end."""

    reply: ClassVar[type[Reply]] = BackupPiece
    session: str
    offset: int
    length: int


class CloseBackup(Request, tag="close_backup", frozen=True, kw_only=True):
    """Harmless for one that is not open."""

    reply: ClassVar[type[Reply]] = Ack
    session: str


class GarbageStanding(Reply, tag="garbage_standing", frozen=True, kw_only=True):
    held: bool


class HoldCollection(Request, tag="hold_collection", frozen=True, kw_only=True):
    """Collect no garbage and reclaim nothing that was deleted, until it is said otherwise; or go on."""

    reply: ClassVar[type[Reply]] = GarbageStanding
    held: bool
