"""ListObjects over a tree: keys in S3's order, common prefixes, pages. Async only where the tree is read.

S3 has no directories: a key is a path below the bucket, and an empty directory is the key `path/`. S3 sorts
whole keys by their bytes, and so a directory `a` stands where `a/` stands: behind `a-b` and `a.c`, although
its name is before theirs.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from gfs.messages.namespace import Entry

KEYS_MAX = 1000

Lister = Callable[[str], AsyncIterator[Entry]]


class Page(NamedTuple):
    objects: list[tuple[str, Entry]]  # key and file, or an empty directory, whose key ends in a slash
    prefixes: list[str]
    next_after: str  # "" when this is the last page: else all after it comes next


async def list_page(
    entries: Lister, bucket: str, *, prefix: str, delimiter: str, after: str, keys_max: int
) -> Page:
    """One page of the keys behind `after`. `delimiter`: "" or "/"."""
    page = Page([], [], "")
    last = ""
    async for key, entry in _walk(entries, bucket, prefix, after, stop_at_delimiter=delimiter == "/"):
        if key <= after or not key.startswith(prefix):
            continue
        if len(page.objects) + len(page.prefixes) == keys_max:
            return page._replace(next_after=last)
        if entry is None:
            page.prefixes.append(key)
        else:
            page.objects.append((key, entry))
        last = key
    return page


async def _walk(
    entries: Lister, bucket: str, prefix: str, after: str, *, stop_at_delimiter: bool
) -> AsyncIterator[tuple[str, Entry | None]]:
    """Keys in order that may begin with `prefix` and come behind `after`; None: a common prefix."""
    folder = prefix.rpartition("/")[0]
    top = f"{bucket}/{folder}" if folder else bucket
    start = f"{folder}/" if folder else ""
    async for found in _below(entries, top, start, prefix, after, stop_at_delimiter):
        yield found


async def _below(
    entries: Lister, directory: str, start: str, prefix: str, after: str, stop_at_delimiter: bool
) -> AsyncIterator[tuple[str, Entry | None]]:
    async for entry in _in_key_order(entries(directory)):
        key = start + entry.path.rpartition("/")[2]
        if entry.kind == "file":
            yield key, entry
            continue
        key += "/"
        if not key.startswith(prefix) and not prefix.startswith(key):
            continue
        if stop_at_delimiter and len(key) > len(prefix):
            yield key, None
        elif not _is_past(key, after):
            any_below = False
            async for found in _below(entries, entry.path, key, prefix, after, stop_at_delimiter):
                any_below = True
                yield found
            if not any_below:
                yield key, entry


def _is_past(key: str, after: str) -> bool:
    """Whether all keys that begin with the directory `key` come before `after`."""
    return after > key and not after.startswith(key)


async def _in_key_order(entries: AsyncIterator[Entry]) -> AsyncIterator[Entry]:
    """Entries sorted by name, in the order of their keys: a directory waits for what sorts before `/`."""
    held: list[tuple[bytes, int, Entry]] = []
    number = 0
    async for entry in entries:
        name = entry.path.rpartition("/")[2].encode()
        key = name + b"/" if entry.kind == "directory" else name
        while held and held[0][0] < name:
            yield heapq.heappop(held)[2]
        if entry.kind == "directory":
            heapq.heappush(held, (key, number := number + 1, entry))
        else:
            yield entry
    while held:
        yield heapq.heappop(held)[2]
