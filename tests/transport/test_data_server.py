"""The bulk port against plain HTTP clients, and against peers that are slow, wrong, greedy or gone."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gfs.checksums import piece_checksums
from gfs.errors import ConfigInvalid, NoSpace, Overloaded, Unavailable
from gfs.settings import HTTP_HEAD_BYTES_MAX, PUSH_BYTES_MAX
from gfs.transport.data_server import DataServer
from gfs.transport.data_socket import DATA_WINDOW_BYTES
from gfs.vocabulary import KIB, Address, split_address
from tests.fakes.data_handler import MemoryDataHandler

CONNECTIONS_MAX = 4
STALL_SECONDS = 0.3
CHUNK = os.urandom(3 * DATA_WINDOW_BYTES + 12_345)


@pytest.fixture
def handler() -> MemoryDataHandler:
    made = MemoryDataHandler()
    made.chunks[7, 2] = CHUNK
    made.chunks[8, 1] = b""
    return made


@pytest.fixture
def server(handler: MemoryDataHandler) -> Iterator[DataServer]:
    made = DataServer(
        Address("127.0.0.1:0"),
        handler,
        connections_max=CONNECTIONS_MAX,
        congestion_control="cubic",
        idle_seconds=20.0,
        stall_seconds=STALL_SECONDS,
    )
    made.start()
    yield made
    made.stop()


@pytest.fixture
def plain(server: DataServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(server.address, timeout=10)
    yield connection
    connection.close()


def dial(server: DataServer) -> socket.socket:
    return socket.create_connection(split_address(server.address), timeout=10)


def read_to_end(connection: socket.socket) -> bytes:
    received = bytearray()
    while piece := connection.recv(64 * KIB):
        received += piece
    return bytes(received)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.001)  # polls a condition; no test outcome hangs on its length


def still_serves(server: DataServer) -> bool:
    connection = http.client.HTTPConnection(server.address, timeout=10)
    connection.request("GET", "/v1/chunks/7", headers={"Gfs-Version": "2"})
    answer = connection.getresponse().read()
    connection.close()
    return answer == CHUNK


# --- a plain HTTP client ------------------------------------------------------------------------


def test_a_push_by_plain_http_is_received_and_summed(
    plain: http.client.HTTPConnection, handler: MemoryDataHandler
) -> None:
    body = os.urandom(300_001)
    plain.request("PUT", "/v1/data/p1", body, headers={"Gfs-Offset": "1000"})
    answer = plain.getresponse()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(answer.read()) == {
        "received_bytes": len(body),
        "checksums": piece_checksums(1000, body),
        "failed": {},
    }
    assert handler.pushed == {"p1": body}


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (0, 0),
        (5, 9),
        (0, len(CHUNK) - 1),
        (DATA_WINDOW_BYTES - 1, DATA_WINDOW_BYTES),
        (3, 2 * DATA_WINDOW_BYTES),
    ],
)
def test_a_range_is_answered_with_its_bytes_and_the_committed_length(
    plain: http.client.HTTPConnection, first: int, last: int
) -> None:
    plain.request("GET", "/v1/chunks/7", headers={"Gfs-Version": "2", "Range": f"bytes={first}-{last}"})
    answer = plain.getresponse()
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(CHUNK)}"
    assert answer.headers["Gfs-Length"] == str(len(CHUNK))
    assert answer.read() == CHUNK[first : last + 1]


@pytest.mark.parametrize("wanted", [f"bytes=100-{2**40}", "bytes=100-"])
def test_a_range_past_the_end_is_cut_back_to_it(plain: http.client.HTTPConnection, wanted: str) -> None:
    plain.request("GET", "/v1/chunks/7", headers={"Gfs-Version": "2", "Range": wanted})
    answer = plain.getresponse()
    assert answer.headers["Content-Range"] == f"bytes 100-{len(CHUNK) - 1}/{len(CHUNK)}"
    assert answer.read() == CHUNK[100:]


@pytest.mark.parametrize(("handle", "version", "length"), [(7, 2, len(CHUNK)), (8, 1, 0)])
def test_a_range_at_or_past_the_end_is_416_with_the_length(
    plain: http.client.HTTPConnection, handle: int, version: int, length: int
) -> None:
    headers = {"Gfs-Version": str(version), "Range": f"bytes={length}-{length + 9}"}
    plain.request("GET", f"/v1/chunks/{handle}", headers=headers)
    answer = plain.getresponse()
    assert (answer.status, answer.headers["Gfs-Length"]) == (416, str(length))
    assert json.loads(answer.read())["code"] == "invalid_argument"


def test_a_get_without_range_gives_the_whole_chunk_also_an_empty_one(
    plain: http.client.HTTPConnection,
) -> None:
    for handle, version, content in ((7, 2, CHUNK), (8, 1, b"")):
        plain.request("GET", f"/v1/chunks/{handle}", headers={"Gfs-Version": str(version)})
        answer = plain.getresponse()
        assert (answer.status, answer.read()) == (200, content)


def test_head_tells_the_length_without_the_bytes(plain: http.client.HTTPConnection) -> None:
    plain.request("HEAD", "/v1/chunks/7", headers={"Gfs-Version": "2"})
    answer = plain.getresponse()
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(CHUNK)))
    assert answer.read() == b""


def test_many_requests_travel_on_one_connection(
    plain: http.client.HTTPConnection, server: DataServer, handler: MemoryDataHandler
) -> None:
    plain.connect()
    kept = plain.sock
    for turn in range(20):
        plain.request("PUT", f"/v1/data/p{turn}", b"x" * (turn + 1))
        assert plain.getresponse().read()
        plain.request("GET", "/v1/chunks/7", headers={"Gfs-Version": "2", "Range": "bytes=0-9"})
        assert plain.getresponse().read() == CHUNK[:10]
        plain.request("GET", "/v1/chunks/9", headers={"Gfs-Version": "2"})
        assert plain.getresponse().read()
    assert plain.sock is kept
    assert len(handler.pushed) == 20


def test_requests_sent_before_the_answers_are_all_answered(server: DataServer) -> None:
    get = b"GET /v1/chunks/7 HTTP/1.1\r\nGfs-Version: 2\r\nRange: bytes=0-3\r\n"
    put = b"PUT /v1/data/p HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    with dial(server) as connection:
        connection.sendall(get + b"\r\n" + put + get + b"Connection: close\r\n\r\n")
        received = read_to_end(connection)
    assert received.count(b"HTTP/1.1 206 ") == 2
    assert received.count(b"HTTP/1.1 200 ") == 1
    assert received.endswith(CHUNK[:4])


@pytest.mark.parametrize(
    ("handle", "version", "status", "code"), [(9, 1, 404, "not_found"), (7, 1, 409, "stale_version")]
)
def test_a_read_of_what_is_not_held_is_refused_by_name(
    plain: http.client.HTTPConnection, handle: int, version: int, status: int, code: str
) -> None:
    plain.request("GET", f"/v1/chunks/{handle}", headers={"Gfs-Version": str(version)})
    answer = plain.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (status, code)


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


def curl(*words: str) -> bytes:
    return subprocess.run(
        ["curl", "-sS", "--max-time", "20", *words], stdout=subprocess.PIPE, check=True
    ).stdout


@needs_curl
def test_curl_reads_ranges(server: DataServer) -> None:
    url = f"http://{server.address}/v1/chunks/7"
    assert curl("-H", "Gfs-Version: 2", url) == CHUNK
    assert curl("-H", "Gfs-Version: 2", "-r", "1000-299999", url) == CHUNK[1000:300_000]


@needs_curl
@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
def test_curl_pushes_a_file(
    server: DataServer, handler: MemoryDataHandler, tmp_path: Path, expect: str
) -> None:
    body = os.urandom(2_000_000)
    (tmp_path / "body").write_bytes(body)
    answer = curl("-T", str(tmp_path / "body"), "-H", expect, f"http://{server.address}/v1/data/c1")
    assert json.loads(answer)["received_bytes"] == len(body)
    assert handler.pushed["c1"] == body


# --- pushes that are refused or break off --------------------------------------------------------


def test_a_sender_that_expects_continue_sends_no_byte_of_a_refused_push(
    server: DataServer, handler: MemoryDataHandler
) -> None:
    handler.begin_error = Overloaded("the push buffer is full")
    with dial(server) as connection:
        connection.sendall(b"PUT /v1/data/p HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 503 ")
    assert b"overloaded" in received


def test_a_sender_that_expects_continue_is_asked_for_the_body(server: DataServer) -> None:
    with dial(server) as connection:
        connection.sendall(b"PUT /v1/data/p HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_refused_sender_can_read_why_although_its_body_was_not_wanted(
    server: DataServer, handler: MemoryDataHandler
) -> None:
    handler.begin_error = Overloaded("the push buffer is full")
    with dial(server) as connection:
        connection.sendall(f"PUT /v1/data/p HTTP/1.1\r\nContent-Length: {4 * 2**20}\r\n\r\n".encode())
        connection.sendall(bytes(4 * 2**20))
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 503 ")
    assert b"Connection: close" in received


def test_a_push_refused_after_its_body_leaves_the_connection_usable(
    plain: http.client.HTTPConnection, handler: MemoryDataHandler
) -> None:
    plain.connect()
    kept = plain.sock
    handler.finish_error = NoSpace("full")
    plain.request("PUT", "/v1/data/p", b"hello")
    answer = plain.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (507, "no_space")
    handler.finish_error = None
    plain.request("PUT", "/v1/data/p", b"hello")
    assert plain.getresponse().read()
    assert plain.sock is kept


def test_a_handler_that_breaks_is_an_internal_fault_without_its_details(
    plain: http.client.HTTPConnection, handler: MemoryDataHandler
) -> None:
    handler.finish_error = RuntimeError("secret")
    plain.request("PUT", "/v1/data/p", b"hello")
    answer = plain.getresponse()
    body = answer.read()
    assert (answer.status, json.loads(body)["code"]) == (500, "internal_fault")
    assert b"secret" not in body


def test_a_push_that_breaks_off_is_abandoned(server: DataServer, handler: MemoryDataHandler) -> None:
    with dial(server) as connection:
        connection.sendall(b"PUT /v1/data/p HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf")
        assert handler.begun.acquire(timeout=10)
    assert handler.sinks[0].abandoned.wait(10)
    assert handler.pushed == {}
    assert still_serves(server)


def test_a_push_whose_body_stops_coming_is_cut_off(server: DataServer, handler: MemoryDataHandler) -> None:
    with dial(server) as connection:
        connection.sendall(b"PUT /v1/data/p HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf")
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert handler.sinks[0].abandoned.is_set()


def test_a_head_sent_byte_by_byte_for_too_long_is_cut_off(server: DataServer) -> None:
    """Slow loris: each byte comes in time, the whole does not."""
    began = time.monotonic()
    with dial(server) as connection:
        connection.settimeout(STALL_SECONDS / 10)
        received = b""
        while time.monotonic() < began + 20 * STALL_SECONDS:
            try:
                connection.send(b"x")
                received = connection.recv(1000)
                break
            except TimeoutError:
                continue
            except OSError:
                break
    assert received.startswith(b"HTTP/1.1 400 ")
    assert time.monotonic() - began < 10 * STALL_SECONDS


# --- garbage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (os.urandom(2000) + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"PUT /v1/data/p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400),
        (b"PUT /v1/data/p HTTP/1.1\r\n\r\n", 400),
        (f"PUT /v1/data/p HTTP/1.1\r\nContent-Length: {PUSH_BYTES_MAX + 1}\r\n\r\n".encode(), 413),
        (b"GET /v1/chunks/7 HTTP/1.1\r\nX: " + b"y" * HTTP_HEAD_BYTES_MAX + b"\r\n\r\n", 413),
        (b"z" * (4 * HTTP_HEAD_BYTES_MAX), 413),
    ],
)
def test_garbage_is_answered_with_4xx_and_a_closed_connection(
    server: DataServer, handler: MemoryDataHandler, garbage: bytes, status: int
) -> None:
    with dial(server) as connection:
        connection.sendall(garbage)
        received = read_to_end(connection)
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Connection: close" in received
    assert handler.sinks == []
    assert still_serves(server)


@pytest.mark.parametrize("half", [b"", b"P", b"PUT /v1/data/p HTTP/1.1\r\nContent-Le"])
def test_a_peer_that_leaves_in_the_middle_of_a_head_harms_nobody(server: DataServer, half: bytes) -> None:
    for _ in range(2 * CONNECTIONS_MAX):
        with dial(server) as connection:
            connection.sendall(half)
    wait_until(lambda: still_serves(server))  # 503 until the server has seen them leave


def test_refused_requests_leave_one_line_in_the_log_and_no_traceback(
    server: DataServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with dial(server) as connection:
        connection.sendall(b"garbage\r\n\r\n")
        read_to_end(connection)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert len([line for line in (out + err).splitlines() if "refused" in line]) == 1


# --- reads that do not verify -------------------------------------------------------------------


def test_a_mismatch_before_the_first_byte_is_an_error(
    plain: http.client.HTTPConnection, handler: MemoryDataHandler
) -> None:
    handler.bad_from = 10
    plain.request("GET", "/v1/chunks/7", headers={"Gfs-Version": "2"})
    answer = plain.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (422, "checksum_mismatch")


def test_a_mismatch_after_the_first_byte_cuts_the_connection_short(
    plain: http.client.HTTPConnection, handler: MemoryDataHandler
) -> None:
    handler.bad_from = 2 * DATA_WINDOW_BYTES
    plain.request("GET", "/v1/chunks/7", headers={"Gfs-Version": "2"})
    answer = plain.getresponse()
    with pytest.raises(http.client.IncompleteRead) as cut:
        answer.read()
    assert cut.value.partial == CHUNK[: 2 * DATA_WINDOW_BYTES]


def test_a_reader_that_stops_reading_is_cut_off(server: DataServer, handler: MemoryDataHandler) -> None:
    handler.chunks[9, 1] = bytes(32 * 2**20)  # more than socket buffers hold
    with dial(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        connection.sendall(b"GET /v1/chunks/9 HTTP/1.1\r\nGfs-Version: 1\r\n\r\n")
        wait_until(lambda: not server._live)
    assert still_serves(server)


# --- limits, start and stop ---------------------------------------------------------------------


def busy_connections(server: DataServer, handler: MemoryDataHandler, count: int) -> list[socket.socket]:
    """Connections in the middle of a push."""
    made = []
    for turn in range(count):
        connection = dial(server)
        connection.sendall(f"PUT /v1/data/b{turn} HTTP/1.1\r\nContent-Length: 2\r\n\r\n1".encode())
        made.append(connection)
        assert handler.begun.acquire(timeout=10)
    return made


def test_a_connection_over_the_limit_is_answered_503_and_closed(handler: MemoryDataHandler) -> None:
    server = DataServer(Address("127.0.0.1:0"), handler, connections_max=2, congestion_control="")
    server.start()
    busy = busy_connections(server, handler, 2)
    with dial(server) as refused:
        received = read_to_end(refused)
    assert received.startswith(b"HTTP/1.1 503 ")
    assert b'"overloaded"' in received
    for turn, connection in enumerate(busy):  # those within the limit are not disturbed
        connection.sendall(b"2")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 "), turn
        connection.close()
    server.stop()


def test_an_idle_kept_connection_makes_room_for_a_new_one(
    server: DataServer, handler: MemoryDataHandler
) -> None:
    idle: list[socket.socket] = []
    while len(idle) < CONNECTIONS_MAX:
        idle.append(dial(server))
        idle[-1].sendall(b"GET /v1/chunks/8 HTTP/1.1\r\nGfs-Version: 1\r\n\r\n")
        assert idle[-1].recv(1000).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: len(server._between_requests) == len(idle))
    for _ in range(2 * CONNECTIONS_MAX):
        assert still_serves(server)
    assert idle[0].recv(1) == b""  # the one idle for longest went first
    for connection in idle:
        connection.close()


def test_a_connection_whose_first_request_is_still_to_come_is_not_closed_for_another(
    server: DataServer,
) -> None:
    fresh = [dial(server) for _ in range(CONNECTIONS_MAX)]
    wait_until(lambda: len(server._live) == CONNECTIONS_MAX)
    with dial(server) as refused:
        assert read_to_end(refused).startswith(b"HTTP/1.1 503 ")
    for connection in fresh:
        connection.sendall(b"GET /v1/chunks/8 HTTP/1.1\r\nGfs-Version: 1\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_a_connection_that_never_asks_is_closed(server: DataServer) -> None:
    with dial(server) as connection:
        assert connection.recv(1) == b""


def test_threads_are_reused_and_bounded(server: DataServer) -> None:
    for _ in range(5 * CONNECTIONS_MAX):
        assert still_serves(server)
    assert len(server._threads) <= CONNECTIONS_MAX


def test_stop_closes_every_connection_and_ends_every_thread(
    server: DataServer, handler: MemoryDataHandler
) -> None:
    idle = dial(server)
    busy = busy_connections(server, handler, 2)
    server.stop()
    for connection in (idle, *busy):
        assert connection.recv(100) == b""
        connection.close()
    assert all(sink.abandoned.is_set() for sink in handler.sinks)
    assert not any(thread.name.startswith("data-") for thread in threading.enumerate())
    with pytest.raises(ConnectionRefusedError):
        dial(server)
    server.stop()  # a second time is no error


def test_a_port_in_use_is_named(server: DataServer, handler: MemoryDataHandler) -> None:
    second = DataServer(server.address, handler, connections_max=1, congestion_control="cubic")
    with pytest.raises(Unavailable, match=server.address):
        second.start()


@pytest.mark.parametrize("address", ["192.0.2.1:9", "no-such-host.invalid:9"])
def test_an_address_of_somebody_else_is_named(handler: MemoryDataHandler, address: str) -> None:
    server = DataServer(Address(address), handler, connections_max=1, congestion_control="cubic")
    with pytest.raises(ConfigInvalid, match=address):
        server.start()


def test_a_congestion_control_the_kernel_lacks_is_no_error(handler: MemoryDataHandler) -> None:
    server = DataServer(Address("127.0.0.1:0"), handler, connections_max=1, congestion_control="nonesuch")
    server.start()
    assert still_serves(server)
    server.stop()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as plain:
            plain.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_it_listens_on_ipv6_too(handler: MemoryDataHandler) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback address")
    server = DataServer(Address("[::1]:0"), handler, connections_max=1, congestion_control="cubic")
    server.start()
    assert server.address.startswith("[::1]:")
    assert still_serves(server)
    server.stop()
