"""The control port against peers that are rude, broken, slow or of another version."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import struct
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
from structlog.typing import EventDict

from gfs.errors import ConfigInvalid, Unavailable
from gfs.messages.base import Ack, ErrorReply, Ping, Reply, Request
from gfs.messages.namespace import Entry, EntryReply, MakeDirectory, Stat
from gfs.settings import CALLS_IN_FLIGHT_MAX, FRAME_BYTES_MAX, SEND_QUEUE_BYTES_MAX
from gfs.transport.dispatch import answer_ping
from gfs.transport.frames import Call, Cancel, Hello, Refusal, decode_reply
from gfs.transport.interface import CallContext
from gfs.transport.websocket_server import ControlServer
from gfs.vocabulary import InodeId
from tests.transport.ports import HELLO, greeted, make_server, message, next_frames, running, tcp, websocket

UPGRADE = (
    b"GET /rpc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    """Every line logged; a traceback, or a task nobody looked after, fails the test."""
    with structlog.testing.capture_logs() as lines:
        yield lines
        gc.collect()  # futures and tasks with unseen exceptions speak up now
    assert not [line for line in lines if line.get("exc_info")]


@pytest.fixture(autouse=True)
def nothing_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"], caplog.text


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 5)
    return b""


async def _assert_serves(server: ControlServer) -> None:
    async with websocket(server.address) as socket:
        await greeted(socket)
        await socket.send_bytes(message(Call(1, 5.0, "t", Ping())))
        (answer,) = await next_frames(socket)
        assert decode_reply(answer.reply, Ack) == Ack()


async def test_a_port_that_is_taken_is_named() -> None:
    async with running(make_server()) as server:
        with pytest.raises(Unavailable, match=server.address):
            await make_server(address=server.address).start()


async def test_an_address_that_cannot_be_listened_on_is_named() -> None:
    with pytest.raises(ConfigInvalid, match=r"192\.0\.2\.1:0"):
        await make_server(address="192.0.2.1:0").start()


async def test_port_zero_becomes_the_real_one() -> None:
    async with running(make_server()) as server:
        assert server.address.startswith("127.0.0.1:")
        assert not server.address.endswith(":0")
        await _assert_serves(server)


async def test_the_server_says_hello_with_role_node_cluster_and_versions() -> None:
    async with running(make_server(cluster="here")) as server, websocket(server.address) as socket:
        await socket.send_bytes(message(HELLO))
        (hello,) = await next_frames(socket)
    assert hello == Hello(HELLO.proto_min, HELLO.proto_max, "master", "m1", "here")


async def test_a_peer_of_an_unknown_version_is_refused_with_a_reason(logged: list[EventDict]) -> None:
    async with running(make_server()) as server, websocket(server.address) as socket:
        await socket.send_bytes(message(Hello(98, 99, "client", "c1")))
        _, refusal = await next_frames(socket)
        assert isinstance(refusal, Refusal)
        assert refusal.error.code == "unsupported_version"
        assert (await asyncio.wait_for(socket.receive(), 5)).type is aiohttp.WSMsgType.CLOSE
    assert len(logged) == 1
    assert "98 to 99" in logged[0]["reason"]


async def test_fields_of_a_newer_version_are_skipped_in_hello_calls_and_requests() -> None:
    newer = [
        ["hello", 1, 7, "client", "c1", "", ["ann", ["crawl"], "new"], "something new"],
        ["call", 1, 5.0, "t", {"type": "ping", "new_field": [1, {"a": 2}]}, "something new"],
    ]
    async with running(make_server()) as server, websocket(server.address) as socket:
        await socket.send_bytes(msgspec.msgpack.encode(newer))
        frames = await next_frames(socket)
        if len(frames) == 1:
            frames += await next_frames(socket)
        assert decode_reply(frames[1].reply, Ack) == Ack()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe" * 100 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS client's first bytes
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST /v1/ping HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"A" * 100_000,
    ],
    ids=["binary", "tls", "half a line", "version", "length", "endless line"],
)
async def test_garbage_closes_the_connection_with_one_line(garbage: bytes, logged: list[EventDict]) -> None:
    async with running(make_server()) as server:
        async with tcp(server.address) as (reader, writer):
            writer.write(garbage)
            await _until_closed(reader)
        await _assert_serves(server)
    assert len(logged) == 1, logged


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x02",
        message(HELLO)[:-3],
        message(HELLO) + b"x",
        message(Cancel(1)),
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 200_000,
    ],
    ids=["empty", "invalid", "short", "cut", "more", "no hello", "huge count", "deep"],
)
async def test_a_first_message_that_is_no_hello_closes_the_connection_with_one_line(
    bad: bytes, logged: list[EventDict]
) -> None:
    async with running(make_server()) as server:
        async with websocket(server.address) as socket:
            await socket.send_bytes(bad)
            assert (await asyncio.wait_for(socket.receive(), 5)).type is aiohttp.WSMsgType.CLOSE
        await _assert_serves(server)
    assert len(logged) == 1, logged


@pytest.mark.parametrize("bad", [b"\xc1", b"\x91\x91\xa5other", "text"])
async def test_garbage_after_hello_closes_the_connection_with_one_line(
    bad: bytes | str, logged: list[EventDict]
) -> None:
    async with running(make_server()) as server:
        async with websocket(server.address) as socket:
            await greeted(socket)
            await (socket.send_bytes(bad) if isinstance(bad, bytes) else socket.send_str(bad))
            assert (await asyncio.wait_for(socket.receive(), 5)).type is aiohttp.WSMsgType.CLOSE
        await _assert_serves(server)
    assert len(logged) == 1, logged
    assert logged[0]["peer"] == "c1"


async def test_a_message_over_the_limit_is_refused_by_its_head_alone(logged: list[EventDict]) -> None:
    async with running(make_server()) as server:
        async with tcp(server.address) as (reader, writer):
            writer.write(UPGRADE)
            assert b"101" in await reader.readline()
            await reader.readuntil(b"\r\n\r\n")
            head = struct.pack(">BBQ4s", 0x82, 0x80 | 127, FRAME_BYTES_MAX + 100, b"mask")
            writer.write(head)  # and not a byte of the body
            rest = await _until_closed(reader)
            assert rest[:1] == b"\x88"  # a close frame
        await _assert_serves(server)
    assert len(logged) == 1, logged


async def test_half_a_frame_and_then_nothing_is_closed_in_time(logged: list[EventDict]) -> None:
    async with running(make_server(hello_seconds_max=0.05)) as server:
        async with tcp(server.address) as (reader, writer):
            writer.write(UPGRADE + b"\x82\xff\x00")
            await _until_closed(reader)
        await _assert_serves(server)
    assert [line["reason"] for line in logged] == ["no hello within 0.05 s"]


async def test_a_peer_that_vanishes_in_the_middle_of_a_frame_is_no_event(logged: list[EventDict]) -> None:
    async with running(make_server()) as server:
        async with tcp(server.address) as (reader, writer):
            writer.write(UPGRADE + b"\x82\xff\x00")
            await reader.readuntil(b"\r\n\r\n")
        await _assert_serves(server)
    assert logged == []


async def test_a_connection_that_asks_nothing_is_closed_in_time() -> None:
    async with running(make_server(hello_seconds_max=0.05)) as server:
        for beginning in (b"", b"GET /rpc HT", b"GET /livez HTTP/1.1\r\nHos"):
            async with tcp(server.address) as (reader, writer):
                writer.write(beginning)
                assert await _until_closed(reader) == b""


async def test_a_peer_nothing_is_heard_of_loses_its_connection_and_a_pinging_one_does_not(
    logged: list[EventDict],
) -> None:
    async with running(make_server(silence_seconds_max=0.2)) as server:
        async with websocket(server.address) as silent, websocket(server.address) as alive:
            await greeted(silent)
            await greeted(alive)
            closing = asyncio.create_task(silent.receive())
            while not closing.done():
                await alive.ping()
                await asyncio.wait([closing], timeout=0.02)
            await alive.send_bytes(message(Call(1, 5.0, "t", Ping())))
            (answer,) = await next_frames(alive)
            assert answer.id == 1
    assert len(logged) == 1


async def test_connections_over_the_limit_are_refused_and_their_slots_come_back() -> None:
    async with running(make_server(connections_max=2)) as server:
        async with websocket(server.address) as one:
            await greeted(one)
            async with websocket(server.address) as two:
                await greeted(two)
                async with tcp(server.address) as (reader, _):
                    assert await _until_closed(reader) == b""
            for _ in range(100):  # the server learns of the end a little later than we
                try:
                    await _assert_serves(server)
                    break
                except (aiohttp.ClientError, OSError):
                    continue
            else:
                raise AssertionError("the slot never came back")


async def _waits_for_ever(_: Request, __: CallContext) -> Reply:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("the future never ends")


async def test_one_bad_request_among_many_costs_only_itself() -> None:
    async with running(make_server()) as server, websocket(server.address) as socket:
        await greeted(socket)
        await socket.send_bytes(
            message(
                Call(1, 5.0, "t", Ping()),
                Call(2, 5.0, "t", Stat(path="/")),
                Call(3, 5.0, "t", 17),
                Call(4, 5.0, "t", {"type": 5}),
                Call(5, 5.0, "t", Ping()),
            )
        )
        answers: dict[int, Any] = {}  # Any: replies, to be decoded below
        while len(answers) < 5:
            answers |= {frame.id: frame.reply for frame in await next_frames(socket)}
    assert decode_reply(answers[1], Ack) == decode_reply(answers[5], Ack) == Ack()
    for call_id in (2, 3, 4):
        reply = decode_reply(answers[call_id], Ack)
        assert isinstance(reply, ErrorReply)
        assert reply.code == "invalid_argument"


async def test_calls_beyond_those_that_may_be_in_flight_are_told_so() -> None:
    async with running(make_server({Stat: _waits_for_ever})) as server:
        async with websocket(server.address) as socket:
            await greeted(socket)
            calls = [Call(number, 60.0, "t", Stat(path="/")) for number in range(CALLS_IN_FLIGHT_MAX + 3)]
            await socket.send_bytes(message(*calls))
            answers = await next_frames(socket)
    assert [answer.id for answer in answers] == [CALLS_IN_FLIGHT_MAX + extra for extra in range(3)]
    reply = decode_reply(answers[0].reply, Ack)
    assert isinstance(reply, ErrorReply)
    assert reply.code == "overloaded"


async def test_two_open_calls_of_one_id_end_the_connection(logged: list[EventDict]) -> None:
    async with running(make_server({Stat: _waits_for_ever})) as server:
        async with websocket(server.address) as socket:
            await greeted(socket)
            call = Call(1, 60.0, "t", Stat(path="/"))
            await socket.send_bytes(message(call))
            await socket.send_bytes(message(call))
            assert (await asyncio.wait_for(socket.receive(), 5)).type is aiohttp.WSMsgType.CLOSE
    assert "id 1" in logged[0]["reason"]


async def test_a_call_whose_time_is_up_on_arrival_never_runs() -> None:
    ran: list[Request] = []

    async def note(request: Request, _: CallContext) -> Reply:
        ran.append(request)
        return Ack()

    async with running(make_server({Ping: note})) as server, websocket(server.address) as socket:
        await greeted(socket)
        await socket.send_bytes(message(Call(1, 0.0, "t", Ping()), Call(2, -1.0, "t", Ping())))
        for answer in await next_frames(socket):
            reply = decode_reply(answer.reply, Ack)
            assert isinstance(reply, ErrorReply)
            assert reply.code == "deadline_exceeded"
    assert ran == []


async def test_calls_that_wait_end_each_when_its_own_time_is_up() -> None:
    ended: list[str] = []

    async def wait(request: Request, context: CallContext) -> Reply:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(context.trace)
        raise AssertionError

    async with running(make_server({Ping: wait})) as server, websocket(server.address) as socket:
        await greeted(socket)
        times = {1: 0.09, 2: 0.03, 3: 60.0, 4: 0.06}
        began = asyncio.get_running_loop().time()
        await socket.send_bytes(message(*(Call(n, left, str(n), Ping()) for n, left in times.items())))
        for number in (2, 4, 1):
            (answer,) = await next_frames(socket)
            assert answer.id == number
            assert asyncio.get_running_loop().time() - began >= times[number]
            reply = decode_reply(answer.reply, Ack)
            assert isinstance(reply, ErrorReply)
            assert reply.code == "deadline_exceeded"
        await socket.send_bytes(message(Call(5, 0.02, "5", Ping())))
        (answer,) = await next_frames(socket)
        assert answer.id == 5
        assert ended == ["2", "4", "1", "5"]


async def test_calls_that_came_with_a_waiting_one_are_answered_and_can_be_cancelled() -> None:
    cancelled: list[str] = []

    async def wait_if_asked(request: Request, _: CallContext) -> Reply:
        assert isinstance(request, MakeDirectory)
        if request.path != "/quick":
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.append(request.path)
        return ErrorReply(code="not_found", message=request.path)

    async with running(make_server({MakeDirectory: wait_if_asked})) as server:
        async with websocket(server.address) as socket:
            await greeted(socket)
            await socket.send_bytes(
                message(
                    Call(1, 60.0, "t", MakeDirectory(path="/slow1")),
                    Call(2, 60.0, "t", MakeDirectory(path="/quick")),
                    Call(3, 60.0, "t", MakeDirectory(path="/slow2")),
                    Cancel(3),
                    Call(4, 60.0, "t", MakeDirectory(path="/quick")),
                    Cancel(99),
                )
            )
            answered: list[int] = []
            while len(answered) < 2:
                answered += [frame.id for frame in await next_frames(socket)]
            await socket.send_bytes(message(Call(5, 60.0, "t", MakeDirectory(path="/quick"))))
            (last,) = await next_frames(socket)
            assert sorted(answered) == [2, 4]
            assert last.id == 5
            assert cancelled == ["/slow2"]


@pytest.mark.parametrize("waiting_first", [0, 20], ids=["no handler waits", "the first handlers wait"])
async def test_a_peer_that_does_not_read_is_not_read_from(waiting_first: int) -> None:
    ran = [0]

    async def big(_: Request, __: CallContext) -> Reply:
        ran[0] += 1
        if ran[0] <= waiting_first:
            await asyncio.sleep(0)
        entry = Entry(path="x" * 2**20, inode=InodeId(1), kind="file", created_ms=0, modified_ms=0)
        return EntryReply(entry=entry, applied_index=1)

    many = 100
    async with running(make_server({Stat: big, Ping: answer_ping})) as server:
        async with tcp(server.address) as (reader, writer):
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            transport = writer.transport
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()
            calls = [message(Call(number, 60.0, "t", Stat(path="/"))) for number in range(many)]
            for bodies in ([message(HELLO), *calls[:waiting_first]], calls[waiting_first:]):
                for body in bodies:
                    writer.write(struct.pack(">BBH4s", 0x82, 0x80 | 126, len(body), bytes(4)) + body)
                await writer.drain()
                before = -1
                while before != ran[0]:  # until it stands still, while other connections are served
                    before = ran[0]
                    for _ in range(20):
                        await _assert_serves(server)
            # What the kernel's buffers and the reading queue hold comes on top of our own queue.
            assert 0 < ran[0] < SEND_QUEUE_BYTES_MAX // 2**20 + 40 < many
            transport.resume_reading()
            got = 0
            while got < many * 2**20:
                got += len(await asyncio.wait_for(reader.read(2**20), 5))
    assert ran[0] == many


async def test_stopping_ends_open_calls_and_connections_at_once() -> None:
    server = make_server({Stat: _waits_for_ever})
    await server.start()
    async with websocket(server.address) as socket:
        await greeted(socket)
        await socket.send_bytes(message(Call(1, 60.0, "t", Stat(path="/"))))
        await asyncio.wait_for(server.stop(), 3)
        assert (await asyncio.wait_for(socket.receive(), 5)).type in (
            aiohttp.WSMsgType.CLOSE,
            aiohttp.WSMsgType.CLOSED,
        )
    with pytest.raises(OSError):
        async with tcp(server.address):
            pass
