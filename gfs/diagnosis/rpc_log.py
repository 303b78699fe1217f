"""The RPC log of one program: every request answered and its reply, all but file data (GFS §5.3)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from gfs.diagnosis.recorder import Recorder
from gfs.messages.base import Reply, Request, method_name
from gfs.messages.diagnosis import ReadEvents, ReadRpcLog, RpcRecord

BODY_BYTES_MAX = 4096  # of a request or reply in a record; of longer ones only the length is kept
PUSH_METHOD, READ_METHOD = "bulk_push", "bulk_read"

Body = Request | Reply | dict[str, Any] | None  # Any: the fields of a bulk head


class _Call(NamedTuple):
    at_us: int
    method: str
    trace: str
    peer: str
    code: str
    seconds: float
    request: Body
    reply: Body
    moved_bytes: int  # of file data, by a bulk call


class _Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RpcRecord with its bodies still encoded: the same bytes."""

    at_us: int
    method: str
    trace: str
    peer: str
    code: str
    seconds: float
    request_bytes: int = 0
    reply_bytes: int = 0
    request: msgspec.Raw | None = None
    reply: msgspec.Raw | None = None


class _Head(msgspec.Struct, frozen=True):
    """What a record is chosen by; the rest is skipped."""

    at_us: int
    method: str
    trace: str


_encoder = msgspec.msgpack.Encoder(enc_hook=repr)
_head_decoder = msgspec.msgpack.Decoder(_Head)
_record_decoder = msgspec.msgpack.Decoder(RpcRecord)


class RpcLog:
    """A CallObserver of the control port and of the bulk port (see transport.interface)."""

    def __init__(self, directory: str, *, bytes_max: int) -> None:
        self.recorder = Recorder[_Call](directory, bytes_max=bytes_max, encode=_encode)

    def called(
        self, request: Request, reply: Reply | None, *, peer: str, trace: str, code: str, seconds: float
    ) -> None:
        kind = type(request)
        if kind is ReadRpcLog or kind is ReadEvents:
            return  # who follows the log would keep it filled with himself
        at_us = time.time_ns() // 1000 - int(seconds * 1e6)
        self.recorder.note(_Call(at_us, method_name(kind), trace, peer, code, seconds, request, reply, 0))

    def moved(
        self,
        method: str,
        head: dict[str, Any],  # Any: as in Body
        *,
        peer: str,
        trace: str,
        code: str,
        seconds: float,
        moved_bytes: int,
    ) -> None:
        at_us = time.time_ns() // 1000 - int(seconds * 1e6)
        self.recorder.note(_Call(at_us, method, trace, peer, code, seconds, head, None, moved_bytes))


def choose(query: ReadRpcLog) -> Callable[[bytes], bool]:
    """Which payloads answer the query."""
    methods = frozenset(query.methods)

    def wanted(payload: bytes) -> bool:
        try:
            head = _head_decoder.decode(payload)
        except msgspec.MsgspecError:
            return False  # of another version
        return (
            head.at_us >= query.since_us
            and (not methods or head.method in methods)
            and (not query.trace or head.trace == query.trace)
        )

    return wanted


def decode_record(payload: bytes) -> RpcRecord:
    return _record_decoder.decode(payload)


def _encode(call: _Call) -> bytes:
    request, request_bytes = _body(call.request)
    reply, reply_bytes = _body(call.reply)
    return _encoder.encode(
        _Stored(
            at_us=call.at_us,
            method=call.method,
            trace=call.trace,
            peer=call.peer,
            code=call.code,
            seconds=round(call.seconds, 6),
            request_bytes=call.moved_bytes or request_bytes,
            reply_bytes=reply_bytes,
            request=request,
            reply=reply,
        )
    )


def _body(body: Body) -> tuple[msgspec.Raw | None, int]:
    if body is None:
        return None, 0
    if not isinstance(body, dict) and _may_hold_bytes(type(body)):
        length = len(_encoder.encode(body))
        encoded = _encoder.encode(_without_data(msgspec.to_builtins(body, builtin_types=(bytes,))))
    else:
        encoded = _encoder.encode(body)
        length = len(encoded)
    return (msgspec.Raw(encoded) if len(encoded) <= BODY_BYTES_MAX else None), length


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
def _may_hold_bytes(kind: type[Request] | type[Reply]) -> bool:
    """Whether a message of this type can carry file data, anywhere in it."""
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
