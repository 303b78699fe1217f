"""A master's state as it is now, piece by piece, with its checksum compared; and garbage, held or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TypeVar

from crc32c import crc32c

from gfs.client.connections import Connections
from gfs.errors import ChecksumMismatch, GfsError
from gfs.messages.backup import (
    BackupOpened,
    BackupPiece,
    CloseBackup,
    GarbageStanding,
    HoldCollection,
    OpenBackup,
    ReadBackup,
)
from gfs.messages.base import Ack, Consistency, Reply, Request
from gfs.settings import BACKUP_PIECE_BYTES

R = TypeVar("R", bound=Reply)


class Backups:
    """The calls of 'gfs backup create' and 'gfs admin gc'."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._masters = connections.masters

    async def open(self, consistency: Consistency = "linearizable") -> BackupOpened:
        """Have a checkpoint made that holds all that was acknowledged before, and keep it open.

        Raises: Overloaded, NoSpace; as a read of this consistency.
        """
        return await self._connections.ask(
            OpenBackup(consistency=consistency), BackupOpened, "open a backup", consistency
        )

    async def pieces(self, opened: BackupOpened) -> AsyncIterator[bytes]:
        """Its bytes; the next piece is on its way while the caller deals with one. Closes it at the end.

        Raises: ChecksumMismatch at the end if they are not what was promised; NotFound, ConnectionLost …
            when the master went away: then a new one has to be opened.
        """
        offset = checksum = 0
        following = asyncio.ensure_future(self._read(opened, 0))
        try:
            while offset < opened.length_bytes:
                piece = await following
                if not piece:
                    break
                checksum = crc32c(piece, checksum)
                offset += len(piece)
                if offset < opened.length_bytes:
                    following = asyncio.ensure_future(self._read(opened, offset))
                yield piece
            if (offset, checksum) != (opened.length_bytes, opened.crc32c):
                raise ChecksumMismatch(
                    f"the checkpoint at {opened.master} is damaged: {offset} bytes with checksum "
                    f"{checksum:08x} came, {opened.length_bytes} with {opened.crc32c:08x} were promised",
                    hint="Nothing was kept. Try again: the next checkpoint is made anew.",
                )
        finally:
            following.cancel()
            await self.close(opened)

    async def close(self, opened: BackupOpened) -> None:
        with suppress(GfsError):  # it is closed by itself if we do not come through
            await self._call(opened, CloseBackup(session=opened.session), Ack)

    async def hold_garbage(self, held: bool) -> bool:
        """Hold or resume the collection of garbage and of what was deleted; returns what holds now.

        Raises: Unavailable while chunk servers are awaited after a restore.
        """
        what = "hold garbage" if held else "go on collecting garbage"
        request = HoldCollection(held=held)
        return (await self._masters.ask_leader(request, GarbageStanding, what, effects=True)).held

    async def _read(self, opened: BackupOpened, offset: int) -> bytes:
        length = min(BACKUP_PIECE_BYTES, opened.length_bytes - offset)
        if length <= 0:
            return b""
        request = ReadBackup(session=opened.session, offset=offset, length=length)
        return (await self._call(opened, request, BackupPiece)).piece

    async def _call(self, opened: BackupOpened, request: Request, expected: type[R]) -> R:
        return await self._connections.caller.call(
            opened.control, request, expected, deadline_seconds=self._connections.settings.data_seconds
        )
