"""Reading the state: stat, listings, chunks of a file. Pure functions over ReadTables that change nothing.

They read one view of the tables to the end and never wait, so an answer is of one point of the log.
"""

from __future__ import annotations

from gfs.errors import CorruptState, InvalidArgument, InvalidPath, IsADirectory, NotADirectory, NotFound
from gfs.master.core.digest import digest_text
from gfs.master.core.owners import owner_and_group
from gfs.master.core.policies import InheritedPolicies
from gfs.master.core.records import (
    CONDEMNED_MS,
    COUNTERS_KEY,
    DIGEST_KEY,
    ID_MAX,
    TRASH_INODE,
    ChunkRecord,
    Counters,
    InodeRecord,
    decode_chunk,
    decode_counters,
    decode_inode,
    dentry_key,
    file_chunk_key,
    id_key,
    job_key,
    read_dentry,
    read_handle,
    read_id,
    server_number_key,
    trash_key,
)
from gfs.master.core.tables import ReadTables, Table
from gfs.messages.namespace import Entry
from gfs.settings import FIND_CHUNKS_MAX, LIST_PAGE_MAX
from gfs.vocabulary import (
    NAME_BYTES_MAX,
    PATH_DEPTH_MAX,
    ROOT_INODE,
    TRASH_DIRECTORY,
    ChunkHandle,
    ChunkIndex,
    ChunkVersion,
    InodeId,
    ServerId,
    path_fault,
)

NamePath = tuple[bytes, ...]  # a path as the tables know it: names in UTF-8, the root is ()

_TRASH_NAME = TRASH_DIRECTORY[1:].encode("utf-8")
PATH_SEARCH_ROWS_MAX = 5000  # entries looked at to name a file in an error message
_SPELL_MAX = 200  # characters of a path in an error message: messages are kept with the outcomes


def names_of(path: str) -> NamePath:
    """Raises: InvalidPath."""
    # Nearly all paths are short ASCII, where a few scans of the string rule out every fault.
    if not (
        path.isascii()
        and len(path) <= NAME_BYTES_MAX
        and path.startswith("/")
        and "/." not in path
        and "\0" not in path
        and path.count("/") <= PATH_DEPTH_MAX
    ):
        fault = path_fault(path)
        if fault is not None:
            raise InvalidPath(fault if len(fault) <= 2 * _SPELL_MAX else fault[: 2 * _SPELL_MAX] + "…")
    names = path.encode("utf-8").split(b"/")
    return tuple(names[1:]) if names.count(b"") == 1 else tuple(name for name in names if name)


def names_to_change(path: str) -> NamePath:
    """As names_of(), of an entry that is to be changed. Raises: InvalidArgument for one in the trash."""
    names = names_of(path)
    if in_trash(names):
        raise InvalidArgument(
            f"{spell(names)}: what is in the trash can be read, undeleted and purged, but not changed"
        )
    return names


def in_trash(names: NamePath) -> bool:
    return bool(names) and names[0] == _TRASH_NAME


def spell(names: NamePath, *, whole: bool = False) -> str:
    """The path of these names; without `whole`, shortened for a message."""
    path = "/" + b"/".join(names).decode("utf-8")
    return path if whole or len(path) <= _SPELL_MAX else path[: _SPELL_MAX - 1] + "…"


def find(tables: ReadTables, names: NamePath) -> tuple[InodeId, bool]:
    """The inode at these names, and whether it is a directory; /.trash/<inode> leads into the trash.

    Raises: NotFound, NotADirectory (a file where a directory would have to be).
    """
    inode, is_directory, begun = ROOT_INODE, True, 0
    if names and names[0] == _TRASH_NAME:
        (inode, is_directory), begun = find_deleted(tables, names), 2
    get, dentries = tables.get, Table.DENTRIES  # every request comes through here, once a name
    for depth in range(begun, len(names)):
        if not is_directory:
            raise NotADirectory(f"{spell(names[:depth])} is a file, not a directory")
        row = get(dentries, id_key(inode) + names[depth])
        if row is None:
            raise NotFound(f"{spell(names[: depth + 1])} does not exist")
        inode, is_directory = read_dentry(row)
    return inode, is_directory


