"""The bulk client: what it promises when the server answers, refuses, lies, stalls or is not there."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gfs.checksums import piece_checksums
from gfs.errors import (
    ChecksumMismatch,
    ConnectionLost,
    DeadlineExceeded,
    GfsError,
    InternalFault,
    NotFound,
    Overloaded,
    ProtocolFault,
    StaleVersion,
    Unavailable,
)
from gfs.messages.data import PushAnswer
from gfs.transport.data_client import DataClient
from gfs.transport.data_server import DataServer
from gfs.transport.data_socket import DATA_WINDOW_BYTES
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, MIB, Address, ChunkHandle, ChunkVersion, PushId
from tests.fakes.data_handler import MemoryDataHandler
from tests.paper.boxes import keeps

HANDLE, VERSION = ChunkHandle(7), ChunkVersion(2)
CHUNK = os.urandom(3 * DATA_WINDOW_BYTES + 12_345)


def new_server(handler: MemoryDataHandler, address: str = "127.0.0.1:0") -> DataServer:
    server = DataServer(Address(address), handler, connections_max=8, congestion_control="cubic")
    server.start()
    return server


@pytest.fixture
def handler() -> MemoryDataHandler:
    made = MemoryDataHandler()
    made.chunks[HANDLE, VERSION] = CHUNK
    return made


@pytest.fixture
def server(handler: MemoryDataHandler) -> Iterator[DataServer]:
    made = new_server(handler)
    yield made
    made.stop()


@pytest.fixture
def client() -> Iterator[DataClient]:
    made = DataClient(congestion_control="cubic")
    yield made
    made.close()


def push(client: DataClient, address: Address, data: bytes, *, seconds: float = 10.0) -> PushAnswer:
    return client.push(
        address,
        PushId("p1"),
        memoryview(data),
        offset=1000,
        chain=(),
        checksums=piece_checksums(1000, data),
        deadline_seconds=seconds,
    )


def read(
    client: DataClient, address: Address, first: int, length: int, *, seconds: float = 10.0
) -> tuple[bytes, int]:
    buffer = memoryview(bytearray(length))
    got, committed = client.read_into(address, HANDLE, VERSION, first, buffer, deadline_seconds=seconds)
    return bytes(buffer[:got]), committed


@contextmanager
def scripted_server(*scripts: Callable[[socket.socket], None]) -> Iterator[Address]:
    """A server that gives each connection to the next script, and closes it afterwards."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        for script in scripts:
            connection, _ = listener.accept()
            with connection:
                script(connection)

    thread = threading.Thread(target=run)
    thread.start()
    yield Address(f"127.0.0.1:{listener.getsockname()[1]}")
    thread.join()
    listener.close()


def after_request(answer: bytes) -> Callable[[socket.socket], None]:
    """Read what comes first, answer, hang up."""

    def script(connection: socket.socket) -> None:
        connection.recv(MIB)
        connection.sendall(answer)

    return script


def until_closed(connection: socket.socket) -> None:
    """Read everything, answer nothing."""
    try:
        while connection.recv(MIB):
            pass
    except ConnectionError:
        pass


# --- what goes well -----------------------------------------------------------------------------


def test_a_push_arrives_with_its_offset_chain_and_checksums(
    client: DataClient, server: DataServer, handler: MemoryDataHandler
) -> None:
    data = os.urandom(5 * MIB + 1)
    answer = push(client, server.address, data)
    assert answer.received_bytes == len(data)
    assert answer.checksums == piece_checksums(1000, data)
    assert handler.pushed["p1"] == data
    head = handler.sinks[0].head
    assert (head.offset, head.chain) == (1000, ())
    assert head.checksums == tuple(answer.checksums)


@pytest.mark.parametrize(("first", "length"), [(0, len(CHUNK)), (1, 10), (DATA_WINDOW_BYTES - 3, 7)])
def test_a_read_lands_in_the_callers_buffer(
    client: DataClient, server: DataServer, first: int, length: int
) -> None:
    assert read(client, server.address, first, length) == (CHUNK[first : first + length], len(CHUNK))


def read_verifying(client: DataClient, address: Address, first: int, length: int) -> bytes:
    buffer = memoryview(bytearray(length))
    got, _ = client.read_into(
        address, HANDLE, VERSION, first, buffer, deadline_seconds=10.0, verify_here=True
    )
    return bytes(buffer[:got])


@pytest.mark.parametrize("first, length", [(0, len(CHUNK)), (70_000, 600_000), (5, 10), (0, 10**7)])
def test_a_read_verified_here_gives_the_bytes_that_the_servers_sums_are_of(
    client: DataClient, server: DataServer, handler: MemoryDataHandler, first: int, length: int
) -> None:
    handler.bad_from = 0  # a read that the server has to verify would fail
    assert read_verifying(client, server.address, first, length) == CHUNK[first : first + length]


