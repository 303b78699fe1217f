"""Heads of the bulk wire, read and written: the HTTP/1.1 subset of messages/data.py. No sockets.

One pass over the bytes of a head; what the subset does not have (chunked bodies, folded lines,
repeated lengths, other HTTP versions) is refused, never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gfs.capabilities import from_text, to_text
from gfs.errors import (
    AlreadyExists,
    ChecksumMismatch,
    ChunkSealed,
    FrameTooLarge,
    GfsError,
    InvalidArgument,
    LeaseExpired,
    NoSpace,
    NotFound,
    NotPrimary,
    Overloaded,
    PermissionDenied,
    ProtocolFault,
    PushMissing,
    StaleVersion,
    Superseded,
    Unauthenticated,
    Unavailable,
    UnsupportedVersion,
    WrongCluster,
)
from gfs.messages.data import CHUNK_PATH, PUSH_PATH
from gfs.settings import PUSH_BYTES_MAX
from gfs.vocabulary import (
    CHECKSUM_BLOCK_BYTES,
    CHUNK_BYTES,
    REPLICATION_GOAL_MAX,
    Address,
    ChunkHandle,
    ChunkVersion,
    PushId,
)

HEADERS_MAX = 64
_CAPABILITY_CHARS_MAX = 256
HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_PUSH_ID = re.compile(r"[A-Za-z0-9._~:-]{1,128}", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)
_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{0,19})", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_CHECKSUMS = re.compile(r"(?:[0-9a-fA-F]{8})+", re.ASCII)
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}", re.ASCII)

_STATUS_BY_ERROR: Mapping[type[GfsError], int] = {
    InvalidArgument: 400,
    ProtocolFault: 400,
    Unauthenticated: 401,
    PermissionDenied: 403,
    NotFound: 404,
    AlreadyExists: 409,
    LeaseExpired: 409,
    NotPrimary: 409,
    StaleVersion: 409,
    ChunkSealed: 409,
    PushMissing: 409,
    Superseded: 409,
    WrongCluster: 409,
    FrameTooLarge: 413,
    ChecksumMismatch: 422,
    UnsupportedVersion: 505,
    Overloaded: 503,
    Unavailable: 503,
    NoSpace: 507,
}

_REASONS: Mapping[int, str] = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Content Too Large",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PushHead:
    """A PUT as it was asked for. `chain`: the hops still to reach, nearest first.

    `checksums` is None when the sender gave none; otherwise one CRC32C for each block touched.
    """

    push_id: PushId
    length: int
    offset: int = 0
    chain: tuple[Address, ...] = ()
    checksums: tuple[int, ...] | None = None
    expects_continue: bool = False
    keep_alive: bool = True
    trace: str = ""
    capability: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadHead:
    """A GET (or HEAD: `with_body` False) as it was asked for. `last` is inclusive; None: to the end."""

    handle: ChunkHandle
    version: ChunkVersion
    first: int = 0
    last: int | None = None
    whole: bool = False  # no Range was given: answered with 200 instead of 206
    verify_here: bool = False  # the reader compares the bytes with the sums it is given
    with_body: bool = True
    keep_alive: bool = True
    trace: str = ""
    capability: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHead:
    """A response as the client sees it. Lengths in bytes; `chunk_length` -1 when it was not given."""

    status: int
    content_length: int
    keep_alive: bool
    chunk_length: int = -1
    first: int = -1  # of Content-Range
    checksums: tuple[int, ...] | None = None  # of each block the body touches; the body is unverified then


def touched_blocks(offset: int, length: int) -> int:
    """How many checksum blocks of the chunk `length` bytes at `offset` touch."""
    assert offset >= 0 and length > 0, (offset, length)
    return (offset + length - 1) // CHECKSUM_BLOCK_BYTES - offset // CHECKSUM_BLOCK_BYTES + 1


def read_request(head: bytes) -> PushHead | ReadHead:
    """Understand one request head (without the empty line that ends it).

    Raises: ProtocolFault for what is no HTTP of our subset, UnsupportedVersion for another HTTP version,
    NotFound for another path, InvalidArgument for a field out of its range, FrameTooLarge for a body
    over PUSH_BYTES_MAX.
    """
    first_line, fields = _split(head)
    parts = first_line.split(" ")
    if len(parts) != 3:
        raise ProtocolFault("the request line is not 'METHOD /path HTTP/1.1'")
    method, target, version = parts
    if version != "HTTP/1.1":
        if re.fullmatch(r"HTTP/\d(\.\d)?", version):
            raise UnsupportedVersion(f"{version} is not spoken here", hint="Use HTTP/1.1.")
        raise ProtocolFault("the request line is not 'METHOD /path HTTP/1.1'")
    if "transfer-encoding" in fields:
        raise ProtocolFault("Transfer-Encoding is not accepted", hint="Send a Content-Length.")
    if method == "PUT" and target.startswith(PUSH_PATH):
        return _push_head(target.removeprefix(PUSH_PATH), fields)
    if method in ("GET", "HEAD") and target.startswith(CHUNK_PATH):
        return _read_head(method, target.removeprefix(CHUNK_PATH), fields)
    raise NotFound(
        f"there is nothing here to {method[:16]} at {target[:64]!r}",
        hint=f"This port has PUT {PUSH_PATH}<push-id> and GET {CHUNK_PATH}<handle>.",
    )


def read_answer(head: bytes) -> AnswerHead:
    """Understand one response head. Raises: ProtocolFault."""
    first_line, fields = _split(head)
    parts = first_line.split(" ", 2)
    if len(parts) < 2 or parts[0] != "HTTP/1.1" or not re.fullmatch(r"[1-5]\d\d", parts[1]):
        raise ProtocolFault(f"not an HTTP/1.1 answer: {first_line[:64]!r}")
    if "transfer-encoding" in fields:
        raise ProtocolFault("the answer has a Transfer-Encoding, which this wire does not")
    status = int(parts[1])
    first, checksums = -1, None
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(fields.get("content-range", ""))
        if match is None:
            raise ProtocolFault("a partial answer came without a Content-Range")
        first = int(match[1])
    content_length = _number(fields, "content-length", default=0)
    chunk_length = _number(fields, "gfs-length", default=-1)
    if content_length > CHUNK_BYTES or chunk_length > CHUNK_BYTES:
        raise ProtocolFault("the answer speaks of more bytes than a chunk has")
    if status == 206 and content_length > 0:
        try:
            checksums = _checksums(fields.get("gfs-checksums"), touched_blocks(first, content_length))
        except InvalidArgument as error:
            raise ProtocolFault(f"not an answer: {error.message}") from error
    return AnswerHead(
        status=status,
        content_length=content_length,
        keep_alive=_keep_alive(fields),
        chunk_length=chunk_length,
        first=first,
        checksums=checksums,
    )


def write_push(head: PushHead, host: Address) -> bytes:
    """The bytes that open a PUT."""
    lines = [
        f"PUT {PUSH_PATH}{head.push_id} HTTP/1.1",
        f"Host: {host}",
        f"Content-Length: {head.length}",
        f"Gfs-Offset: {head.offset}",
    ]
    if head.chain:
        lines.append(f"Gfs-Chain: {','.join(head.chain)}")
    if head.checksums is not None:
        lines.append(f"Gfs-Checksums: {checksums_text(head.checksums)}")
    if head.trace:
        lines.append(f"Gfs-Trace: {head.trace}")
    if head.capability:
        lines.append(f"Gfs-Capability: {to_text(head.capability)}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def write_read(head: ReadHead, host: Address) -> bytes:
    """The bytes of a GET. `last` must be given."""
    assert head.last is not None
    lines = [
        f"GET {CHUNK_PATH}{head.handle} HTTP/1.1",
        f"Host: {host}",
        f"Gfs-Version: {head.version}",
        f"Range: bytes={head.first}-{head.last}",
    ]
    if head.verify_here:
        lines.append("Gfs-Verify: reader")
    if head.trace:
        lines.append(f"Gfs-Trace: {head.trace}")
    if head.capability:
        lines.append(f"Gfs-Capability: {to_text(head.capability)}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def write_answer(
    status: int, content_length: int, fields: Mapping[str, str] | None = None, *, keep_alive: bool = True
) -> bytes:
    """The bytes that open a response."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Length: {content_length}"]
    lines.extend(f"{name}: {value}" for name, value in (fields or {}).items())
    if not keep_alive:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def checksums_text(checksums: Sequence[int]) -> str:
    """The value of a Gfs-Checksums field."""
    return "".join(f"{checksum:08x}" for checksum in checksums)


