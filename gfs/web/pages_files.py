"""Pages about files: directories, one file with its chunks and first bytes, the trash."""

from __future__ import annotations

from gfs.errors import GfsError
from gfs.messages.chunks import ChunkPlace, FileChunks, FindChunks
from gfs.messages.namespace import EntriesReply, Entry, EntryReply, ListDirectory, Stat
from gfs.messages.policies import PolicyReply, ShowPolicy
from gfs.messages.trash import ListTrash, TrashEntry, TrashReply
from gfs.vocabulary import ChunkIndex
from gfs.web.asking import Asked, told
from gfs.web.limits import CHUNKS_PER_PAGE, ENTRIES_PER_PAGE
from gfs.web.page import Page, View
from gfs.web.preview import Preview, Previewer


class Files(View, frozen=True, kw_only=True):
    """A directory's `entries`, or a file's `chunks` and first bytes; `next_after` and `next_chunk` (-1: none)
    name the following page. `refused`: why a part is missing."""

    entry: Entry
    above: list[tuple[str, str]]  # name and path of each directory on the way
    entries: list[Entry]
    next_after: str
    chunks: list[ChunkPlace]
    next_chunk: int
    preview: Preview | None
    policy: PolicyReply | None
    refused: str


class Trash(View, frozen=True, kw_only=True):
    entries: list[TrashEntry]
    under: str
    next_after: str


def file_pages(previewer: Previewer) -> list[Page]:
    async def files(asked: Asked) -> Files:
        """Raises: NotFound, PermissionDenied …"""
        path = asked.text("path", "/") or "/"
        found = await asked.ask(Stat(path=path, consistency="stale"), EntryReply)
        if found.entry.kind == "directory":
            return await _directory(asked, found.entry)
        return await _file(asked, found.entry, previewer)

    return [
        Page("files", "Files", "files.html", files, menu="Files"),
        Page("trash", "Trash", "trash.html", _trash, menu="Trash"),
    ]


async def _directory(asked: Asked, entry: Entry) -> Files:
    listed, refused = EntriesReply(entries=[], next_after=""), ""
    try:
        listed = await asked.ask(
            ListDirectory(
                path=entry.path, after=asked.text("after"), limit=ENTRIES_PER_PAGE, consistency="stale"
            ),
            EntriesReply,
        )
    except GfsError as error:
        refused = told(error)
    return Files(
        entry=entry,
        above=_above(entry.path),
        entries=listed.entries,
        next_after=listed.next_after,
        chunks=[],
        next_chunk=-1,
        preview=None,
        policy=await _policy(asked, entry.path),
        refused=refused,
    )


async def _file(asked: Asked, entry: Entry, previewer: Previewer) -> Files:
    first, chunks, refused = asked.number("from"), list[ChunkPlace](), ""
    try:
        found = await asked.ask(
            FindChunks(
                path=entry.path,
                first_index=ChunkIndex(first),
                count=min(CHUNKS_PER_PAGE, max(0, entry.chunk_count - first)),
                consistency="stale",
            ),
            FileChunks,
        )
        chunks = found.chunks
    except GfsError as error:
        refused = told(error)
    following = first + len(chunks)
    return Files(
        entry=entry,
        above=_above(entry.path),
        entries=[],
        next_after="",
        chunks=chunks,
        next_chunk=following if chunks and following < entry.chunk_count else -1,
        preview=await previewer.first_bytes(chunks[0]) if chunks and first == 0 else None,
        policy=await _policy(asked, entry.path),
        refused=refused,
    )


async def _policy(asked: Asked, path: str) -> PolicyReply | None:
    try:
        return await asked.ask(ShowPolicy(path=path, consistency="stale"), PolicyReply)
    except GfsError:
        return None  # what the page is about may be there all the same


def _above(path: str) -> list[tuple[str, str]]:
    names = [name for name in path.split("/") if name]
    return [(name, "/" + "/".join(names[: depth + 1])) for depth, name in enumerate(names)]


async def _trash(asked: Asked) -> Trash:
    under = asked.text("under", "/") or "/"
    found = await asked.ask(
        ListTrash(under=under, after=asked.text("after"), limit=ENTRIES_PER_PAGE, consistency="stale"),
        TrashReply,
    )
    return Trash(entries=found.entries, under=under, next_after=found.next_after)
