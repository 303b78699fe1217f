"""The RPC log of one program: every request answered and its reply, all but file data (GFS §5.3)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import msgspec

from gfs.diagnosis.recorder import UNENCODABLE, Recorder
from gfs.messages.base import Reply, Request
from gfs.messages.diagnosis import ReadEvents, ReadRpcLog, RpcRecord

BODY_BYTES_MAX = 4096  # of a request or reply in a record; of longer ones only the length is kept
RECORD_BYTES_MAX = 2 * BODY_BYTES_MAX

_NOT_RECORDED: frozenset[str] = frozenset(
    str(kind.__struct_config__.tag) for kind in (ReadRpcLog, ReadEvents)
)


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """What a record is chosen by; the rest is skipped."""

    at_us: int
    method: str
    trace: str


class _Stored(_Head, frozen=True, array_like=True):
    """A record on disk. The lengths are told only of bodies that were left out or cut."""

    peer: str
    code: str
    seconds: float
    request: msgspec.Raw
    reply: msgspec.Raw
    request_bytes: int = 0
    reply_bytes: int = 0


_encode = msgspec.msgpack.Encoder(enc_hook=repr).encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_stored = msgspec.msgpack.Decoder(_Stored).decode
_NONE = _encode(None)


class RpcLog:
    """A CallObserver of the control port and of the bulk port (see transport.interface)."""

    def __init__(self, directory: str, *, bytes_max: int) -> None:
        self.recorder = Recorder(directory, bytes_max=bytes_max)
        self._note = self.recorder.note

    def called(
        self, request: Request, reply: Reply | None, *, peer: str, trace: str, code: str, seconds: float
    ) -> None:
        method, may_hold_data = _kind(type(request))
        if method in _NOT_RECORDED or not self.recorder.has_room():
            return  # who follows the log would keep it filled with himself
        # In the order of _Stored; a tuple costs half as much as making one.
        head = (int((time.time() - seconds) * 1e6), method, trace, peer, code, seconds)
        try:
            if not may_hold_data:
                payload = _encode((*head, request, reply))
                if len(payload) <= RECORD_BYTES_MAX:
                    self._note(payload)
                    return
            self._note(_encode((*head, *_cut_bodies(request, reply))))
        except UNENCODABLE:
            self.recorder.dropped += 1  # a reply that cannot be sent either

    def moved(
        self,
        method: str,
        head: dict[str, Any],  # Any: the fields of a bulk head
        *,
        peer: str,
        trace: str,
        code: str,
        seconds: float,
        moved_bytes: int,
    ) -> None:
        at_us = int((time.time() - seconds) * 1e6)
        self._note(_encode((at_us, method, trace, peer, code, seconds, head, None, moved_bytes)))


def choose(query: ReadRpcLog) -> Callable[[bytes], bool]:
    """Which payloads answer the query."""
    methods = frozenset(query.methods)

    def wanted(payload: bytes) -> bool:
        try:
            head = _decode_head(payload)
        except msgspec.MsgspecError:
            return False  # of another version
        return (
            head.at_us >= query.since_us
            and (not methods or head.method in methods)
            and (not query.trace or head.trace == query.trace)
        )

    return wanted


def decode_record(payload: bytes) -> RpcRecord:
    stored = _decode_stored(payload)
    return RpcRecord(
        at_us=stored.at_us,
        method=stored.method,
        trace=stored.trace,
        peer=stored.peer,
        code=stored.code,
        seconds=round(stored.seconds, 6),
        request_bytes=stored.request_bytes or _length(stored.request),
        reply_bytes=stored.reply_bytes or _length(stored.reply),
        request=msgspec.msgpack.decode(stored.request),
        reply=msgspec.msgpack.decode(stored.reply),
    )


def _length(body: msgspec.Raw) -> int:
    return 0 if bytes(body) == _NONE else len(bytes(body))


def _cut_bodies(request: Request, reply: Reply | None) -> tuple[Any, Any, int, int]:  # Any: encodable things
    """Both bodies without file data, and without what is too long; then their true lengths."""
    bodies: list[msgspec.Raw] = []
    lengths: list[int] = []
    for body in (request, reply):
        encoded = _encode(body)
        lengths.append(0 if body is None else len(encoded))
        if body is not None and _kind(type(body))[1]:
            encoded = _encode(_without_data(msgspec.to_builtins(body, builtin_types=(bytes,))))
        bodies.append(msgspec.Raw(encoded if len(encoded) <= BODY_BYTES_MAX else _NONE))
    return bodies[0], bodies[1], lengths[0], lengths[1]


def _without_data(value: Any) -> Any:  # Any: builtins of any depth
    match value:
        case bytes():
            return {"bytes": len(value)}
        case dict():
            return {key: _without_data(item) for key, item in value.items()}
        case list() | tuple():
            return [_without_data(item) for item in value]
    return value


@functools.cache
def _kind(kind: type[Request] | type[Reply]) -> tuple[str, bool]:
    """Name of a message type, and whether it or its reply can carry file data."""
    reply = kind.reply if issubclass(kind, Request) else None
    holds_data = _may_hold_bytes(kind) or (reply is not None and _may_hold_bytes(reply))
    return str(kind.__struct_config__.tag), holds_data


def _may_hold_bytes(kind: type[Request] | type[Reply]) -> bool:
    pending: list[Any] = [msgspec.inspect.type_info(kind)]  # Any: msgspec's type descriptions
    seen: set[Any] = set()
    while pending:
        info = pending.pop()
        if isinstance(info, msgspec.inspect.BytesType | msgspec.inspect.MemoryViewType):
            return True
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            pending += [field.type for field in info.fields]
        pending += getattr(info, "types", ())
        pending += getattr(info, "item_types", ())
        for name in ("item_type", "key_type", "value_type"):
            if (inner := getattr(info, name, None)) is not None:
                pending.append(inner)
    return False
