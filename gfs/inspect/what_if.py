"""What would be lost with some chunk servers, judged by the replica sets in a checkpoint.

The sets are what the log says. Whether each server's disk still has its replicas, only the servers know; and
what was repaired after the checkpoint is not in it. Chunk servers that were removed count as lost already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from gfs.errors import InvalidArgument, NotFound
from gfs.inspect.asking import ask
from gfs.inspect.checkpoint_files import CheckpointFile
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.relations import server_names
from gfs.inspect.tree_walk import walk
from gfs.master.core.lookup import handle_of
from gfs.master.core.records import decode_chunk, id_key
from gfs.master.core.soundness import batches
from gfs.master.core.tables import Table
from gfs.master.core.tenure import tenures

Fate = Literal["lost", "last_replica", "one_rack", "short", "untouched"]
FATES: tuple[Fate, ...] = ("lost", "last_replica", "one_rack", "short", "untouched")
SERVERS_FILE_BYTES_MAX = 64 * 2**20


class Outlook(msgspec.Struct, kw_only=True):
    """Chunks by what would become of them; `one_rack` only when racks are known."""

    servers_lost: list[str]
    servers_left: int
    chunks: dict[Fate, int] = msgspec.field(default_factory=lambda: dict.fromkeys(FATES, 0))


class AffectedFile(msgspec.Struct, frozen=True):
    """`fate`: the worst of its chunks; `chunks` of it have that fate."""

    path: str
    fate: Fate
    chunks: int
    of_chunks: int


class _Told(msgspec.Struct, array_like=True):
    outlook: Outlook | None = None
    file: AffectedFile | None = None


class _ServerWithRack(msgspec.Struct):
    id: str
    rack: str = ""


class _Report(msgspec.Struct):
    servers: list[_ServerWithRack]


def read_racks(path: str) -> dict[str, str]:
    """Racks by server, from what `gfs -o json admin chunkservers ls` has printed.

    Raises: NotFound, InvalidArgument; OSError.
    """
    if not os.path.exists(path):
        raise NotFound(f"{path} does not exist")
    with open(path, "rb") as file:
        content = file.read(SERVERS_FILE_BYTES_MAX)
    try:
        found = msgspec.json.decode(content, type=list[_ServerWithRack] | _Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "It is made by 'gfs -o json admin chunkservers ls > FILE'."
        raise InvalidArgument(f"{path} is no list of chunk servers: {error}", hint=hint) from error
    rows = found.servers if isinstance(found, _Report) else found
    return {row.id: row.rack for row in rows}


def what_if(
    file: CheckpointFile,
    *,
    servers: Sequence[str] = (),
    racks: Sequence[str] = (),
    rack_of: Mapping[str, str],
) -> tuple[Outlook, Iterator[AffectedFile]]:
    """What becomes of chunks, and of which files, lost ones and those one failure from loss.

    Raises: InvalidArgument for servers and racks that nobody knows; as ask().
    """
    told = map(
        msgspec.msgpack.Decoder(_Told).decode,
        ask(file, lambda tables: _look(tables, servers, racks, rack_of)),
    )
    outlook = next(told).outlook
    assert outlook is not None
    return outlook, (one.file for one in told if one.file is not None)


def _look(
    tables: CheckpointTables, servers: Sequence[str], racks: Sequence[str], rack_of: Mapping[str, str]
) -> Iterator[bytes]:
    names = server_names(tables)
    known = set(names.values())
    if unknown := [server for server in servers if server not in known]:
        raise InvalidArgument(
            f"the checkpoint knows no chunk server {unknown[0]!r}",
            hint=f"It knows {', '.join(sorted(known))}.",
        )
    if unknown := [rack for rack in racks if rack not in rack_of.values()]:
        raise InvalidArgument(f"no chunk server is in rack {unknown[0]!r}")
    removed = {server for server, tenure in tenures(tables).items() if tenure == "removed"}
    lost = {
        number: name
        for number, name in names.items()
        if name in servers or name in removed or (racks and rack_of.get(name) in racks)
    }
    judge = _Judge(frozenset(lost), {number: rack_of.get(name, "") for number, name in names.items()})
    outlook = Outlook(servers_lost=sorted(lost.values()), servers_left=len(names) - len(lost))
    for batch in batches(tables, Table.CHUNKS):
        for _, row in batch:
            outlook.chunks[judge.fate(decode_chunk(row).servers)] += 1
    yield msgspec.msgpack.encode(_Told(outlook=outlook))
    if any(outlook.chunks[fate] for fate in ("lost", "last_replica", "one_rack")):
        for found in _affected(tables, judge):
            yield msgspec.msgpack.encode(_Told(file=found))


class _Judge:
    def __init__(self, lost: frozenset[int], racks: Mapping[int, str]) -> None:
        self._lost, self._racks = lost, racks
        self._known: dict[tuple[int, ...], Fate] = {}  # sets repeat: few servers, many chunks

    def fate(self, servers: tuple[int, ...]) -> Fate:
        fate = self._known.get(servers)
        if fate is None:
            if len(self._known) > 100_000:
                self._known.clear()
            fate = self._known[servers] = self._judge(servers)
        return fate

    def _judge(self, servers: tuple[int, ...]) -> Fate:
        left = [number for number in servers if number not in self._lost]
        if not left:
            return "lost"
        if len(left) == 1:
            # A file that is to have one replica was never further from loss; it is told all the same.
            return "last_replica"
        racks = [self._racks.get(number, "") for number in left]
        if racks[0] and racks.count(racks[0]) == len(racks):
            return "one_rack"
        return "short" if len(left) < len(servers) else "untouched"


def _affected(tables: CheckpointTables, judge: _Judge) -> Iterator[AffectedFile]:
    for place in walk(tables):
        record = place.record
        if not record.chunk_count:
            continue
        handles = [handle_of(tables, place.inode, record, index) for index in range(record.chunk_count)]
        counts = dict.fromkeys(FATES, 0)
        for row in tables.get_many(Table.CHUNKS, list(map(id_key, handles))):
            counts["lost" if row is None else judge.fate(decode_chunk(row).servers)] += 1
        worst = next(fate for fate in FATES if counts[fate])
        if worst in ("lost", "last_replica", "one_rack"):
            yield AffectedFile(place.path, worst, counts[worst], record.chunk_count)
