"""SQL over a checkpoint's relations: those that a query reads are put into a temporary SQLite database.

The database lies on disk, so memory stays flat; it is gone when the answer has been read. Nothing but reading
is let through.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from gfs.errors import InvalidArgument
from gfs.inspect.asking import ask
from gfs.inspect.checkpoint_files import CheckpointFile
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.relations import RELATIONS

ROWS_AT_ONCE = 1000
CACHE_KIB = 64 * 1024

_READING = (
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
)
Cell = int | float | str | bytes | None


def _decode_rows(frame: bytes) -> list[list[Cell]]:
    rows: list[list[Cell]] = msgspec.msgpack.decode(frame)  # what SQLite yields are cells already
    return rows


class Answer(NamedTuple):
    columns: list[str]
    rows: Iterator[list[Cell]]


def query(file: CheckpointFile, sql: str) -> Answer:
    """Raises: InvalidArgument for what is no SQL or would write; as ask()."""
    frames = ask(file, lambda tables: _answer(tables, sql))
    columns = msgspec.msgpack.decode(next(frames), type=list[str])
    return Answer(columns, (row for frame in frames for row in _decode_rows(frame)))


def _answer(tables: CheckpointTables, sql: str) -> Iterator[bytes]:
    database = sqlite3.connect("", isolation_level=None)  # a file without a name: nothing stays behind
    try:
        yield from _run(database, tables, sql)
    except (sqlite3.Error, sqlite3.Warning) as error:
        told = str(error)
        if "not authorized" in told or "prohibited" in told:
            raise InvalidArgument(f"a checkpoint can only be read: {told}") from error
        hint = "'gfs checkpoint query --help' lists all tables and columns."
        raise InvalidArgument(f"the query cannot be answered: {told}", hint=hint) from error
    finally:
        database.close()


def _run(database: sqlite3.Connection, tables: CheckpointTables, sql: str) -> Iterator[bytes]:
    # No journal, no syncs: nobody will want this file after a crash.
    for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}", "temp_store=FILE"):
        database.execute(f"PRAGMA {pragma}")
    for relation in RELATIONS.values():
        columns = ", ".join(f"{name} {kind}" for name, (kind, _) in relation.columns.items())
        database.execute(f"CREATE TABLE {relation.name} ({columns})")
    # Once over empty tables: what is wrong with it, and what would write, is told before anything is loaded.
    database.set_authorizer(_allow)
    database.execute(sql).fetchone()
    database.set_authorizer(None)
    database.execute("BEGIN")
    # What SQLite says of the tables it reads leaves out those joined by USING; but none is read unnamed.
    words = {word.lower() for word in re.findall(r"\w+", sql)}
    for name in [name for name in RELATIONS if name in words]:
        marks = ", ".join("?" * len(RELATIONS[name].columns))
        database.executemany(f"INSERT INTO {name} VALUES ({marks})", RELATIONS[name].rows(tables))
    database.execute("COMMIT")
    database.set_authorizer(_allow)
    cursor = database.execute(sql)
    if cursor.description is None:
        raise InvalidArgument("a query begins with SELECT or WITH")
    yield msgspec.msgpack.encode([column[0] for column in cursor.description])
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        yield msgspec.msgpack.encode(rows)


def _allow(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    refused = action not in _READING or (action == sqlite3.SQLITE_FUNCTION and second == "load_extension")
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK
