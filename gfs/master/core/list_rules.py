"""What holds of servers, owners, sessions, meta and the digest. The tree is entry_rules'."""

from __future__ import annotations

import struct

from gfs.errors import CorruptState
from gfs.master.core.digest import DIGEST_BYTES
from gfs.master.core.incarnation import INCARNATION_KEY, read_incarnation
from gfs.master.core.owners import OWNER_BYTES_MAX
from gfs.master.core.records import (
    APPLIED_KEY,
    COUNTERS_KEY,
    DIGEST_KEY,
    DIGEST_MARK_KEY,
    FORMAT_KEY,
    OWNERSHIP_MAX,
    STATE_FORMAT,
    Counters,
    SessionHeader,
    decode_counters,
    decode_mark,
    decode_session,
    id_key,
    ownership_key,
    read_id,
    read_outcome_key,
    server_id_key,
)
from gfs.master.core.soundness import ManyTables, Report, batches
from gfs.master.core.tables import Table
from gfs.master.core.tenure import SERVER_ID_BYTES_MAX, TENURES
from gfs.master.core.user_tokens import ROW_MARKS, row_fault
from gfs.settings import SESSION_WINDOW

_APPLIED_BYTES = 16
_META = (COUNTERS_KEY, DIGEST_KEY, DIGEST_MARK_KEY, APPLIED_KEY, FORMAT_KEY, INCARNATION_KEY)


def check_meta(tables: ManyTables, report: Report) -> Counters | None:
    """The counters, where there are any to compare the tables with."""
    for key, _ in tables.scan(Table.META):
        if key not in _META:
            report("meta", Table.META, key, f"nothing is known of a row {key!r}")
    found = int.from_bytes(tables.get(Table.META, FORMAT_KEY) or b"", "big")
    if found != STATE_FORMAT:
        report("format", Table.META, FORMAT_KEY, f"the state has format {found}, not {STATE_FORMAT}")
    applied = tables.get(Table.META, APPLIED_KEY)
    if applied is not None and len(applied) != _APPLIED_BYTES:
        report("meta", Table.META, APPLIED_KEY, "how far the log was applied cannot be read")
    if len(tables.get(Table.META, DIGEST_KEY) or b"") != DIGEST_BYTES:
        report("digest", Table.META, DIGEST_KEY, "the state has no digest")
    try:
        mark = tables.get(Table.META, DIGEST_MARK_KEY)
        if mark is not None:
            decode_mark(mark)
    except CorruptState as error:
        report("meta", Table.META, DIGEST_MARK_KEY, error.message)
    try:
        read_incarnation(tables)
    except CorruptState as error:
        report("meta", Table.META, INCARNATION_KEY, error.message)
    row = tables.get(Table.META, COUNTERS_KEY)
    if row is None:
        report("counter", Table.META, COUNTERS_KEY, "the state has no counters")
        return None
    try:
        return decode_counters(row)
    except CorruptState as error:
        report("counter", Table.META, COUNTERS_KEY, error.message)
        return None


def check_digest(tables: ManyTables, report: Report, rows_digest: int) -> None:
    """`rows_digest`: of the rows as they are."""
    kept = tables.get(Table.META, DIGEST_KEY) or b""
    if len(kept) == DIGEST_BYTES and int.from_bytes(kept, "big") != rows_digest:
        told = "the digest is not that of the rows: some row was lost, added or changed"
        report("digest", Table.META, DIGEST_KEY, told)


def check_servers(tables: ManyTables, counters: Counters, report: Report) -> None:
    """Each number of a chunk server has one id, and back."""
    names: dict[int, bytes] = {}
    numbers: dict[bytes, int] = {}
    for key, row in tables.scan(Table.SERVERS):
        if not _split(Table.SERVERS, key, row, names, numbers, SERVER_ID_BYTES_MAX, report):
            if key[:1] == b"!":
                if row not in [tenure.encode("ascii") for tenure in TENURES]:
                    report("server", Table.SERVERS, key, f"the tenure {row[:20]!r} of a server is unknown")
            else:
                report("server", Table.SERVERS, key, "a row of chunk servers cannot be read")
    back = {server_id_key(row.decode("utf-8")): number for number, row in names.items()}
    _compare(Table.SERVERS, names, numbers, back, counters.next_server - 1, report)


