"""What operators ask about a master's state as a whole: a backup of it, piece by piece; garbage held or not.

A backup is a checkpoint that stays open while it is read: it may be replaced by newer ones meanwhile. The
reader asks for one piece after another, so nothing piles up here.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Protocol

from gfs.clock import Clock
from gfs.disk import OpenFile
from gfs.errors import InvalidArgument, NoSpace, NotFound, Overloaded, Unavailable
from gfs.master.commit import Commits
from gfs.master.core.incarnation import read_incarnation
from gfs.master.core.records import STATE_FORMAT, Counters
from gfs.master.reads import Reads
from gfs.master.replication.checkpoints import CheckpointManifest
from gfs.master.replication.replicator import Replicator
from gfs.master.roster import Roster
from gfs.messages import operations
from gfs.messages.backup import (
    BackupOpened,
    BackupPiece,
    CloseBackup,
    GarbageStanding,
    HoldCollection,
    OpenBackup,
    ReadBackup,
)
from gfs.messages.base import Ack, Reply, Request
from gfs.settings import BACKUP_IDLE_SECONDS, BACKUP_PIECE_BYTES, BACKUPS_OPEN_MAX
from gfs.telemetry import logger
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import LogIndex

CHECKPOINT_TRIES = 4  # one may be under way that began before we were asked, or be replaced at once

_log = logger("master.backup")


class BackupStore(Protocol):
    """What is asked of the checkpoints (LmdbCheckpoints)."""

    def newest(self) -> CheckpointManifest | None: ...

    def kept(self) -> list[CheckpointManifest]:
        """All on disk, oldest first."""
        ...

    def open(self, manifest: CheckpointManifest) -> OpenFile:
        """Raises: NotFound when it has been replaced by newer ones; OSError."""
        ...

    def counts(self, manifest: CheckpointManifest) -> Counters | None: ...


@dataclass(slots=True)
class _Open:
    manifest: CheckpointManifest
    file: OpenFile
    used_at: float


class BackupService:
    """Answered by every master; by the leader unless a stale state will do."""

    def __init__(
        self,
        *,
        replicator: Replicator,
        commits: Commits,
        reads: Reads,
        store: BackupStore,
        clock: Clock,
        roster: Roster,
    ) -> None:
        self._replicator, self._commits, self._reads, self._store = replicator, commits, reads, store
        self._clock, self._roster = clock, roster
        self._open: dict[str, _Open] = {}

    def handlers(self) -> Handlers:
        return {
            OpenBackup: self.open,
            ReadBackup: self.read,
            CloseBackup: self.close,
            HoldCollection: self.hold_collection,
        }

    async def open(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader, NoQuorum; Overloaded (enough are open), NoSpace, Unavailable."""
        assert isinstance(request, OpenBackup)
        await self._reads.view(request.consistency, 0)
        self._close_idle()
        if len(self._open) >= BACKUPS_OPEN_MAX:
            raise Overloaded(
                f"{len(self._open)} backups of this master are being read already",
                hint=f"One that nobody reads is closed after {BACKUP_IDLE_SECONDS:.0f} s.",
            )
        manifest, file = await self._newest_at(self._reads.applied_index())
        counted = self._store.counts(manifest)
        session = secrets.token_hex(8)
        self._open[session] = _Open(manifest, file, self._clock.monotonic())
        _log.info("a backup is being read", index=manifest.index, bytes=manifest.length_bytes)
        me = self._roster.me
        return BackupOpened(
            session=session,
            master=me,
            control=self._roster.control(me),
            cluster=manifest.cluster,
            index=manifest.index,
            term=manifest.term,
            length_bytes=manifest.length_bytes,
            crc32c=manifest.crc32c,
            made_at_ms=manifest.made_at_ms,
            members=sorted(manifest.members),
            format=manifest.format,
            state_format=STATE_FORMAT,
            files=-1 if counted is None else counted.files,
            directories=-1 if counted is None else counted.directories,
            chunks=-1 if counted is None else counted.chunks,
        )

    async def read(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotFound when it is not open (any more), InvalidArgument, Unavailable."""
        assert isinstance(request, ReadBackup)
        found = self._open.get(request.session)
        if found is None:
            raise NotFound("this backup is not open here: it was left alone, or the master started anew")
        if request.offset < 0 or not 0 < request.length <= BACKUP_PIECE_BYTES:
            raise InvalidArgument(f"a piece has 1 to {BACKUP_PIECE_BYTES} bytes")
        found.used_at = self._clock.monotonic()
        loop = asyncio.get_running_loop()
        try:
            piece = await loop.run_in_executor(None, found.file.pread, request.length, request.offset)
        except OSError as error:
            raise Unavailable(f"the checkpoint cannot be read: {error.strerror}") from error
        return BackupPiece(piece=piece)

    async def close(self, request: Request, _context: CallContext) -> Reply:
        assert isinstance(request, CloseBackup)
        self._close(request.session)
        return Ack()

    async def hold_collection(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader, NoQuorum; Unavailable while chunks from before a restore are not settled."""
        assert isinstance(request, HoldCollection)
        self._commits.leading()
        tables = await self._reads.linearizable()
        if read_incarnation(tables).garbage_held != request.held:
            await self._commits.commit(operations.HoldGarbage(held=request.held))
            _log.warning("garbage is held" if request.held else "garbage is collected again")
        return GarbageStanding(held=request.held)

    def stop(self) -> None:
        for session in list(self._open):
            self._close(session)

    async def _newest_at(self, wanted: LogIndex) -> tuple[CheckpointManifest, OpenFile]:
        """A checkpoint with everything up to `wanted` in it, open."""
        for _ in range(CHECKPOINT_TRIES):
            newest = self._store.newest()
            if newest is None or newest.index < wanted:
                try:
                    await self._replicator.checkpoint()
                except OSError as error:
                    raise NoSpace(f"this master cannot write a checkpoint: {error.strerror}") from error
                newest = self._store.newest()
            if newest is not None and newest.index >= wanted:
                try:
                    return newest, self._store.open(newest)
                except NotFound:
                    continue
                except OSError as error:
                    raise Unavailable(f"the checkpoint cannot be read: {error.strerror}") from error
        raise Unavailable("no checkpoint could be made that is new enough; try again")

    def _close_idle(self) -> None:
        now = self._clock.monotonic()
        for session, found in list(self._open.items()):
            if now - found.used_at >= BACKUP_IDLE_SECONDS:
                self._close(session)

    def _close(self, session: str) -> None:
        found = self._open.pop(session, None)
        if found is not None:
            found.file.close()