def status_of(error: GfsError) -> int:
    """The HTTP status that goes with an error; its code travels in the body."""
    for kind in type(error).__mro__:
        if kind in _STATUS_BY_ERROR:
            return _STATUS_BY_ERROR[kind]
    return 500


def _split(head: bytes) -> tuple[str, dict[str, str]]:
    """The first line, and the fields by lower-case name."""
    try:
        lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError as error:
        raise ProtocolFault("the head has bytes that are not ASCII") from error
    if len(lines) > HEADERS_MAX + 1:
        raise ProtocolFault(f"more than {HEADERS_MAX} header fields")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise ProtocolFault(f"not a header field: {line[:64]!r}")
        value = value.strip(" \t")
        if not value.replace("\t", " ").isprintable():
            raise ProtocolFault(f"control characters in the header field {name[:64]!r}")
        key = name.lower()
        # Two different lengths or ranges are how requests are smuggled past proxies.
        if key in fields:
            raise ProtocolFault(f"the header field {name[:64]!r} came twice")
        fields[key] = value
    if not lines[0].isprintable():
        raise ProtocolFault("control characters in the first line")
    return lines[0], fields


def _push_head(name: str, fields: Mapping[str, str]) -> PushHead:
    if not _PUSH_ID.fullmatch(name):
        raise InvalidArgument("a push id is 1-128 of letters, digits and '._~:-'")
    if "content-length" not in fields:
        raise ProtocolFault("a push needs a Content-Length")
    length = _number(fields, "content-length")
    if length > PUSH_BYTES_MAX:
        raise FrameTooLarge(f"a push of {length} bytes; at most {PUSH_BYTES_MAX} are accepted")
    if length == 0:
        raise InvalidArgument("a push of no bytes")
    offset = _number(fields, "gfs-offset", default=0, largest=CHUNK_BYTES - length)
    expected = fields.get("expect", "").lower()
    if expected not in ("", "100-continue"):
        raise ProtocolFault(f"unknown expectation {expected[:64]!r}")
    return PushHead(
        push_id=PushId(name),
        length=length,
        offset=offset,
        chain=_chain(fields.get("gfs-chain", "")),
        checksums=_checksums(fields.get("gfs-checksums"), touched_blocks(offset, length)),
        expects_continue=expected == "100-continue",
        keep_alive=_keep_alive(fields),
        trace=_trace(fields),
        capability=from_text(fields.get("gfs-capability", "")[:_CAPABILITY_CHARS_MAX]),
    )


