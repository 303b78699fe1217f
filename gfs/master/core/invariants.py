"""Checks that the state's tables are sound as a whole. Reads everything: for tests and offline inspection."""

from __future__ import annotations

from gfs.errors import CorruptState
from gfs.master.core.chunk_copies import reserved_copies
from gfs.master.core.digest import DIGEST_BYTES, digest_rows
from gfs.master.core.lookup import read_counters
from gfs.master.core.records import (
    CONDEMNED_MS,
    DIGEST_KEY,
    TRASH_INODE,
    Counters,
    InodeRecord,
    StoredChunk,
    decode_chunk,
    decode_inode,
    decode_session,
    encode_inode,
    id_key,
    inode_share,
    ownership_key,
    read_dentry,
    read_file_chunk_key,
    read_handle,
    read_id,
    read_outcome_key,
    read_trash_key,
    server_id_key,
)
from gfs.master.core.snapshots import jobs_under_way
from gfs.master.core.tables import ReadTables, Table
from gfs.master.core.usage import usage_of
from gfs.settings import SESSION_WINDOW
from gfs.vocabulary import CHUNK_BYTES, REPLICATION_GOAL_MAX, ROOT_INODE


def check_invariants(tables: ReadTables) -> None:
    """Check what namespace, chunk_table, sessions and digest promise of the tables they write.

    MasterState.save() comes first. Raises: CorruptState naming the first row that breaks a promise.
    """
    counters = read_counters(tables)
    inodes = {read_id(key): decode_inode(row) for key, row in tables.scan(Table.INODES)}
    _check_tree(tables, inodes, counters)
    _check_chunks(tables, inodes, counters)
    _check_servers(tables, counters)
    _check_owners(tables, inodes, counters)
    _check_usage(tables, inodes)
    _check_sessions(tables, counters)
    _demand(_digest_of(tables) == digest_rows(tables), "the digest is not that of the rows")


def _demand(holds: bool, broken: str) -> None:
    if not holds:
        raise CorruptState(broken)


def _digest_of(tables: ReadTables) -> int:
    row = tables.get(Table.META, DIGEST_KEY)
    _demand(row is not None and len(row) == DIGEST_BYTES, "the state has no digest")
    return int.from_bytes(row or b"", "big")


def _check_tree(tables: ReadTables, inodes: dict[int, InodeRecord], counters: Counters) -> None:
    held_by: dict[int, int] = {}
    for key, row in tables.scan(Table.DENTRIES):
        parent, name, (inode, is_directory) = read_id(key), key[8:], read_dentry(row)
        where = f"entry {name!r} of inode {parent}"
        _demand(bool(name) and b"/" not in name and b"\0" not in name, f"{where} has no valid name")
        _demand(parent in inodes and inodes[parent].is_directory, f"{where} is in no directory")
        _demand(inode in inodes, f"{where} names inode {inode}, which is missing")
        _demand(inodes[inode].is_directory == is_directory, f"{where} and its inode differ in kind")
        _demand(inode not in held_by and inode != ROOT_INODE, f"inode {inode} is held twice")
        held_by[inode] = parent
    trashed = 0
    for key, _ in tables.scan(Table.TRASH):
        expires_at_ms, trash = read_trash_key(key)
        _demand(trash in inodes, f"the trash holds inode {trash}, which is missing")
        _demand(trash not in held_by and trash != ROOT_INODE, f"inode {trash} is held twice")
        held_by[trash] = TRASH_INODE
        trashed += expires_at_ms != CONDEMNED_MS
    for copy in jobs_under_way(tables):
        _demand(copy in inodes and copy not in held_by, f"the copy {copy} of a snapshot is missing or shown")
        held_by[copy] = TRASH_INODE
    _demand(ROOT_INODE in inodes and inodes[ROOT_INODE].is_directory, "there is no root")
    for number, record in inodes.items():
        _demand(0 < number < counters.next_inode, f"inode {number} is not below the next id")
        if number != ROOT_INODE:
            _demand(held_by.get(number) == record.parent, f"inode {number} is not where its parent says")
    _check_no_cycle(inodes)
    directories = sum(record.is_directory for record in inodes.values())
    _demand(counters.trash == trashed, f"{counters.trash} in the trash are counted, {trashed} are there")
    _demand(counters.directories == directories, f"{counters.directories} directories are counted")
    _demand(counters.files == len(inodes) - directories, f"{counters.files} files are counted")


def _check_no_cycle(inodes: dict[int, InodeRecord]) -> None:
    """Every inode hangs, by its parents, from the root or the trash."""
    sound = {int(ROOT_INODE), int(TRASH_INODE)}
    for inode in inodes:
        way: list[int] = []
        at = inode
        while at not in sound:
            _demand(at in inodes and at not in way, f"inode {inode} hangs from neither root nor trash")
            way.append(at)
            at = inodes[at].parent
        sound.update(way)


