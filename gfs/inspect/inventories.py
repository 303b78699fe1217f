"""Which chunk server holds which replica, as its disk says: read from disks or reports, looked up by chunk.

A report is JSON, one replica a line, written by `gfs chunk inventory`. What is looked up lies in a temporary
database without a name, so that memory stays flat.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from gfs.chunkserver.disk_identity import read_identity
from gfs.errors import InvalidArgument, NotFound
from gfs.inspect.chunk_rows import INDEX_FILE, IndexFault, chunkserver_directory
from gfs.inspect.chunk_verify import ReplicaRow, replica_rows
from gfs.inspect.read_only import ReadOnlyDisk
from gfs.vocabulary import ServerId

LINE_BYTES_MAX = 64 * 2**10
HANDLES_AT_ONCE = 500
_CACHE_KIB = 64 * 1024


class InventoryRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One replica. `fault`: why it cannot be read from, empty when nothing is known against it.

    A server that holds nothing has one row, of handle 0.
    """

    server: ServerId
    handle: int
    version: int
    fault: str = ""


class Holder(NamedTuple):
    server: ServerId
    version: int


_decode = msgspec.json.Decoder(InventoryRow).decode


def inventory_rows(place: str) -> Iterator[InventoryRow]:
    """What a chunk server's directory holds, or what a saved report says.

    Raises: NotFound, InvalidArgument; CorruptState, UnsupportedVersion, Unavailable of a disk; OSError.
    """
    if not os.path.exists(place):
        raise NotFound(f"{place} does not exist")
    if os.path.isdir(place) or os.path.basename(place) == INDEX_FILE:
        yield from _of_disk(place)
    else:
        yield from _of_report(place)


def _of_disk(place: str) -> Iterator[InventoryRow]:
    directory, _ = chunkserver_directory(place)
    server = read_identity(ReadOnlyDisk(), directory).server
    yield InventoryRow(server=server, handle=0, version=0)
    for row in replica_rows(directory):
        if isinstance(row, IndexFault):
            # What follows would pass for all that the server holds.
            raise InvalidArgument(
                f"the index in {directory} is damaged: {row.what}",
                hint="Leave this server out of the inventories, and name it as lost.",
            )
        if not row.guest:
            yield InventoryRow(server=server, handle=row.handle, version=row.version, fault=_fault(row))


def _fault(row: ReplicaRow) -> str:
    if row.fault or row.marked:
        return row.fault or row.marked
    if 0 <= row.stored_bytes < row.length_bytes:
        return f"its file has {row.stored_bytes} of {row.length_bytes} bytes"
    return "it has no file" if row.stored_bytes < 0 and row.length_bytes else ""


def _of_report(place: str) -> Iterator[InventoryRow]:
    with open(place, "rb") as report:
        number = 0
        while line := report.readline(LINE_BYTES_MAX):
            number += 1
            try:
                yield _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InvalidArgument(
                    f"{place}, line {number}: no replica is described there: {error}",
                    hint="It is made by 'gfs chunk inventory DIR… > FILE'.",
                ) from error


class Inventories:
    """All that was read, by chunk. For one process: what forks must not use it on both sides."""

    def __init__(self, places: Sequence[str]) -> None:
        """Raises: as inventory_rows()."""
        self.servers: set[ServerId] = set()
        self._database = sqlite3.connect("", isolation_level=None)  # a file without a name
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute(
            "CREATE TABLE held (handle INTEGER, server TEXT, version INTEGER, fault INTEGER, "
            "PRIMARY KEY (handle, server)) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")
        for place in places:
            self._database.executemany(
                "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", self._noted(inventory_rows(place))
            )
        self._database.execute("COMMIT")

    def good_holders(self, handles: Sequence[int]) -> dict[int, list[Holder]]:
        """Of these chunks the replicas that nothing is known against, servers in order of their ids."""
        found: dict[int, list[Holder]] = {}
        for start in range(0, len(handles), HANDLES_AT_ONCE):
            some = handles[start : start + HANDLES_AT_ONCE]
            marks = ", ".join("?" * len(some))
            for handle, server, version in self._database.execute(
                f"SELECT handle, server, version FROM held WHERE handle IN ({marks}) AND NOT fault "
                "ORDER BY handle, server",
                some,
            ):
                found.setdefault(handle, []).append(Holder(ServerId(server), version))
        return found

    def _noted(self, rows: Iterable[InventoryRow]) -> Iterator[tuple[int, str, int, bool]]:
        for row in rows:
            self.servers.add(row.server)
            if 0 < row.handle < 2**63:
                yield row.handle, row.server, min(row.version, 2**63 - 1), bool(row.fault)
