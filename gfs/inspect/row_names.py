"""How the key of a row is shown to a person. Never fails, whatever the key."""

from __future__ import annotations

from gfs.master.core.records import read_id
from gfs.master.core.tables import Table


def row_name(table: Table, key: bytes) -> str:
    """For example "1/logs" for an entry, "17/3" for chunk 3 of inode 17; hexadecimal for what is no key."""
    if table is Table.DENTRIES and len(key) >= 8:
        return f"{read_id(key)}/{_text(key[8:])}"
    if table is Table.FILE_CHUNKS and len(key) == 12:
        return f"{read_id(key)}/{int.from_bytes(key[8:], 'big')}"
    if table in (Table.TRASH, Table.SESSIONS) and len(key) == 16:
        return f"{read_id(key)}/{read_id(key[8:])}"
    if table in (Table.SERVERS, Table.OWNERS) and key[:1] in (b"=", b"!"):
        return _text(key)
    if table in (Table.SERVERS, Table.OWNERS, Table.UNFINISHED) and len(key) == 9:
        return f"{_text(key[:1])}{read_id(key[1:])}"
    if table is Table.META:
        return _text(key)
    return str(read_id(key)) if len(key) == 8 else key.hex()


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
