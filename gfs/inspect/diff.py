"""What differs between two checkpoints: by path, walking both trees at once, and by chunk.

A directory in both is compared entry by entry, in batches: where all entries and inodes of a batch are equal,
nothing more is looked at but the directories among them. What has moved is told once, where it was and where
it is, and compared there by its inode. The tree below the trash is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from gfs.errors import CorruptState
from gfs.inspect.asking import ask_both
from gfs.inspect.checkpoint_files import CheckpointFile
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.relations import server_names
from gfs.inspect.tree_walk import DEPTH_MAX, walk
from gfs.master.core.owners import owner_and_group
from gfs.master.core.records import (
    TRASH_INODE,
    InodeRecord,
    decode_chunk,
    decode_inode,
    file_chunk_key,
    id_key,
    inode_share,
    read_id,
)
from gfs.master.core.soundness import batches
from gfs.master.core.tables import Table
from gfs.vocabulary import ROOT_INODE

Change = Literal["added", "removed", "deleted", "moved away", "moved here", "changed"]
_Entries = list[tuple[bytes, int, bool]]  # name, inode, whether it is a directory


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Of a path or of a chunk. `fields`: what it was and what it is, as text, by name.

    `deleted`: it lies in the trash now. The `inode` of what moved tells where from and where to.
    """

    change: Change
    path: str = ""
    inode: int = 0
    handle: int = 0
    fields: dict[str, tuple[str, str]] = msgspec.field(default_factory=dict)


def diff_paths(first: CheckpointFile, second: CheckpointFile) -> Iterator[Difference]:
    """Raises: as ask()."""
    frames = ask_both(first, second, lambda old, new: map(_encode, _Trees(old, new).compare()))
    return map(_decode, frames)


def diff_chunks(first: CheckpointFile, second: CheckpointFile) -> Iterator[Difference]:
    """Raises: as ask()."""
    return map(_decode, ask_both(first, second, lambda old, new: map(_encode, _chunks(old, new))))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Difference).decode


class _Trees:
    def __init__(self, old: CheckpointTables, new: CheckpointTables) -> None:
        self._old, self._new = old, new

    def compare(self) -> Iterator[Difference]:
        """From the root down; a directory waits until what is before it in its own directory is done."""
        ways = [self._directory(ROOT_INODE, "/")]
        while ways:
            for found in ways[-1]:
                if isinstance(found, Difference):
                    yield found
                    continue
                if len(ways) > DEPTH_MAX:
                    raise CorruptState(f"{found[1][:200]}… lies too deep: a directory holds itself")
                ways.append(self._directory(*found))
                break
            else:
                ways.pop()

    def _directory(self, inode: int, path: str) -> Iterator[Difference | tuple[int, str]]:
        """Differences, and directories in both that are to be compared next."""
        prefix = path.rstrip("/") + "/"
        for old, new in _in_step(_batches(self._old, inode), _batches(self._new, inode)):
            if old == new:
                yield from self._same_entries(old, prefix)
                continue
            before = {entry[0]: entry for entry in old}
            after = {entry[0]: entry for entry in new}
            same: _Entries = []  # a run of them: one look at their inodes for all
            for name in sorted({*before, *after}):
                if before.get(name) == after.get(name):
                    same.append(before[name])
                    continue
                yield from self._same_entries(same, prefix)
                same = []
                if name in before:
                    yield from self._gone(before[name], prefix)
                if name in after:
                    yield from self._come(after[name], prefix)
            yield from self._same_entries(same, prefix)

    def _same_entries(self, entries: _Entries, prefix: str) -> Iterator[Difference | tuple[int, str]]:
        if not entries:
            return
        keys = [id_key(inode) for _, inode, _ in entries]
        old = self._old.get_many(Table.INODES, keys)
        new = self._new.get_many(Table.INODES, keys)
        if old != new:
            for (name, inode, _), was, now in zip(entries, old, new, strict=True):
                if was != now:
                    yield from self._changed(inode, prefix + _text(name), was, now)
        for name, inode, is_directory in entries:
            if is_directory:
                yield inode, prefix + _text(name)

    def _changed(self, inode: int, path: str, was: bytes | None, now: bytes | None) -> Iterator[Difference]:
        if was is None or now is None:
            raise CorruptState(f"{path} names inode {inode}, which is missing")
        old, new = decode_inode(was), decode_inode(now)
        fields = _fields(_described(self._old, inode, old), _described(self._new, inode, new))
        if fields:
            yield Difference(change="changed", path=path, inode=inode, fields=fields)

    def _gone(self, entry: tuple[bytes, int, bool], prefix: str) -> Iterator[Difference]:
        name, inode, _ = entry
        path = prefix + _text(name)
        row = self._new.get(Table.INODES, id_key(inode))
        if row is not None:
            deleted = inode_share(row)[1] == TRASH_INODE
            yield Difference(change="deleted" if deleted else "moved away", path=path, inode=inode)
            return
        for place in walk(self._old, top=inode, path=path):
            yield Difference(change="removed", path=place.path, inode=place.inode)

    def _come(self, entry: tuple[bytes, int, bool], prefix: str) -> Iterator[Difference | tuple[int, str]]:
        name, inode, is_directory = entry
        path = prefix + _text(name)
        was = self._old.get(Table.INODES, id_key(inode))
        if was is not None:
            yield Difference(change="moved here", path=path, inode=inode)
            yield from self._changed(inode, path, was, self._new.get(Table.INODES, id_key(inode)))
            if is_directory:
                yield inode, path
            return
        # What is in a new directory is new, or has moved into it.
        yield Difference(change="added", path=path, inode=inode)
        if is_directory:
            yield inode, path


