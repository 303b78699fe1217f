"""Entries of a listing as other software is told of them: what is published, at its exact length."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gfs.client.client import AsyncClient
from gfs.client.publishing import TEMPORARY_MARK
from gfs.errors import GfsError
from gfs.messages.namespace import Entry


async def published(client: AsyncClient, entries: Iterable[Entry]) -> list[Entry]:
    """Without the hidden names of files that are being written.

    Lengths that the master cannot know are asked of the replicas, all together. One whose end cannot be had,
    or that is gone by now, stays as it was listed.
    """

    async def exact(entry: Entry) -> Entry:
        if entry.kind == "directory" or entry.length_exact:
            return entry
        try:
            return await client.stat(entry.path)
        except GfsError:
            return entry

    shown = [entry for entry in entries if TEMPORARY_MARK not in entry.path.rpartition("/")[2]]
    return list(await asyncio.gather(*map(exact, shown)))