def find_deleted(tables: ReadTables, names: NamePath) -> tuple[InodeId, bool]:
    """What the first two of these names, /.trash/<inode>, lead to: something deleted that can be had back.

    Raises: NotFound.
    """
    if len(names) == 1:
        raise NotFound(f"{TRASH_DIRECTORY} is not a directory; 'gfs trash ls' shows what was deleted")
    inode = int(names[1]) if names[1].isdigit() and len(names[1]) < 16 else 0
    record = inode_record(tables, inode)
    hidden = (
        tables.get(Table.TRASH, trash_key(CONDEMNED_MS, inode)) is not None  # it is being reclaimed
        or tables.get(Table.UNFINISHED, job_key(inode)) is not None  # a snapshot under way
    )
    if record is None or record.parent != TRASH_INODE or hidden:
        raise NotFound(f"the trash does not hold {spell(names[:2])}, or not any more")
    return InodeId(inode), record.is_directory


def find_directory(tables: ReadTables, names: NamePath) -> InodeId:
    """Raises: NotFound, NotADirectory."""
    inode, is_directory = find(tables, names)
    if not is_directory:
        raise NotADirectory(f"{spell(names)} is a file, not a directory")
    return inode


def path_of(tables: ReadTables, inode: InodeId, *, rows_max: int = PATH_SEARCH_ROWS_MAX) -> str:
    """How to name a file or directory to a person: its path where that is found by reading few rows."""
    names: list[bytes] = []
    rows_left = rows_max
    at = inode
    while at != ROOT_INODE:
        inode_row = tables.get(Table.INODES, id_key(at))
        if inode_row is None or (above := decode_inode(inode_row).parent) == TRASH_INODE:
            return _nameless(tables, inode)
        parent = InodeId(above)
        for key, row in tables.scan(Table.DENTRIES, id_key(parent), id_key(parent + 1)):
            rows_left -= 1
            if read_dentry(row)[0] == at:
                names.append(key[len(dentry_key(parent, b"")) :])
                break
            if rows_left <= 0:
                return _nameless(tables, inode)
        at = parent
    return spell(tuple(reversed(names)))


def _nameless(tables: ReadTables, inode: InodeId) -> str:
    record = inode_record(tables, inode)
    kind = "directory" if record is not None and record.is_directory else "file"
    return f"the {kind} with inode {inode}"


def stat(tables: ReadTables, path: str, policies: InheritedPolicies | None = None) -> Entry:
    """`policies`, of this view, serve many. Raises: InvalidPath, NotFound, NotADirectory."""
    names = names_of(path)
    inode, _ = find(tables, names)
    spelled = path if path.count("/") == len(names) > 0 else spell(names, whole=True)
    return entry_of(tables, spelled, inode, policies)


def entry_of(
    tables: ReadTables, path: str, inode: InodeId, policies: InheritedPolicies | None = None
) -> Entry:
    """The entry at `path`, whose inode the caller has just found. `policies`, of this view, serve many."""
    return _entry(tables, path, inode, _inode(tables, inode), policies)


def _entry(
    tables: ReadTables,
    path: str,
    inode: InodeId,
    record: InodeRecord,
    policies: InheritedPolicies | None = None,
) -> Entry:
    owner, group = owner_and_group(tables, record.ownership)
    if record.is_directory:
        return Entry(
            path=path,
            inode=inode,
            kind="directory",
            created_ms=record.created_ms,
            modified_ms=record.modified_ms,
            owner=owner,
            group=group,
            mode=record.mode,
        )
    goal = record.replication_goal
    if record.goal_inherited:
        goal = (policies or InheritedPolicies(tables)).goal_of(record)
    return Entry(
        path=path,
        inode=inode,
        kind="file",
        created_ms=record.created_ms,
        modified_ms=record.modified_ms,
        length_bytes=record.length_bytes,
        length_exact=record.length_exact,
        chunk_count=record.chunk_count,
        replication_goal=goal,
        owner=owner,
        group=group,
        mode=record.mode,
        appended=record.appended,
    )


