"""Anyone to any program: what it has recorded of its calls and of what happened to it (GFS §5.3)."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from gfs.messages.base import Reply, Request


class RpcRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call as the program that answered it saw it; bulk reads and pushes by their heads.

    `request` and `reply` are what was sent, as maps; file data in them is replaced by its length, and what is
    longer than a record may be is left out (then only the `_bytes` tell of it).
    """

    at_us: int  # Unix time when the call came, in microseconds
    method: str
    trace: str  # the request id, the same in all programs that worked for one request
    peer: str  # node of the caller, or its address
    code: str  # "ok", an error's code, or "cancelled"
    seconds: float
    request_bytes: int = 0
    reply_bytes: int = 0
    request: Any = None  # Any: a map of whatever fields the request has
    reply: Any = None


class RpcLogPage(Reply, tag="rpc_log_page", frozen=True, kw_only=True):
    """`next_after`: pass it as `after` for what follows. `dropped`: calls not recorded for lack of time."""

    node: str
    records: list[RpcRecord]
    next_after: int
    more: bool = False
    dropped: int = 0


class ReadRpcLog(Request, tag="read_rpc_log", frozen=True, kw_only=True):
    """Records of this program, oldest first.

    `after` 0 with `newest` gives the last `limit` that match, else those behind position `after`.
    """

    reply: ClassVar[type[Reply]] = RpcLogPage
    after: int = 0
    newest: bool = False
    limit: int = 1000
    since_us: int = 0
    methods: list[str] = []
    trace: str = ""


class EventRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something worth knowing that happened in a program: a change of leader, a server that died …"""

    at_us: int
    level: str
    room: str
    event: str
    request_id: str = ""
    fields: dict[str, Any] = {}  # Any: numbers, strings, lists of them


class EventPage(Reply, tag="event_page", frozen=True, kw_only=True):
    node: str
    records: list[EventRecord]
    next_after: int
    more: bool = False
    dropped: int = 0


class ReadEvents(Request, tag="read_events", frozen=True, kw_only=True):
    """As ReadRpcLog, of events."""

    reply: ClassVar[type[Reply]] = EventPage
    after: int = 0
    newest: bool = False
    limit: int = 1000
    since_us: int = 0
