"""What would be lost with some chunk servers, judged by the replica sets in a checkpoint, and by inventories.

The sets are what the log says. Whether a server's disk has its replicas, only that disk knows: of servers
whose inventory is given, what it holds counts, also what came there after the checkpoint; of the others, the
sets are believed. Chunk servers that were removed count as lost already.
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
from gfs.inspect.inventories import Inventories
from gfs.inspect.relations import server_names
from gfs.inspect.tree_walk import walk
from gfs.master.core.lookup import handle_of
from gfs.master.core.records import decode_chunk, id_key, read_id
from gfs.master.core.soundness import batches
from gfs.master.core.tables import Table
from gfs.master.core.tenure import tenures
from gfs.vocabulary import ServerId

Fate = Literal["lost", "last_replica", "one_rack", "short", "untouched"]
FATES: tuple[Fate, ...] = ("lost", "last_replica", "one_rack", "short", "untouched")
SERVERS_FILE_BYTES_MAX = 64 * 2**20
FATES_KEPT_MAX = 100_000  # of different replica sets

_Set = tuple[int, ...]  # servers by number


class Outlook(msgspec.Struct, kw_only=True):
    """Chunks by what would become of them; `one_rack` only when racks are known."""

    servers_lost: list[str]
    servers_left: int
    inventories: list[str] = msgspec.field(default_factory=list)  # servers whose disks were asked
    absent_replicas: int = 0  # in a set, but not good on that server's disk
    surplus_replicas: int = 0  # good on a disk, but in no set
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
    inventories: Sequence[str] = (),
) -> tuple[Outlook, Iterator[AffectedFile]]:
    """What becomes of chunks, and of which files, lost ones and those one failure from loss.

    `inventories`: directories of chunk servers, and reports of them (see Inventories).
    Raises: InvalidArgument for servers and racks that nobody knows; as ask() and inventory_rows().
    """
    told = map(
        msgspec.msgpack.Decoder(_Told).decode,
        ask(file, lambda tables: _look(tables, servers, racks, rack_of, inventories)),
    )
    outlook = next(told).outlook
    assert outlook is not None
    return outlook, (one.file for one in told if one.file is not None)


def _look(
    tables: CheckpointTables,
    servers: Sequence[str],
    racks: Sequence[str],
    rack_of: Mapping[str, str],
    inventories: Sequence[str],
) -> Iterator[bytes]:
    names = server_names(tables)
    asked = Inventories(inventories) if inventories else None
    for server in sorted(asked.servers if asked is not None else ()):
        if server not in names.values():
            names[-len(names) - 1] = server  # the checkpoint has no number for it
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
    holders = _Holders(names, asked)
    for batch in batches(tables, Table.CHUNKS):
        sets = holders.of([(read_id(key), row) for key, row in batch])
        for before, now in sets:
            outlook.chunks[judge.fate(before, now)] += 1
            if before != now:
                outlook.absent_replicas += len(set(before).difference(now))
                outlook.surplus_replicas += len(set(now).difference(before))
    outlook.inventories = sorted(asked.servers) if asked is not None else []
    yield msgspec.msgpack.encode(_Told(outlook=outlook))
    if any(outlook.chunks[fate] for fate in ("lost", "last_replica", "one_rack")):
        for found in _affected(tables, judge, holders):
            yield msgspec.msgpack.encode(_Told(file=found))


class _Holders:
    """Who has a good replica of each chunk, as far as is known."""

    def __init__(self, names: Mapping[int, str], asked: Inventories | None) -> None:
        self._asked = asked
        self._numbers = {name: number for number, name in names.items()}
        servers = asked.servers if asked is not None else frozenset[ServerId]()
        self._told = {number for number, name in names.items() if name in servers}

    def of(self, chunks: Sequence[tuple[int, bytes]]) -> Iterator[tuple[_Set, _Set]]:
        """Of handles and rows: the set in the checkpoint, and who holds the chunk."""
        if self._asked is None:
            for _, row in chunks:
                servers = decode_chunk(row).servers
                yield servers, servers
            return
        good = self._asked.good_holders([handle for handle, _ in chunks])
        for handle, row in chunks:
            chunk = decode_chunk(row)
            # A member behind what all are known to hold has lost bytes; who is no member is only good with a
            # version that came after the checkpoint: until then it was left out, and is stale.
            oldest, members = max(chunk.held_version, 1), set(chunk.servers)
            on_disks = {
                number
                for server, version in good.get(handle, ())
                if version >= (oldest if (number := self._numbers[server]) in members else chunk.version + 1)
            }
            believed = {number for number in chunk.servers if number not in self._told}
            yield chunk.servers, tuple(sorted(believed | on_disks))


class _Judge:
    def __init__(self, lost: frozenset[int], racks: Mapping[int, str]) -> None:
        self._lost, self._racks = lost, racks
        self._known: dict[tuple[_Set, _Set], Fate] = {}  # sets repeat: few servers, many chunks

    def fate(self, before: _Set, now: _Set) -> Fate:
        fate = self._known.get((before, now))
        if fate is None:
            if len(self._known) > FATES_KEPT_MAX:
                self._known.clear()
            fate = self._known[before, now] = self._judge(before, now)
        return fate

    def _judge(self, before: _Set, now: _Set) -> Fate:
        left = [number for number in now if number not in self._lost]
        if not left:
            return "lost"
        if len(left) == 1:
            # A file that is to have one replica was never further from loss; it is told all the same.
            return "last_replica"
        racks = [self._racks.get(number, "") for number in left]
        if racks[0] and racks.count(racks[0]) == len(racks):
            return "one_rack"
        return "short" if len(left) < len(before) else "untouched"


def _affected(tables: CheckpointTables, judge: _Judge, holders: _Holders) -> Iterator[AffectedFile]:
    for place in walk(tables):
        record = place.record
        if not record.chunk_count:
            continue
        handles = [handle_of(tables, place.inode, record, index) for index in range(record.chunk_count)]
        counts = dict.fromkeys(FATES, 0)
        rows = tables.get_many(Table.CHUNKS, list(map(id_key, handles)))
        counts["lost"] += rows.count(None)
        there = [(handle, row) for handle, row in zip(handles, rows, strict=True) if row is not None]
        for before, now in holders.of(there):
            counts[judge.fate(before, now)] += 1
        worst = next(fate for fate in FATES if counts[fate])
        if worst in ("lost", "last_replica", "one_rack"):
            yield AffectedFile(place.path, worst, counts[worst], record.chunk_count)