def inode_record(tables: ReadTables, inode: int) -> InodeRecord | None:
    """Also of what is in the trash."""
    row = tables.get(Table.INODES, id_key(inode)) if 0 < inode <= ID_MAX else None
    return None if row is None else decode_inode(row)


def _inode(tables: ReadTables, inode: int) -> InodeRecord:
    row = tables.get(Table.INODES, id_key(inode))
    if row is None:
        raise CorruptState(f"inode {inode} has an entry but is missing")
    return decode_inode(row)


def list_page(
    tables: ReadTables, path: str, *, after: str = "", limit: int = 1000
) -> tuple[list[Entry], str]:
    """Entries of a directory in byte order of their names, strictly after the name `after`.

    Returns: at most `limit` (and LIST_PAGE_MAX) entries, and the name to go on after, empty at the end.
    Raises: InvalidPath, NotFound, NotADirectory.
    """
    names = names_of(path)
    directory = find_directory(tables, names)
    limit = min(max(1, limit), LIST_PAGE_MAX)
    start = id_key(directory)
    if after:
        # The shortest name behind `after`: no name holds a NUL.
        name_after = after.encode("utf-8", "surrogatepass")[: NAME_BYTES_MAX + 1]
        start = dentry_key(directory, name_after + b"\0")
    prefix = spell(names, whole=True).rstrip("/") + "/"
    entries: list[Entry] = []
    policies = InheritedPolicies(tables)
    for key, row in tables.scan(Table.DENTRIES, start, id_key(directory + 1)):
        name = key[8:].decode("utf-8")
        if len(entries) == limit:
            return entries, entries[-1].path[len(prefix) :]
        entries.append(entry_of(tables, prefix + name, read_dentry(row)[0], policies))
    return entries, ""


def find_chunks(tables: ReadTables, path: str, first: int, count: int) -> tuple[Entry, list[ChunkRecord]]:
    """A file's entry and its chunks first … first + count - 1, as far as they exist, in order (§2.3).

    At most FIND_CHUNKS_MAX. Raises: InvalidPath, NotFound, NotADirectory, IsADirectory.
    """
    names = names_of(path)
    inode, is_directory = find(tables, names)
    if is_directory:
        raise IsADirectory(f"{spell(names)} is a directory")
    record = _inode(tables, inode)
    entry = _entry(tables, spell(names, whole=True), inode, record)
    first = max(0, first)
    stop = min(first + min(count, FIND_CHUNKS_MAX), entry.chunk_count)
    handles: list[ChunkHandle] = []
    if first == 0 and stop > 0:
        handles.append(ChunkHandle(record.first_chunk))
    if stop > 1:
        keys = file_chunk_key(entry.inode, max(1, first)), file_chunk_key(entry.inode, stop)
        handles.extend(read_handle(row) for _, row in tables.scan(Table.FILE_CHUNKS, *keys))
    if len(handles) != max(0, stop - first):
        raise CorruptState(f"{entry.path} lacks some of its chunks {first}..{stop - 1}")
    servers: dict[int, ServerId] = {}
    return entry, [_existing_chunk(tables, handle, servers) for handle in handles]


def chunk_of(tables: ReadTables, inode: int, index: int) -> ChunkRecord | None:
    """Chunk `index` of a file, also of one in the trash (see live_file); None when there is none."""
    record = inode_record(tables, inode)
    if record is None or not 0 <= index < record.chunk_count:
        return None
    return _existing_chunk(tables, handle_of(tables, inode, record, index), {})


def chunks_after(
    tables: ReadTables, inode: int, index: int, *, limit: int
) -> tuple[list[tuple[InodeId, ChunkIndex]], tuple[InodeId, ChunkIndex] | None]:
    """Name the chunks of all files, also in the trash, from chunk `index` of `inode` on; begin with (0, 0).

    Returns: up to `limit` chunks in order, and where to go on, None at the end. Looks at `limit` inodes at
        most, so a piece may be empty and not the last.
    """
    named: list[tuple[InodeId, ChunkIndex]] = []
    for looked_at, (key, row) in enumerate(tables.scan(Table.INODES, id_key(inode))):
        found = InodeId(read_id(key))
        first = index if found == inode else 0
        if looked_at == limit or len(named) == limit:
            return named, (found, ChunkIndex(first))
        chunk_count = decode_inode(row).chunk_count
        stop = min(chunk_count, first + limit - len(named))
        named.extend((found, ChunkIndex(position)) for position in range(first, stop))
        if stop < chunk_count:
            return named, (found, ChunkIndex(stop))
    return named, None