def _check_chunks(tables: ReadTables, inodes: dict[int, InodeRecord], counters: Counters) -> None:
    references: dict[int, int] = {}
    indexes: dict[int, list[int]] = {}
    for inode, record in inodes.items():
        if record.first_chunk:
            references[record.first_chunk] = references.get(record.first_chunk, 0) + 1
            indexes.setdefault(inode, []).append(0)
    for key, row in tables.scan(Table.FILE_CHUNKS):
        inode, index = read_file_chunk_key(key)
        _demand(index > 0, f"chunk 0 of inode {inode} has a row of its own")
        indexes.setdefault(inode, []).append(index)
        named = read_handle(row)
        references[named] = references.get(named, 0) + 1
    for inode, found in indexes.items():
        _demand(inode in inodes and not inodes[inode].is_directory, f"inode {inode} with chunks is no file")
        _demand(found == list(range(inodes[inode].chunk_count)), f"the chunks of inode {inode} have gaps")
    for inode, record in inodes.items():
        _demand(record.chunk_count == len(indexes.get(inode, ())), f"inode {inode} lacks chunks")
        _demand(record.length_bytes <= record.chunk_count * CHUNK_BYTES, f"inode {inode} is too long")
        goal_max = 0 if record.is_directory else REPLICATION_GOAL_MAX
        _demand(record.replication_goal <= goal_max, f"inode {inode} has a replication goal out of range")
    total = 0
    for handle, row in ((read_id(key), row) for key, row in tables.scan(Table.CHUNKS)):
        chunk = decode_chunk(row)
        total += 1
        _demand(0 < handle < counters.next_handle, f"chunk {handle} is not below the next handle")
        _demand(references.pop(handle, 0) == chunk.references > 0, f"chunk {handle} miscounts its files")
        _check_chunk(handle, chunk, counters)
    for copy in reserved_copies(tables):
        _demand(0 < copy < counters.next_handle, f"reserved chunk {copy} is not below the next handle")
        taken = tables.get(Table.CHUNKS, id_key(copy)) is not None
        _demand(not taken, f"chunk {copy} is there and reserved")
    _demand(not references, f"files name chunks that are missing: {sorted(references)[:5]}")
    _demand(counters.chunks == total, f"{counters.chunks} chunks are counted, {total} are there")


def _check_chunk(handle: int, chunk: StoredChunk, counters: Counters) -> None:
    servers = chunk.servers
    _demand(chunk.version > 0, f"chunk {handle} has no version")
    _demand(0 <= chunk.held_version <= chunk.version, f"chunk {handle} is held at a version to come")
    _demand(0 < len(servers) == len(set(servers)), f"the replica set of chunk {handle} is no set")
    _demand(0 <= chunk.primary < len(servers), f"chunk {handle} has no primary")
    _demand(all(0 < n < counters.next_server for n in servers), f"chunk {handle} is on unknown servers")
    _demand(0 <= chunk.length_bytes <= CHUNK_BYTES, f"chunk {handle} has a length out of range")
    _demand(chunk.quiet in (0, 1) and chunk.version >= 1 + chunk.quiet, f"chunk {handle} is oddly quiet")
    _demand(bool(chunk.sealed) or chunk.length_bytes == 0, f"chunk {handle} has a length but no seal")


def _check_servers(tables: ReadTables, counters: Counters) -> None:
    names = {read_id(key[1:]): row for key, row in tables.scan(Table.SERVERS, b"#", b"$")}
    numbers = {key: read_id(row) for key, row in tables.scan(Table.SERVERS, b"=", b">")}
    _demand(set(names) == set(range(1, counters.next_server)), "chunk server numbers have gaps")
    back = {server_id_key(row.decode("utf-8")): number for number, row in names.items()}
    _demand(back == numbers, "numbers and ids of chunk servers do not match")


def _check_owners(tables: ReadTables, inodes: dict[int, InodeRecord], counters: Counters) -> None:
    names = {read_id(key[1:]): row for key, row in tables.scan(Table.OWNERS, b"#", b"$")}
    numbers = {key: read_id(row) for key, row in tables.scan(Table.OWNERS, b"=", b">")}
    _demand(set(names) == set(range(1, counters.ownerships + 1)), "numbers of owners have gaps")
    back = {ownership_key(row): number for number, row in names.items()}
    _demand(back == numbers, "numbers and names of owners do not match")
    for inode, record in inodes.items():
        _demand(record.ownership <= counters.ownerships, f"inode {inode} belongs to nobody known")


def _check_usage(tables: ReadTables, inodes: dict[int, InodeRecord]) -> None:
    found: dict[int, list[int]] = {}
    for inode, record in inodes.items():
        content_bytes = inode_share(encode_inode(record))[2]
        at = record.parent if inode != ROOT_INODE else TRASH_INODE
        while at != TRASH_INODE:
            below = found.setdefault(at, [0, 0, 0])
            below[record.is_directory] += 1
            below[2] += content_bytes
            at = inodes[at].parent if at != ROOT_INODE else TRASH_INODE
    kept = {read_id(key): list(usage_of(tables, read_id(key))) for key, _ in tables.scan(Table.USAGE)}
    wrong = sorted(at for at in {*kept, *found} if kept.get(at) != found.get(at))
    _demand(not wrong, f"what is below inode {wrong[:1]} is miscounted")


def _check_sessions(tables: ReadTables, counters: Counters) -> None:
    kept: dict[int, list[int]] = {}
    headers = {}
    for key, row in tables.scan(Table.SESSIONS):
        if len(key) == 8:
            headers[read_id(key)] = decode_session(row)
        else:
            client, sequence = read_outcome_key(key)
            kept.setdefault(client, []).append(sequence)
    _demand(counters.sessions == len(headers), f"{counters.sessions} sessions are counted")
    _demand(set(kept) <= set(headers), "outcomes are kept for a client without a session")
    for client, header in headers.items():
        sequences = kept.get(client, [])
        _demand(header.kept == len(sequences) <= SESSION_WINDOW, f"client {client} miscounts its outcomes")
        _demand(all(n <= header.highest for n in sequences), f"client {client} skipped a request")
