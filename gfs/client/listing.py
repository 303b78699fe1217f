"""Names, chunks and the trash, page by page as the masters answer. What is in a file is reader's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from gfs.client.connections import Connections
from gfs.client.reader import Reader
from gfs.errors import GfsError
from gfs.messages.base import Consistency
from gfs.messages.chunks import ChunkPlace, FileChunks, FindChunks
from gfs.messages.namespace import EntriesReply, Entry, Glob, ListDirectory
from gfs.messages.trash import ListTrash, TrashEntry, TrashReply
from gfs.settings import FIND_CHUNKS_MAX
from gfs.vocabulary import ChunkIndex

Names = ListDirectory | Glob


async def entries_of(
    connections: Connections, path: str, consistency: Consistency | None
) -> AsyncIterator[Entry]:
    """As AsyncClient.list."""
    request = ListDirectory(path=path, consistency=consistency or connections.consistency)
    async for entry in _entries(connections, request, f"list {path}"):
        yield entry


async def entries_matching(
    connections: Connections, pattern: str, consistency: Consistency | None
) -> AsyncIterator[Entry]:
    """As AsyncClient.glob."""
    request = Glob(pattern=pattern, consistency=consistency or connections.consistency)
    async for entry in _entries(connections, request, f"glob {pattern}"):
        yield entry


async def _entries(connections: Connections, request: Names, what: str) -> AsyncIterator[Entry]:
    after = ""
    while True:
        seen = connections.masters.applied_index
        request = msgspec.structs.replace(request, after=after, min_applied_index=seen)
        page = await connections.ask(request, EntriesReply, what, request.consistency)
        for entry in page.entries:
            yield entry
        if not (after := page.next_after):
            return


async def trash_of(
    connections: Connections, under: str, consistency: Consistency | None
) -> AsyncIterator[TrashEntry]:
    """As AsyncClient.trash."""
    how, after = consistency or connections.consistency, ""
    while True:
        seen = connections.masters.applied_index
        request = ListTrash(under=under, after=after, consistency=how, min_applied_index=seen)
        page = await connections.ask(request, TrashReply, f"list the trash of {under}", how)
        for entry in page.entries:
            yield entry
        if not (after := page.next_after):
            return


async def all_chunks(
    connections: Connections, path: str, consistency: Consistency | None
) -> list[ChunkPlace]:
    """As AsyncClient.chunks."""
    how = consistency or connections.consistency
    places: list[ChunkPlace] = []
    first = 0
    while True:
        request = FindChunks(
            path=path,
            first_index=ChunkIndex(first),
            count=FIND_CHUNKS_MAX,
            consistency=how,
            min_applied_index=connections.masters.applied_index,
        )
        found = await connections.ask(request, FileChunks, f"chunks {path}", how)
        places += found.chunks
        first += FIND_CHUNKS_MAX
        if first >= found.entry.chunk_count:
            return places


async def with_exact_length(connections: Connections, entry: Entry, consistency: Consistency | None) -> Entry:
    """The entry with its length as the replicas have it, if they can be asked."""
    if entry.kind == "directory" or entry.length_exact:
        return entry
    if entry.chunk_count == 0:  # no byte can have been acknowledged
        return msgspec.structs.replace(entry, length_exact=True)
    # Places known from before may name a replica that was left out since, and is shorter.
    connections.places.forget(entry.path)
    reader = Reader(connections, entry.path, entry, consistency=consistency)
    try:
        length = await reader.exact_length(patient=False)
    except GfsError:
        return entry  # what the master knows is still worth having
    finally:
        await reader.close()
    return msgspec.structs.replace(entry, length_bytes=length, length_exact=True)