def handle_of(tables: ReadTables, inode: int, file: InodeRecord, index: int) -> ChunkHandle:
    """The handle of an existing chunk of a file."""
    assert 0 <= index < file.chunk_count, (inode, index)
    if index == 0:
        return ChunkHandle(file.first_chunk)
    row = tables.get(Table.FILE_CHUNKS, file_chunk_key(inode, index))
    if row is None:
        raise CorruptState(f"the file with inode {inode} lacks its chunk {index}")
    return read_handle(row)


def live_file(tables: ReadTables, inode: int) -> tuple[bytes, InodeRecord]:
    """The row of a file that can be reached from the root, as bytes and decoded.

    Raises: NotFound when there is none, or when it or a directory above it is in the trash; IsADirectory.
    """
    row = tables.get(Table.INODES, id_key(inode)) if 0 < inode <= ID_MAX else None
    if row is None:
        raise NotFound(f"there is no file with inode {inode}")
    record = decode_inode(row)
    if record.is_directory:
        raise IsADirectory(f"inode {inode} is a directory")
    above = record.parent
    while above != ROOT_INODE:
        if above == TRASH_INODE:
            raise NotFound(f"the file with inode {inode} has been deleted")
        above_row = tables.get(Table.INODES, id_key(above))
        if above_row is None:
            raise CorruptState(f"inode {inode} is below inode {above}, which is missing")
        above = decode_inode(above_row).parent
    return row, record


def chunk_by_handle(tables: ReadTables, handle: int) -> ChunkRecord | None:
    if not 0 < handle <= ID_MAX or tables.get(Table.CHUNKS, id_key(handle)) is None:
        return None
    return _existing_chunk(tables, ChunkHandle(handle), {})


def _existing_chunk(tables: ReadTables, handle: ChunkHandle, servers: dict[int, ServerId]) -> ChunkRecord:
    row = tables.get(Table.CHUNKS, id_key(handle))
    if row is None:
        raise CorruptState(f"chunk {handle} is part of a file but missing")
    stored = decode_chunk(row)
    replicas = tuple(server_by_number(tables, number, servers) for number in stored.servers)
    return ChunkRecord(
        handle=handle,
        version=ChunkVersion(stored.version),
        replicas=replicas,
        primary=replicas[stored.primary],
        held_version=ChunkVersion(stored.held_version),
        sealed=bool(stored.sealed),
        length_bytes=stored.length_bytes if stored.sealed else -1,
        references=stored.references,
        quiet=bool(stored.quiet),
    )


def server_by_number(tables: ReadTables, number: int, known: dict[int, ServerId]) -> ServerId:
    """The server a chunk's row means; `known` remembers those already looked up."""
    server = known.get(number)
    if server is None:
        row = tables.get(Table.SERVERS, server_number_key(number))
        if row is None:
            raise CorruptState(f"chunk server number {number} has no id")
        server = known[number] = ServerId(row.decode("utf-8"))
    return server


def read_counters(tables: ReadTables) -> Counters:
    """Totals as of the last commit; files and directories include those in the trash."""
    row = tables.get(Table.META, COUNTERS_KEY)
    if row is None:
        raise CorruptState("the state has no counters")
    return decode_counters(row)


def state_digest(tables: ReadTables) -> str:
    """The digest as of the last commit, without reading the rows (I7)."""
    counters, digest = tables.get(Table.META, COUNTERS_KEY), tables.get(Table.META, DIGEST_KEY)
    if counters is None or digest is None:
        raise CorruptState("the state has no digest")
    return digest_text(int.from_bytes(digest, "big"), counters)