def test_one_flipped_bit_on_the_way_is_a_mismatch_that_names_the_block(
    client: DataClient, server: DataServer, handler: MemoryDataHandler
) -> None:
    for at in (0, 70_000, len(CHUNK) - 1):
        handler.on_disk = CHUNK[:at] + bytes([CHUNK[at] ^ 16]) + CHUNK[at + 1 :]
        with pytest.raises(ChecksumMismatch) as caught:
            read_verifying(client, server.address, 0, len(CHUNK))
        assert caught.value.details == {"block": str(at // CHECKSUM_BLOCK_BYTES)}
        assert read(client, server.address, 0, len(CHUNK))[0] == CHUNK, "what the server verifies is good"


def test_a_server_without_sums_verifies_itself_although_it_was_not_asked_to(
    client: DataClient, server: DataServer, handler: MemoryDataHandler
) -> None:
    handler.gives_sums = False
    assert read_verifying(client, server.address, 100, 600_000) == CHUNK[100:600_100]
    handler.bad_from = 500_000
    with pytest.raises(ConnectionLost):
        read_verifying(client, server.address, 100, 600_000)


def test_what_a_disk_does_not_give_as_it_is_comes_from_the_verified_read_or_not_at_all(
    client: DataClient, server: DataServer, handler: MemoryDataHandler
) -> None:
    handler.on_disk = CHUNK[:300_000]
    assert read_verifying(client, server.address, 0, len(CHUNK)) == CHUNK
    handler.bad_from = 400_000
    with pytest.raises(ConnectionLost):
        read_verifying(client, server.address, 0, len(CHUNK))


def test_an_answer_with_another_number_of_sums_than_blocks_is_a_protocol_fault(client: DataClient) -> None:
    answer = (
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nGfs-Length: 10\r\n"
        b"Content-Range: bytes 0-9/10\r\nGfs-Checksums: 0000000000000000\r\n\r\n0123456789"
    )
    with scripted_server(after_request(answer)) as address, pytest.raises(ProtocolFault):
        read_verifying(client, address, 0, 10)


def test_a_read_past_the_end_is_short_and_tells_the_committed_length(
    client: DataClient, server: DataServer
) -> None:
    assert read(client, server.address, len(CHUNK) - 5, 100) == (CHUNK[-5:], len(CHUNK))
    assert read(client, server.address, len(CHUNK), 100) == (b"", len(CHUNK))
    assert read(client, server.address, len(CHUNK) + 10**9, 100) == (b"", len(CHUNK))


@keeps("chunk-size")
def test_connections_are_kept_and_used_again(client: DataClient, server: DataServer) -> None:
    for _ in range(5):
        read(client, server.address, 0, 10)
        push(client, server.address, b"hello")
        read(client, server.address, len(CHUNK), 10)
        with pytest.raises(NotFound):
            client.read_into(
                server.address,
                ChunkHandle(99),
                VERSION,
                0,
                memoryview(bytearray(1)),
                deadline_seconds=10,
            )
    assert len(server._live) == 1


def test_no_more_connections_than_the_limit_are_opened(server: DataServer) -> None:
    client = DataClient(congestion_control="cubic", connections_per_address_max=2)
    threads = [threading.Thread(target=read, args=(client, server.address, 0, len(CHUNK))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(server._live) <= 2
    client.close()


def test_a_call_that_finds_no_free_connection_in_time_was_definitely_not_made() -> None:
    client = DataClient(congestion_control="cubic", connections_per_address_max=1)
    with scripted_server(until_closed) as address:
        first = client.begin_push(
            address, PushId("p"), memoryview(b"x"), offset=0, chain=(), checksums=None, connect_seconds=10
        )
        with pytest.raises(Unavailable):
            read(client, address, 0, 1, seconds=0.05)
        first.close()
    client.close()


# --- stale connections --------------------------------------------------------------------------


def test_a_kept_connection_that_the_server_closed_meanwhile_is_replaced(
    client: DataClient, handler: MemoryDataHandler
) -> None:
    first = new_server(handler)
    read(client, first.address, 0, 10)
    first.stop()
    second = new_server(handler, first.address)
    assert read(client, second.address, 0, 10)[0] == CHUNK[:10]
    second.stop()


OK_ANSWER = b'{"received_bytes":5,"checksums":[1]}'
OK_PUSH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(OK_ANSWER), OK_ANSWER)


def test_a_kept_connection_that_dies_under_the_request_is_retried_once_from_the_start(
    client: DataClient,
) -> None:
    seen: list[bytes] = []

    def answers_once_then_hangs_up_on_the_next(connection: socket.socket) -> None:
        connection.recv(MIB)
        connection.sendall(OK_PUSH)
        connection.recv(MIB)

    def answers(connection: socket.socket) -> None:
        seen.append(connection.recv(MIB))
        connection.sendall(OK_PUSH)

    with scripted_server(answers_once_then_hangs_up_on_the_next, answers) as address:
        push(client, address, b"first")
        assert push(client, address, b"again").received_bytes == 5
    assert seen[0].startswith(b"PUT /v1/data/p1 ")
    assert seen[0].endswith(b"\r\n\r\nagain")


def test_a_fresh_connection_that_dies_is_not_retried(client: DataClient) -> None:
    with scripted_server(after_request(b"")) as address:  # a second connection would never be answered
        with pytest.raises(ConnectionLost):
            push(client, address, b"hello")


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_cannot_be_reached_is_unavailable_and_that_is_definite(
    client: DataClient, host: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable) as lost:
        push(client, Address(f"{host}:{port}"), b"hello")
    assert lost.value.definite


@pytest.mark.parametrize("error", [Overloaded("full"), StaleVersion("old", details={"version": "9"})])
def test_what_the_server_refuses_with_is_raised_with_its_details(
    client: DataClient, server: DataServer, handler: MemoryDataHandler, error: GfsError
) -> None:
    handler.begin_error = handler.read_error = error
    for call in (lambda: push(client, server.address, b"x"), lambda: read(client, server.address, 0, 1)):
        with pytest.raises(type(error)) as refusal:
            call()
        assert (refusal.value.message, refusal.value.details) == (error.message, error.details)


def test_a_refusal_in_the_middle_of_a_large_push_is_still_heard(
    client: DataClient, server: DataServer, handler: MemoryDataHandler
) -> None:
    handler.begin_error = Overloaded("full")
    for _ in range(5):
        with pytest.raises(Overloaded):
            push(client, server.address, bytes(8 * MIB))


def test_an_answer_of_unknown_code_is_an_internal_fault(
    client: DataClient, server: DataServer, handler: MemoryDataHandler
) -> None:
    handler.finish_error = RuntimeError("a bug")
    with pytest.raises(InternalFault):
        push(client, server.address, b"hello")


def test_a_block_that_does_not_verify_is_an_error_and_never_bytes(
    client: DataClient, server: DataServer, handler: MemoryDataHandler
) -> None:
    handler.bad_from = 10
    with pytest.raises(ChecksumMismatch):
        read(client, server.address, 0, len(CHUNK))
    handler.bad_from = 2 * DATA_WINDOW_BYTES + 1
    with pytest.raises(ConnectionLost):  # the head was out already: the server can only hang up
        read(client, server.address, 0, len(CHUNK))
    handler.bad_from = None
    assert read(client, server.address, 0, len(CHUNK))[0] == CHUNK


def test_a_server_that_takes_the_bytes_and_says_nothing_runs_into_the_deadline(client: DataClient) -> None:
    with scripted_server(until_closed, until_closed) as address:
        with pytest.raises(DeadlineExceeded) as late:
            push(client, address, bytes(MIB), seconds=0.1)
        assert not late.value.definite
        with pytest.raises(DeadlineExceeded):
            read(client, address, 0, 10, seconds=0.1)


def test_a_server_that_does_not_even_take_the_bytes_runs_into_the_deadline(client: DataClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # never accepts; the kernel takes a little
        address = Address(f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(DeadlineExceeded):
            push(client, address, bytes(8 * MIB), seconds=0.2)


def answer_206(length: int, content_range: str, chunk_length: int = 900) -> bytes:
    return (
        f"HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\n"
        f"Content-Range: {content_range}\r\nGfs-Length: {chunk_length}\r\n\r\n"
    ).encode() + bytes(length)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        answer_206(11, "bytes 0-10/900"),  # more than asked for
        answer_206(10, "bytes 5-14/900"),  # another range
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 500 X\r\nContent-Length: 1000000\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_to_the_request_is_a_protocol_fault(client: DataClient, answer: bytes) -> None:
    with scripted_server(after_request(answer)) as address, pytest.raises(ProtocolFault):
        read(client, address, 0, 10)


def test_a_push_answer_that_cannot_be_read_is_a_protocol_fault(client: DataClient) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
    with scripted_server(after_request(answer)) as address, pytest.raises(ProtocolFault):
        push(client, address, b"hello")


def test_closing_ends_calls_under_way_and_refuses_later_ones(client: DataClient) -> None:
    ended: list[GfsError] = []
    reached = threading.Event()

    def reads_the_request(connection: socket.socket) -> None:
        connection.recv(MIB)
        reached.set()
        until_closed(connection)

    def call() -> None:
        try:
            read(client, address, 0, 10, seconds=60)
        except GfsError as error:
            ended.append(error)

    with scripted_server(reads_the_request) as address:
        caller = threading.Thread(target=call)
        caller.start()
        assert reached.wait(10)
        client.close()
        caller.join(10)
    assert [type(error) for error in ended] == [ConnectionLost]
    with pytest.raises(Unavailable):
        read(client, address, 0, 10)
