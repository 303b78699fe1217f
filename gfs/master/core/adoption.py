"""What is taken over from chunk servers after a state was put back (GFS §4.5), and who is awaited first.

Decides only; the rules of apply are core/incarnation's and core/chunk_table's.
"""

from __future__ import annotations

from collections.abc import Mapping

from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_by_handle
from gfs.master.core.records import id_key, read_id
from gfs.master.core.tables import ReadTables, Table
from gfs.master.core.tenure import tenures
from gfs.messages.operations import AdoptReplicas
from gfs.vocabulary import REPLICATION_GOAL_MAX, ChunkHandle, ChunkVersion, ServerId

_IDS, _BEHIND_IDS = b"=", b">"  # the rows of the servers' table that tell a server's number


def servers_of_chunks(tables: ReadTables) -> list[ServerId]:
    """All servers that chunks may be on as far as this state knows, without those that were removed."""
    said = tenures(tables)
    rows = tables.scan(Table.SERVERS, _IDS, _BEHIND_IDS)
    found = [ServerId(key[1:].decode("utf-8")) for key, _ in rows]
    return [server for server in found if said.get(server) != "removed"]


def awaited_servers(tables: ReadTables, locations: Locations) -> list[ServerId]:
    """Those of servers_of_chunks() that have not said what they hold since this master started."""
    silent = []
    for server_id in servers_of_chunks(tables):
        server = locations.get(server_id)
        if server is None or not server.reported:
            silent.append(server_id)
    return silent


def adoptions(
    tables: ReadTables, locations: Locations, *, after: ChunkHandle, below: int, chunks_max: int
) -> tuple[list[AdoptReplicas], ChunkHandle | None]:
    """Look at the next chunks behind `after`: what to adopt, and where to go on (None: that was the last)."""
    found: list[AdoptReplicas] = []
    rows = tables.scan(Table.CHUNKS, id_key(after + 1), id_key(below))
    for looked, (key, _) in enumerate(rows, start=1):
        handle = ChunkHandle(read_id(key))
        holders = locations.holders(handle)
        if holders:
            adopted = _adoption(tables, handle, holders)
            found += [] if adopted is None else [adopted]
        if looked == chunks_max:
            return found, handle
    return found, None


def _adoption(
    tables: ReadTables, handle: ChunkHandle, holders: Mapping[ServerId, ChunkVersion]
) -> AdoptReplicas | None:
    chunk = chunk_by_handle(tables, handle)
    assert chunk is not None, handle
    highest = max(holders.values())
    if highest <= chunk.version:
        return None
    replicas = sorted(server for server, version in holders.items() if version == highest)
    primary = chunk.primary if chunk.primary in replicas else replicas[0]
    replicas = [primary, *(server for server in replicas if server != primary)][:REPLICATION_GOAL_MAX]
    return AdoptReplicas(
        handle=handle,
        from_version=chunk.version,
        version=highest,
        replicas=tuple(replicas),
        primary=primary,
    )
