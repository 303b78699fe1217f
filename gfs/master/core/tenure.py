"""Whether a chunk server stays in the cluster: an operator's word, logged. What is done about it is not here.

serving: it may get replicas. draining: it gets none, and those it has move away; they are read and written
until then. removed: it is not listened to any more. A word taken back loses nothing: which replicas are
good is said by each chunk's version and set, whoever held them meanwhile.

Invariant: a server that serves has no row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from gfs.errors import CorruptState, InvalidArgument, Unavailable
from gfs.master.core.digest import DigestedTables
from gfs.master.core.tables import ReadTables, Table
from gfs.messages.operations import SetTenure
from gfs.vocabulary import ServerId

Tenure = Literal["serving", "draining", "removed"]
TENURES: tuple[Tenure, ...] = get_args(Tenure)
SERVER_ID_BYTES_MAX = 128

_PREFIX, _BEHIND = b"!", b'"'  # keeps these rows apart from numbers (#) and ids (=)


def tenures(tables: ReadTables) -> dict[ServerId, Tenure]:
    """Of all servers that do not simply serve, by id."""
    return {
        ServerId(key[1:].decode("utf-8")): _read(row)
        for key, row in tables.scan(Table.SERVERS, _PREFIX, _BEHIND)
    }


def tenure_of(tables: ReadTables, server: ServerId) -> Tenure:
    row = tables.get(Table.SERVERS, _key(server))
    return "serving" if row is None else _read(row)


def set_tenure(tables: DigestedTables, operation: SetTenure) -> None:
    """Raises: InvalidArgument."""
    if operation.tenure not in TENURES:
        raise InvalidArgument(f"a chunk server can be {', '.join(TENURES)}; not {operation.tenure[:20]!r}")
    check_server_id(operation.server)
    key, new = _key(operation.server), operation.tenure.encode("ascii")
    old = tables.get(Table.SERVERS, key)
    if operation.tenure == "serving":
        if old is not None:
            tables.remove(Table.SERVERS, key, old=old)
    elif old is None:
        tables.insert(Table.SERVERS, key, new)
    else:
        tables.replace(Table.SERVERS, key, old=old, new=new)


def refuse_leaving(tables: ReadTables, entering: Iterable[ServerId]) -> None:
    """No server that is to leave gets a replica, also not by a choice made before the operator's word.

    So one walk over all chunks that begins after a drain is logged finds all that the server will ever hold.
    Raises: Unavailable: choose again.
    """
    for server in entering:
        if tables.get(Table.SERVERS, _key(server)) is not None:
            raise Unavailable(f"chunk server {server[:40]} is leaving the cluster and takes no new replica")


def check_server_id(server: ServerId) -> None:
    """Raises: InvalidArgument."""
    try:
        length = len(server.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidArgument("a chunk server's id is not valid UTF-8") from None
    if not 0 < length <= SERVER_ID_BYTES_MAX:
        raise InvalidArgument(f"a chunk server's id has {length} bytes, not 1..{SERVER_ID_BYTES_MAX}")


def _key(server: ServerId) -> bytes:
    return _PREFIX + server.encode("utf-8")


def _read(row: bytes) -> Tenure:
    for tenure in TENURES:
        if row == tenure.encode("ascii"):
            return tenure
    raise CorruptState(f"a chunk server's tenure cannot be read: {row[:20]!r}")
