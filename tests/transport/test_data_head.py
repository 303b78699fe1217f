"""Heads of the bulk wire: what is understood, what is refused, and that nothing else can happen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.errors import (
    ChecksumMismatch,
    FrameTooLarge,
    GfsError,
    InvalidArgument,
    NotFound,
    Overloaded,
    ProtocolFault,
    StaleVersion,
    UnsupportedVersion,
)
from gfs.settings import PUSH_BYTES_MAX
from gfs.transport.data_head import (
    PushHead,
    ReadHead,
    read_answer,
    read_request,
    status_of,
    touched_blocks,
    write_answer,
    write_push,
    write_read,
)
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES, Address, ChunkHandle, ChunkVersion, PushId

HERE = Address("127.0.0.1:9")


def request(first_line: str, *fields: str) -> PushHead | ReadHead:
    return read_request("\r\n".join([first_line, *fields]).encode())


@st.composite
def pushes(draw: st.DrawFn) -> PushHead:
    length = draw(st.integers(1, PUSH_BYTES_MAX))
    offset = draw(st.integers(0, CHUNK_BYTES - length))
    blocks = touched_blocks(offset, length)
    sums = st.lists(st.integers(0, 2**32 - 1), min_size=blocks, max_size=blocks).map(tuple)
    ports = st.lists(st.integers(1, 65535), max_size=3, unique=True)
    return PushHead(
        push_id=PushId(draw(st.from_regex(r"[A-Za-z0-9._~:-]{1,128}", fullmatch=True))),
        length=length,
        offset=offset,
        chain=tuple(Address(f"host-{port}:{port}") for port in draw(ports)),
        checksums=draw(st.none() | sums),
        trace=draw(st.sampled_from(["", "0123abcd"])),
    )


@given(pushes())
def test_a_push_reads_as_it_was_written(head: PushHead) -> None:
    written = write_push(head, HERE)
    assert written.endswith(b"\r\n\r\n")
    assert read_request(written[:-4]) == head


def test_a_read_reads_as_it_was_written() -> None:
    head = ReadHead(
        handle=ChunkHandle(2**40), version=ChunkVersion(3), first=5, last=5, verify_here=True, trace="t"
    )
    assert read_request(write_read(head, HERE)[:-4]) == head


def test_field_names_have_no_case_and_unknown_fields_are_skipped() -> None:
    head = request("GET /v1/chunks/7 HTTP/1.1", "GFS-VERSION: 2", "rAnGe:bytes=4-", "X-Proxy: whatever")
    assert head == ReadHead(handle=ChunkHandle(7), version=ChunkVersion(2), first=4, last=None)


def test_a_get_without_range_asks_for_the_whole_chunk() -> None:
    head = request("GET /v1/chunks/7 HTTP/1.1", "Gfs-Version: 2")
    assert isinstance(head, ReadHead)
    assert (head.whole, head.first, head.last) == (True, 0, None)


PUT = "PUT /v1/data/p1 HTTP/1.1"
GET = "GET /v1/chunks/7 HTTP/1.1"
REFUSED: list[tuple[type[GfsError], str, list[str]]] = [
    (ProtocolFault, "", []),
    (ProtocolFault, "\x16\x03\x01\x02", []),  # the start of a TLS hello
    (ProtocolFault, "PUT /v1/data/p1", ["Content-Length: 1"]),
    (ProtocolFault, "PUT  /v1/data/p1 HTTP/1.1", ["Content-Length: 1"]),
    (ProtocolFault, PUT.replace("1.1", "one"), ["Content-Length: 1"]),
    (UnsupportedVersion, PUT.replace("HTTP/1.1", "HTTP/1.0"), ["Content-Length: 1"]),
    (UnsupportedVersion, "PRI * HTTP/2.0", []),
    (NotFound, "POST /v1/data/p1 HTTP/1.1", ["Content-Length: 1"]),
    (NotFound, "GET / HTTP/1.1", []),
    (NotFound, "PUT /v1/chunks/7 HTTP/1.1", ["Content-Length: 1"]),
    (ProtocolFault, PUT, []),
    (ProtocolFault, PUT, ["Transfer-Encoding: chunked"]),
    (ProtocolFault, PUT, ["Content-Length: 1", "Transfer-Encoding: chunked"]),
    (ProtocolFault, PUT, ["Content-Length: 1", "content-length: 2"]),
    (ProtocolFault, PUT, ["Content-Length: -1"]),
    (ProtocolFault, PUT, ["Content-Length: 0x10"]),
    (ProtocolFault, PUT, ["Content-Length: +1"]),
    (ProtocolFault, PUT, ["Content-Length: 1, 1"]),
    (ProtocolFault, PUT, ["Content-Length : 1"]),
    (ProtocolFault, PUT, ["Content-Length: 1", " folded"]),
    (ProtocolFault, PUT, ["Content-Length: 1", "no colon here"]),
    (ProtocolFault, PUT, ["Content-Length: 1", "X: a\x00b"]),
    (ProtocolFault, PUT, ["Content-Length: 1", "X: a\nGfs-Offset: 3"]),
    (ProtocolFault, PUT, ["Content-Length: 1", "Expect: miracles"]),
    (ProtocolFault, PUT, ["Content-Length: 1", *(f"X-{at}: y" for at in range(64))]),
    (InvalidArgument, PUT, ["Content-Length: 0"]),
    (FrameTooLarge, PUT, [f"Content-Length: {PUSH_BYTES_MAX + 1}"]),
    (FrameTooLarge, PUT, ["Content-Length: 999999999999999999"]),
    (InvalidArgument, PUT, ["Content-Length: 2", f"Gfs-Offset: {CHUNK_BYTES - 1}"]),
    (InvalidArgument, "PUT /v1/data/ HTTP/1.1", ["Content-Length: 1"]),
    (InvalidArgument, "PUT /v1/data/../etc HTTP/1.1", ["Content-Length: 1"]),
    (InvalidArgument, "PUT /v1/data/" + "x" * 129 + " HTTP/1.1", ["Content-Length: 1"]),
    (InvalidArgument, PUT, ["Content-Length: 1", "Gfs-Chain: nowhere"]),
    (InvalidArgument, PUT, ["Content-Length: 1", "Gfs-Chain: a:1,a:1"]),
    (InvalidArgument, PUT, ["Content-Length: 1", "Gfs-Chain: " + ",".join(f"a:{p}" for p in range(1, 17))]),
    (InvalidArgument, PUT, ["Content-Length: 1", "Gfs-Checksums: 123"]),
    (InvalidArgument, PUT, ["Content-Length: 1", "Gfs-Checksums: 0123456789abcdef"]),
    (InvalidArgument, PUT, ["Content-Length: 1", "Gfs-Checksums: zzzzzzzz"]),
    (InvalidArgument, GET, []),
    (ProtocolFault, GET, ["Gfs-Version: latest"]),
    (ProtocolFault, GET, ["Gfs-Version: 1", "Content-Length: 5"]),
    (InvalidArgument, "GET /v1/chunks/seven HTTP/1.1", ["Gfs-Version: 1"]),
    (InvalidArgument, GET, ["Gfs-Version: 1", "Range: bytes=-5"]),
    (InvalidArgument, GET, ["Gfs-Version: 1", "Range: bytes=5-4"]),
    (InvalidArgument, GET, ["Gfs-Version: 1", "Range: bytes=0-1,3-4"]),
    (InvalidArgument, GET, ["Gfs-Version: 1", "Range: lines=0-1"]),
]


@pytest.mark.parametrize(("kind", "first_line", "fields"), REFUSED)
def test_what_the_subset_does_not_have_is_refused(
    kind: type[GfsError], first_line: str, fields: list[str]
) -> None:
    with pytest.raises(kind) as refusal:
        request(first_line, *fields)
    assert type(refusal.value) is kind
    assert 400 <= status_of(refusal.value) < 600


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else(garbage: bytes) -> None:
    for read in (read_request, read_answer):
        with pytest.raises(GfsError):
            read(garbage)


@given(pushes(), st.data())
def test_a_damaged_head_is_understood_or_refused(head: PushHead, data: st.DataObject) -> None:
    written = bytearray(write_push(head, HERE)[:-4])
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] = data.draw(st.integers(0, 255))
    try:
        read = read_request(bytes(written))
    except GfsError:
        return
    assert isinstance(read, PushHead)
    assert 0 < read.length <= PUSH_BYTES_MAX
    assert read.offset + read.length <= CHUNK_BYTES


def test_an_answer_reads_as_it_was_written() -> None:
    fields = {"Gfs-Length": "900", "Content-Range": "bytes 10-19/900"}
    answer = read_answer(write_answer(206, 10, fields, keep_alive=False)[:-4])
    assert (answer.status, answer.content_length, answer.chunk_length, answer.first) == (206, 10, 900, 10)
    assert not answer.keep_alive


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999",
        b"HTTP/1.1 200 OK\r\nContent-Length: ten",
    ],
)
def test_an_answer_outside_the_subset_is_a_protocol_fault(head: bytes) -> None:
    with pytest.raises(ProtocolFault):
        read_answer(head)


def test_the_status_follows_from_the_error_and_its_kin() -> None:
    assert [status_of(kind("x")) for kind in (StaleVersion, Overloaded, ChecksumMismatch)] == [409, 503, 422]
    assert status_of(GfsError("x")) == 500


@pytest.mark.parametrize(
    ("offset", "length", "blocks"),
    [(0, 1, 1), (0, CHECKSUM_BLOCK_BYTES, 1), (1, CHECKSUM_BLOCK_BYTES, 2), (CHECKSUM_BLOCK_BYTES - 1, 2, 2)],
)
def test_blocks_are_counted_in_the_chunk_not_in_the_piece(offset: int, length: int, blocks: int) -> None:
    assert touched_blocks(offset, length) == blocks