def check_owners(tables: ManyTables, counters: Counters, report: Report) -> None:
    """Each number of owner and group has one pair of names, and back."""
    names: dict[int, bytes] = {}  # at most OWNERSHIP_MAX
    numbers: dict[bytes, int] = {}
    if counters.ownerships > OWNERSHIP_MAX:
        report("counter", Table.META, COUNTERS_KEY, f"{counters.ownerships} owners are too many")
    for key, row in tables.scan(Table.OWNERS):
        if not _split(Table.OWNERS, key, row, names, numbers, 2 * OWNER_BYTES_MAX + 1, report):
            told = row_fault(key, row) if key[:1] in ROW_MARKS else "a row of owners cannot be read"
            if told:
                report("owner", Table.OWNERS, key, told)
    back = {ownership_key(row): number for number, row in names.items()}
    _compare(Table.OWNERS, names, numbers, back, counters.ownerships, report)


def _split(
    table: Table,
    key: bytes,
    row: bytes,
    names: dict[int, bytes],
    numbers: dict[bytes, int],
    name_bytes_max: int,
    report: Report,
) -> bool:
    """Put a row with the others of its direction; False when it is of neither."""
    if key[:1] == b"#" and len(key) == 9 and 0 < len(row) <= name_bytes_max:
        try:
            row.decode("utf-8")
        except UnicodeDecodeError:
            report("name", table, key, f"{row!r} is no name")
        else:
            names[read_id(key[1:])] = row
        return True
    if key[:1] == b"=" and len(row) == 8:
        numbers[key] = read_id(row)
        return True
    return False


def _compare(
    table: Table,
    names: dict[int, bytes],
    numbers: dict[bytes, int],
    back: dict[bytes, int],
    highest: int,
    report: Report,
) -> None:
    if len(names) != highest or any(number not in names for number in range(1, highest + 1)):
        report("numbers", table, b"#", f"of the numbers up to {highest} only {len(names)} have a name")
    for key in sorted({*back, *numbers}):
        if back.get(key) != numbers.get(key):
            told = f"{key[1:]!r} has number {numbers.get(key)}, and number {back.get(key)} has that name"
            report("numbers", table, key, told)


def check_sessions(tables: ManyTables, counters: Counters, report: Report) -> None:
    """Every client's outcomes come behind its header, which counts them."""
    sessions = kept = 0
    client_key = b""
    header: SessionHeader | None = None
    for batch in batches(tables, Table.SESSIONS):
        for key, row in batch:
            if len(key) == 8:
                _end_session(client_key, header, kept, report)
                sessions += 1
                kept, client_key, header = 0, key, None
                try:
                    header = decode_session(row)
                except CorruptState as error:
                    report("session", Table.SESSIONS, key, error.message)
                continue
            try:
                client, sequence = read_outcome_key(key)
            except struct.error:
                report("key", Table.SESSIONS, key, "the key of an outcome cannot be read")
                continue
            if id_key(client) != client_key:
                told = f"an outcome is kept for client {client}, who has no session"
                report("outcome of nobody", Table.SESSIONS, key, told)
                continue
            kept += 1
            if header is not None and sequence > header.highest:
                report("session", Table.SESSIONS, key, f"client {client} skipped request {sequence}")
    _end_session(client_key, header, kept, report)
    if counters.sessions != sessions:
        told = f"{counters.sessions} sessions are counted, {sessions} are there"
        report("counter", Table.META, COUNTERS_KEY, told)


def _end_session(key: bytes, header: SessionHeader | None, kept: int, report: Report) -> None:
    if header is not None and (header.kept != kept or kept > SESSION_WINDOW):
        told = f"client {read_id(key)} counts {header.kept} outcomes, {kept} are there"
        report("session", Table.SESSIONS, key, told)
