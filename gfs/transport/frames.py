"""The frames of the control wire and their limits: what one WebSocket message holds. No connections here.

A message is a msgpack array of frames, so that all that is ready goes out in one write:

    0xdd, count (4 bytes, big endian), frame, frame, …

A frame is a msgpack array whose first item names it. Each side sends Hello first and nothing before it has
the other's. A request or reply inside a frame is a map with its method or reply name under "type".
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import Generic, TypeVar, Union

import msgspec

from gfs.errors import FrameTooLarge, GfsError, InvalidArgument, UnsupportedVersion, WrongCluster
from gfs.messages.base import NOBODY, PROTO_VERSION, PROTO_VERSION_MIN, ErrorReply, Identity, Reply, Request
from gfs.settings import FRAME_BYTES_MAX

M = TypeVar("M")

_COUNT = struct.Struct(">BI")
_ARRAY_32 = 0xDD
MESSAGE_OVERHEAD_BYTES = _COUNT.size
MESSAGE_BYTES_MAX = FRAME_BYTES_MAX + MESSAGE_OVERHEAD_BYTES
DECODE_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # by a stranger's bytes
COALESCE_BYTES_MAX = 256 * 2**10  # frames beyond this go into the next message, unless one alone is larger
assert COALESCE_BYTES_MAX <= FRAME_BYTES_MAX


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """Base of all frames. Fields are only ever added at the end, with a default."""


class Hello(Frame, tag="hello", frozen=True, array_like=True):
    """Who speaks, for whom, and which versions of the protocol. `cluster` is empty when not known yet.

    `credential`: of a caller, see gfs.credentials.
    """

    proto_min: int
    proto_max: int
    role: str
    node: str
    cluster: str = ""
    identity: Identity = NOBODY
    credential: str = ""


class Refusal(Frame, tag="refusal", frozen=True, array_like=True):
    """What a Hello is answered with when the two cannot talk; the connection closes after it."""

    error: ErrorReply


class Call(Frame, Generic[M], tag="call", frozen=True, array_like=True):
    """`id` is unique among the caller's open calls; nobody waits any more after `seconds_left`."""

    id: int
    seconds_left: float
    trace: str
    request: M


class Answer(Frame, Generic[M], tag="answer", frozen=True, array_like=True):
    id: int
    reply: M


class Cancel(Frame, tag="cancel", frozen=True, array_like=True):
    """Nobody waits for the answer to call `id` any more."""

    id: int


_encoder = msgspec.msgpack.Encoder()


def encode_frame(frame: Frame) -> bytes:
    """Raises: FrameTooLarge, InvalidArgument (definite: it never leaves this program)."""
    try:
        encoded = _encoder.encode(frame)
    except OverflowError as error:
        raise InvalidArgument("a number has more than 64 bits") from error
    if len(encoded) > FRAME_BYTES_MAX:
        raise FrameTooLarge(
            f"a control message of {len(encoded)} bytes is over the limit of {FRAME_BYTES_MAX}",
            details={"limit_bytes": str(FRAME_BYTES_MAX)},
        )
    return encoded


def join_frames(frames: Collection[bytes]) -> bytes:
    return b"".join((_COUNT.pack(_ARRAY_32, len(frames)), *frames))


RequestFrames = list[Call[Request] | Cancel | Hello]
ReplyFrames = list[Answer[Reply] | Hello | Refusal]
RawRequestFrames = list[Call[msgspec.Raw] | Cancel | Hello]
RawReplyFrames = list[Answer[msgspec.Raw] | Hello | Refusal]


def request_decoder(requests: Iterable[type[Request]]) -> msgspec.msgpack.Decoder[RequestFrames]:
    """Decoder of a whole message from a caller; fails as a whole when one request in it is bad."""
    return msgspec.msgpack.Decoder(list[Call[_union(requests)] | Cancel | Hello])  # type: ignore[misc]


def reply_decoder(replies: Iterable[type[Reply]]) -> msgspec.msgpack.Decoder[ReplyFrames]:
    """Decoder of a whole message from a server; fails as a whole when one reply in it is bad."""
    return msgspec.msgpack.Decoder(list[Answer[_union(replies)] | Hello | Refusal])  # type: ignore[misc]


# A message with one bad request or reply is decoded again by these, so that the others are not lost with it.
raw_request_decoder = msgspec.msgpack.Decoder(RawRequestFrames)
raw_reply_decoder = msgspec.msgpack.Decoder(RawReplyFrames)


def decode_reply(encoded: msgspec.Raw | bytes, expected: type[Reply]) -> Reply:
    """Decode one reply alone. Raises: DECODE_FAULTS."""
    return msgspec.msgpack.decode(encoded, type=_union((expected, ErrorReply)))


def _union(kinds: Iterable[type[M]]) -> type[M]:
    return Union[tuple(kinds)]  # type: ignore[return-value]  # noqa: UP007 - built at run time


def error_reply(error: GfsError) -> ErrorReply:
    return ErrorReply(code=error.code, message=error.message, hint=error.hint, details=error.details)


def agree(mine: Hello, theirs: Hello) -> int:
    """The protocol version both speak: the highest common one.

    Raises: UnsupportedVersion, WrongCluster (both know their cluster, and it is not the same).
    """
    version = min(mine.proto_max, theirs.proto_max)
    if version < max(mine.proto_min, theirs.proto_min):
        raise UnsupportedVersion(
            f"{theirs.role} {theirs.node} speaks protocol {theirs.proto_min} to {theirs.proto_max}, "
            f"this {mine.role} {mine.proto_min} to {mine.proto_max}"
        )
    if mine.cluster and theirs.cluster and mine.cluster != theirs.cluster:
        raise WrongCluster(
            f"{theirs.role} {theirs.node} belongs to cluster {theirs.cluster}, "
            f"this {mine.role} {mine.node} to {mine.cluster}"
        )
    return version


def own_hello(
    *, role: str, node: str, cluster: str, identity: Identity = NOBODY, credential: str = ""
) -> Hello:
    return Hello(PROTO_VERSION_MIN, PROTO_VERSION, role, node, cluster, identity, credential)
