"""Taking a backup: from a master, piece by piece, into a place; begun anew when the master goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Protocol

from gfs.backups import catalogue
from gfs.backups.manifest import BackupManifest, manifest_of
from gfs.backups.places import Place
from gfs.errors import ConnectionLost, DeadlineExceeded, GfsError, NotFound, Unavailable
from gfs.messages.backup import BackupOpened
from gfs.messages.base import Consistency

TRIES = 3  # a master may go away while it is read


class Source(Protocol):
    """What is asked of a client (gfs.client.backups.Backups)."""

    async def open(self, consistency: Consistency) -> BackupOpened: ...

    def pieces(self, opened: BackupOpened) -> AsyncIterator[bytes]: ...


async def take(
    source: Source,
    place: Place,
    *,
    consistency: Consistency,
    now_ms: Callable[[], int],
    say: Callable[[str], None],
) -> BackupManifest:
    """Take one backup. What was begun and cannot be finished is withdrawn.

    Args:
        say: told of a try that failed and is followed by another.
    Raises: as Backups.open and Backups.pieces; Unavailable or OSError when the place cannot be written.
    """
    for left in reversed(range(TRIES)):
        try:
            return await _once(source, place, consistency, now_ms())
        except (Unavailable, NotFound, ConnectionLost, DeadlineExceeded) as error:
            if not left:
                raise
            say(f"{error.message}; trying again")
    raise AssertionError("unreachable")


async def _once(source: Source, place: Place, consistency: Consistency, taken_at_ms: int) -> BackupManifest:
    opened = await source.open(consistency)
    manifest = manifest_of(opened, taken_at_ms=taken_at_ms)
    writing = await asyncio.to_thread(catalogue.begin, place, manifest)
    try:
        async for piece in source.pieces(opened):
            # The next piece is on its way meanwhile, and no more: a slow place slows the reading down.
            await asyncio.to_thread(writing.write, piece)
        await asyncio.to_thread(writing.publish)
        await asyncio.to_thread(catalogue.publish, place, manifest)
    except BaseException:
        writing.give_up()
        with suppress(GfsError, OSError):  # then it is listed as incomplete
            catalogue.withdraw(place, manifest)
        raise
    return manifest