def _batches(tables: CheckpointTables, directory: int) -> Iterator[_Entries]:
    for batch in batches(tables, Table.DENTRIES, id_key(directory), id_key(directory + 1)):
        numbers = [int.from_bytes(value, "big") for _, value in batch]  # as read_dentry(), for less
        yield [(key[8:], both >> 1, both & 1 == 1) for (key, _), both in zip(batch, numbers, strict=True)]


def _in_step(old: Iterator[_Entries], new: Iterator[_Entries]) -> Iterator[tuple[_Entries, _Entries]]:
    """Batches of both that span the same names, so that each name is in one pair only."""
    before, after = next(old, None), next(new, None)
    while before is not None and after is not None:
        if before[-1][0] == after[-1][0]:
            yield before, after
            before, after = next(old, None), next(new, None)
        elif before[-1][0] < after[-1][0]:
            within, after = _split(after, before[-1][0])
            yield before, within
            before = next(old, None)
        else:
            within, before = _split(before, after[-1][0])
            yield within, after
            after = next(new, None)
    while before is not None:
        yield before, []
        before = next(old, None)
    while after is not None:
        yield [], after
        after = next(new, None)


def _split(entries: _Entries, last: bytes) -> tuple[_Entries, _Entries]:
    """Those up to `last`, and the others, of which there are some."""
    middle = next(position for position, entry in enumerate(entries) if entry[0] > last)
    return entries[:middle], entries[middle:]


def _described(tables: CheckpointTables, inode: int, record: InodeRecord) -> dict[str, str]:
    owner, group = owner_and_group(tables, record.ownership)
    found = {
        name: str(value)
        for name, value in msgspec.structs.asdict(record).items()
        if name not in ("parent", "ownership", "mode", "is_directory", "first_chunk")
    }
    found |= {"mode": f"{record.mode:o}", "owner": f"{owner}:{group}"}
    if record.first_chunk:
        found["chunk 0"] = f"{record.first_chunk:016x}"
    if record.chunk_count > 1:
        span = file_chunk_key(inode, 0), file_chunk_key(inode + 1, 0)
        digest = 0
        for key, value in tables.scan(Table.FILE_CHUNKS, *span):
            digest = hash((digest, int.from_bytes(key + value, "big")))
        found["further chunks"] = f"{digest & 2**64 - 1:016x}"
    return found


def _fields(old: dict[str, str], new: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {
        name: (old.get(name, ""), new.get(name, ""))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    }


def _chunks(old: CheckpointTables, new: CheckpointTables) -> Iterator[Difference]:
    names_before, names_after = server_names(old), server_names(new)
    before, after = old.scan(Table.CHUNKS), new.scan(Table.CHUNKS)
    was, now = next(before, None), next(after, None)
    while was is not None or now is not None:
        if was == now:
            was, now = next(before, None), next(after, None)
            continue
        if now is None or (was is not None and was[0] < now[0]):
            assert was is not None
            yield Difference(change="removed", handle=read_id(was[0]))
            was = next(before, None)
        elif was is None or now[0] < was[0]:
            fields = _fields({}, _chunk_described(now[1], names_after))
            yield Difference(change="added", handle=read_id(now[0]), fields=fields)
            now = next(after, None)
        else:
            fields = _fields(_chunk_described(was[1], names_before), _chunk_described(now[1], names_after))
            yield Difference(change="changed", handle=read_id(now[0]), fields=fields)
            was, now = next(before, None), next(after, None)


def _chunk_described(row: bytes, names: dict[int, str]) -> dict[str, str]:
    chunk = decode_chunk(row)
    found = {name: str(value) for name, value in msgspec.structs.asdict(chunk).items()}
    replicas = [names.get(number, "?") for number in chunk.servers]
    del found["servers"]
    return found | {"replicas": " ".join(replicas), "primary": replicas[chunk.primary]}


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