def _read_head(method: str, name: str, fields: Mapping[str, str]) -> ReadHead:
    if _number(fields, "content-length", default=0) != 0:
        raise ProtocolFault(f"a {method} has no body")
    if not _NUMBER.fullmatch(name):
        raise InvalidArgument("a chunk handle is a decimal number")
    if "gfs-version" not in fields:
        raise InvalidArgument("a read needs the chunk's version", hint="Send a Gfs-Version header.")
    first, last, wanted = 0, None, fields.get("range")
    if wanted is not None:
        match = _RANGE.fullmatch(wanted)
        if match is None:
            raise InvalidArgument("a Range is 'bytes=first-last' or 'bytes=first-'")
        first = int(match[1])
        last = int(match[2]) if match[2] else None
        if last is not None and last < first:
            raise InvalidArgument("the Range ends before it begins")
    return ReadHead(
        handle=ChunkHandle(int(name)),
        version=ChunkVersion(_number(fields, "gfs-version")),
        first=first,
        last=last,
        whole=wanted is None,
        verify_here=fields.get("gfs-verify", "").lower() == "reader",
        with_body=method == "GET",
        keep_alive=_keep_alive(fields),
        trace=_trace(fields),
        capability=from_text(fields.get("gfs-capability", "")[:_CAPABILITY_CHARS_MAX]),
    )


def _number(
    fields: Mapping[str, str], key: str, *, default: int | None = None, largest: int = 2**63 - 1
) -> int:
    text = fields.get(key)
    if text is None:
        assert default is not None, key  # required fields are looked for before they are read
        return default
    if not _NUMBER.fullmatch(text):
        raise ProtocolFault(f"{key}: {text[:32]!r} is not a number")
    number = int(text)
    if number > largest:
        raise InvalidArgument(f"{key}: {number} is over {largest}")
    return number


def _chain(text: str) -> tuple[Address, ...]:
    if not text:
        return ()
    hops = [hop.strip() for hop in text.split(",")]
    if len(hops) >= REPLICATION_GOAL_MAX:
        raise InvalidArgument(f"a chain of {len(hops) + 1} replicas; at most {REPLICATION_GOAL_MAX}")
    for hop in hops:
        if not _ADDRESS.fullmatch(hop):
            raise InvalidArgument(f"gfs-chain: {hop[:64]!r} is not host:port")
    if len(set(hops)) != len(hops):
        raise InvalidArgument("gfs-chain: an address came twice")
    return tuple(Address(hop) for hop in hops)


def _checksums(text: str | None, blocks: int) -> tuple[int, ...] | None:
    if text is None:
        return None
    if not _CHECKSUMS.fullmatch(text):
        raise InvalidArgument("gfs-checksums: 8 hex digits for each block")
    if len(text) != 8 * blocks:
        raise InvalidArgument(f"gfs-checksums: {len(text) // 8} checksums for {blocks} blocks")
    return tuple(int(text[at : at + 8], 16) for at in range(0, len(text), 8))


def _keep_alive(fields: Mapping[str, str]) -> bool:
    return "close" not in fields.get("connection", "").lower()


def _trace(fields: Mapping[str, str]) -> str:
    return fields.get("gfs-trace", "")[:64]
