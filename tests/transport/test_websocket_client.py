"""The caller's side of the control wire against servers that vanish, freeze, refuse or talk nonsense."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import WSMsgType, web

from gfs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    GfsError,
    Overloaded,
    ProtocolFault,
    Unavailable,
    UnsupportedVersion,
    WrongCluster,
)
from gfs.messages.base import Ack, Ping, Reply, Request
from gfs.messages.namespace import EntryReply, MakeDirectory, MutationReply, Stat
from gfs.settings import SEND_QUEUE_BYTES_MAX
from gfs.transport import client_connection, frames
from gfs.transport.dispatch import answer_ping
from gfs.transport.frames import Answer, Call, Cancel, Frame, Hello, raw_request_decoder
from gfs.transport.interface import CallContext
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import KIB, MIB, Address
from tests.transport.ports import make_server, message, running

SERVER_HELLO = Hello(1, 1, "master", "m1", "here")


@pytest.fixture(autouse=True)
def nothing_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"], caplog.text


@pytest.fixture
async def caller() -> AsyncIterator[WebSocketCaller]:
    caller = WebSocketCaller("client", "c1")
    yield caller
    await caller.close()


async def ping(caller: WebSocketCaller, address: Address, *, deadline_seconds: float = 5.0) -> Ack:
    return await caller.call(address, Ping(), Ack, deadline_seconds=deadline_seconds)


Behaviour = Callable[[web.WebSocketResponse], Awaitable[None]]


@asynccontextmanager
async def odd_server(behaviour: Behaviour) -> AsyncIterator[Address]:
    """A server that takes WebSockets at /rpc and then does whatever `behaviour` does, hello included."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        peer = web.WebSocketResponse(autoping=False, timeout=0.1)
        await peer.prepare(request)
        await behaviour(peer)
        return peer

    application = web.Application()
    application.router.add_get("/rpc", serve)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Address(f"127.0.0.1:{site.port}")
    finally:
        await runner.cleanup()


async def _greet(peer: web.WebSocketResponse) -> None:
    await peer.receive_bytes()
    await peer.send_bytes(message(SERVER_HELLO))


async def _next_call(peer: web.WebSocketResponse) -> Call[msgspec.Raw]:
    while True:
        received = await peer.receive()
        if received.type is WSMsgType.BINARY:
            frame = raw_request_decoder.decode(received.data)[0]
            assert isinstance(frame, Call)
            return frame


async def test_the_peers_hello_is_known_while_connected(caller: WebSocketCaller) -> None:
    async with running(make_server(cluster="here")) as server:
        assert caller.peer(server.address) is None
        await ping(caller, server.address)
        assert caller.peer(server.address) == SERVER_HELLO


async def test_calls_to_one_address_share_one_connection(caller: WebSocketCaller) -> None:
    connections = [0]

    async def one_by_one(peer: web.WebSocketResponse) -> None:
        connections[0] += 1
        await _greet(peer)
        answered = 0
        while answered < 30:
            received = await peer.receive_bytes()
            for frame in raw_request_decoder.decode(received):
                assert isinstance(frame, Call)
                await peer.send_bytes(message(Answer(frame.id, Ack())))
                answered += 1

    async with odd_server(one_by_one) as address:
        await asyncio.gather(*(ping(caller, address) for _ in range(30)))
    assert connections == [1]


async def test_another_version_is_refused_whichever_side_is_older(
    caller: WebSocketCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def from_the_future(peer: web.WebSocketResponse) -> None:
        await peer.receive_bytes()
        await peer.send_bytes(message(Hello(8, 9, "master", "m1")))

    async with odd_server(from_the_future) as address:
        with pytest.raises(UnsupportedVersion, match="8 to 9"):
            await ping(caller, address)
    async with running(make_server()) as server:
        monkeypatch.setattr(frames, "PROTO_VERSION_MIN", 8)
        monkeypatch.setattr(frames, "PROTO_VERSION", 9)
        async with odd_server(_greet) as address:
            with pytest.raises(UnsupportedVersion):
                await ping(caller, address)
        assert server.address


async def test_the_servers_refusal_reaches_the_caller(caller: WebSocketCaller) -> None:
    caller.cluster = "elsewhere"
    async with running(make_server(cluster="here")) as server:
        with pytest.raises(WrongCluster, match="elsewhere"):
            await ping(caller, server.address)
        caller.cluster = "here"
        assert await ping(caller, server.address) == Ack()


async def test_a_fresh_disk_that_knows_no_cluster_is_let_in(caller: WebSocketCaller) -> None:
    async with running(make_server(cluster="here")) as server:
        assert await ping(caller, server.address) == Ack()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:80", "[::1]:1"])
async def test_an_address_nobody_listens_on_is_a_definite_error_that_names_it(
    caller: WebSocketCaller, address: str
) -> None:
    with pytest.raises(Unavailable) as caught:
        await ping(caller, Address(address))
    assert caught.value.definite
    assert address in caught.value.message


async def test_a_frozen_server_costs_no_more_than_the_connect_limit_and_is_definite() -> None:
    listener = socket.create_server(("127.0.0.1", 0))  # the kernel accepts, nobody reads
    address = Address(f"127.0.0.1:{listener.getsockname()[1]}")
    caller = WebSocketCaller("client", "c1", connect_seconds_max=0.1)
    loop = asyncio.get_running_loop()
    try:
        for deadline_seconds in (30.0, 0.05):
            started = loop.time()
            with pytest.raises(Unavailable):
                await ping(caller, address, deadline_seconds=deadline_seconds)
            assert loop.time() - started < 3
        if caller._connecting:
            await asyncio.wait(caller._connecting.values())  # its own limit ends it, nobody waits for it
    finally:
        await caller.close()
        listener.close()


async def test_a_web_server_of_another_kind_is_recognised(caller: WebSocketCaller) -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    with pytest.raises(ProtocolFault, match="not a gfs control port"):
        await ping(caller, Address(f"127.0.0.1:{site.port}"))
    await runner.cleanup()


async def test_a_call_that_gives_up_does_not_take_the_connection_from_others(caller: WebSocketCaller) -> None:
    may_greet = asyncio.Event()

    async def slow_hello(peer: web.WebSocketResponse) -> None:
        await may_greet.wait()
        await _greet(peer)
        call = await _next_call(peer)
        await peer.send_bytes(message(Answer(call.id, Ack())))
        await peer.receive()

    async with odd_server(slow_hello) as address:
        impatient = asyncio.create_task(ping(caller, address))
        patient = asyncio.create_task(ping(caller, address))
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        may_greet.set()
        assert await patient == Ack()


async def test_the_next_call_after_a_restart_connects_again(caller: WebSocketCaller) -> None:
    async with running(make_server()) as server:
        await ping(caller, server.address)
    with pytest.raises(GfsError):
        await ping(caller, server.address)
    async with running(make_server(address=server.address)):
        assert await ping(caller, server.address) == Ack()


async def test_a_server_silent_with_calls_open_is_given_up_long_before_the_deadline(
    caller: WebSocketCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "PING_BUSY_SECONDS", 0.05)
    monkeypatch.setattr(client_connection, "SILENCE_BUSY_SECONDS_MAX", 0.2)
    pings = [0]

    async def freeze(peer: web.WebSocketResponse) -> None:
        await _greet(peer)
        while (await peer.receive()).type in (WSMsgType.PING, WSMsgType.BINARY):
            pings[0] += 1

    async with odd_server(freeze) as address:
        started = asyncio.get_running_loop().time()
        with pytest.raises(ConnectionLost, match="nothing was heard"):
            await ping(caller, address, deadline_seconds=60)
        assert 0.2 <= asyncio.get_running_loop().time() - started < 5
        assert caller.peer(address) is None
    assert pings[0] >= 3  # the call and two pings


async def test_a_server_that_answers_pings_may_take_its_time(
    caller: WebSocketCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "PING_BUSY_SECONDS", 0.03)
    monkeypatch.setattr(client_connection, "SILENCE_BUSY_SECONDS_MAX", 0.3)

    async def slow(peer: web.WebSocketResponse) -> None:
        await _greet(peer)
        call = await _next_call(peer)
        for _ in range(15):
            received = await peer.receive()
            assert received.type is WSMsgType.PING
            await peer.pong(received.data)
        await peer.send_bytes(message(Answer(call.id, Ack())))
        await peer.receive()

    async with odd_server(slow) as address:
        assert await ping(caller, address, deadline_seconds=60) == Ack()


async def test_an_idle_connection_is_pinged_and_dropped_when_nobody_answers(
    caller: WebSocketCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "PING_IDLE_SECONDS", 0.05)
    monkeypatch.setattr(client_connection, "SILENCE_IDLE_SECONDS_MAX", 0.2)
    over = asyncio.Event()

    async def answer_once(peer: web.WebSocketResponse) -> None:
        await _greet(peer)
        call = await _next_call(peer)
        await peer.send_bytes(message(Answer(call.id, Ack())))
        while (await peer.receive()).type is WSMsgType.PING:
            pass
        over.set()

    async with odd_server(answer_once) as address:
        await ping(caller, address)
        await asyncio.wait_for(over.wait(), 5)
        assert caller.peer(address) is None


async def _answer_after_a_ping(peer: web.WebSocketResponse) -> None:
    await _greet(peer)
    while True:
        call = await _next_call(peer)
        received = await peer.receive()
        assert received.type is WSMsgType.PING
        await peer.pong(received.data)
        await peer.send_bytes(message(Answer(call.id, Ack())))


@pytest.mark.parametrize("busy", [False, True], ids=["idle before", "this program stood still"])
async def test_silence_that_is_not_the_peers_is_not_held_against_it(
    caller: WebSocketCaller, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr(client_connection, "PING_BUSY_SECONDS", 0.05)
    async with odd_server(_answer_after_a_ping) as address:
        await ping(caller, address)
        connection = caller._connections[address]
        if busy:
            call = asyncio.create_task(ping(caller, address))
            await asyncio.sleep(0)
            connection._timer_due -= 10
        else:
            connection._watch()  # notices that no call is open
        connection._quiet_since -= 10
        assert await (call if busy else ping(caller, address)) == Ack()
        assert caller._connections[address] is connection


@pytest.mark.parametrize("nonsense", [b"\xc1", b"\x90\x90", b"\x91\x01"])
async def test_a_server_that_talks_nonsense_loses_the_connection_not_the_caller(
    caller: WebSocketCaller, nonsense: bytes
) -> None:
    async def babble(peer: web.WebSocketResponse) -> None:
        await _greet(peer)
        await _next_call(peer)
        await peer.send_bytes(nonsense)
        await peer.receive()

    async with odd_server(babble) as address:
        with pytest.raises(ConnectionLost, match="not frames of ours"):
            await ping(caller, address)


async def test_one_reply_that_cannot_be_understood_fails_only_its_call(caller: WebSocketCaller) -> None:
    class Strange(Frame, tag="answer", frozen=True, array_like=True):
        id: int
        reply: dict[str, str]

    async def mixed(peer: web.WebSocketResponse) -> None:
        await _greet(peer)
        calls = [await _next_call(peer)]
        for frame in raw_request_decoder.decode(await peer.receive_bytes()):
            assert isinstance(frame, Call)
            calls.append(frame)
        assert len(calls) == 3
        await peer.send_bytes(
            message(
                Strange(calls[0].id, {"type": "who knows"}),
                Answer(calls[1].id, Ack()),
                Answer(77, Ack()),
                Strange(78, {"type": "who cares"}),
                Strange(calls[2].id, {"type": "mutated", "inode": "seventeen"}),
            )
        )
        await peer.receive()

    async with odd_server(mixed) as address:
        outcomes = await asyncio.gather(
            ping(caller, address),
            ping(caller, address),
            caller.call(address, MakeDirectory(path="/"), MutationReply, deadline_seconds=5),
            return_exceptions=True,
        )
    assert isinstance(outcomes[0], ProtocolFault)
    assert outcomes[1] == Ack()
    assert isinstance(outcomes[2], ProtocolFault)


async def test_a_reply_of_another_kind_is_refused(caller: WebSocketCaller) -> None:
    async def confuse(peer: web.WebSocketResponse) -> None:
        await _greet(peer)
        first = await _next_call(peer)
        await peer.send_bytes(message(Answer(first.id, MutationReply())))
        second = await _next_call(peer)
        await peer.send_bytes(message(Answer(second.id, Ack())))
        await peer.receive()

    async with odd_server(confuse) as address:
        assert await caller.call(address, MakeDirectory(path="/"), MutationReply, deadline_seconds=5)
        with pytest.raises(ProtocolFault):
            await caller.call(address, MakeDirectory(path="/"), MutationReply, deadline_seconds=5)


async def test_a_call_taken_back_is_cancelled_at_the_server_and_its_late_answer_ignored(
    caller: WebSocketCaller,
) -> None:
    cancelled = asyncio.Event()

    async def too_late(peer: web.WebSocketResponse) -> None:
        await _greet(peer)
        call = await _next_call(peer)
        assert call.seconds_left <= 0.05
        (cancel,) = raw_request_decoder.decode(await peer.receive_bytes())
        assert cancel == Cancel(call.id)
        cancelled.set()
        await peer.send_bytes(message(Answer(call.id, Ack())))
        after = await _next_call(peer)
        await peer.send_bytes(message(Answer(after.id, Ack())))
        await peer.receive()

    async with odd_server(too_late) as address:
        with pytest.raises(DeadlineExceeded):
            await ping(caller, address, deadline_seconds=0.05)
        await asyncio.wait_for(cancelled.wait(), 5)
        assert await ping(caller, address) == Ack()


async def test_calls_beyond_the_limit_stand_in_line_and_go_in_order(
    caller: WebSocketCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "CALLS_IN_FLIGHT_MAX", 2)
    gate, order, running_now, most = asyncio.Event(), list[str](), [0], [0]

    async def gated(request: Request, _: CallContext) -> Reply:
        assert isinstance(request, MakeDirectory)
        running_now[0] += 1
        most[0] = max(most[0], running_now[0])
        order.append(request.path)
        await gate.wait()
        running_now[0] -= 1
        return MutationReply()

    async with running(make_server({MakeDirectory: gated, Ping: answer_ping})) as server:
        await ping(caller, server.address)

        async def call(path: str, seconds: float) -> MutationReply:
            return await caller.call(
                server.address, MakeDirectory(path=path), MutationReply, deadline_seconds=seconds
            )

        calls = [asyncio.create_task(call(f"/{number}", 30)) for number in range(6)]
        await asyncio.sleep(0)
        hurried = asyncio.create_task(call("/hurried", 0.05))
        with pytest.raises(Overloaded) as caught:
            await hurried
        assert caught.value.definite
        calls[3].cancel()
        gate.set()
        await asyncio.wait(calls)
        assert calls[3].cancelled()
    assert order == ["/0", "/1", "/2", "/4", "/5"]
    assert most[0] == 2


async def test_a_place_given_to_a_call_that_gives_up_goes_to_the_next(
    caller: WebSocketCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "CALLS_IN_FLIGHT_MAX", 1)
    async with running(make_server()) as server:
        await ping(caller, server.address)
        line: list[asyncio.Task[Ack]] = []

        def queue_up() -> None:
            line.extend(asyncio.create_task(ping(caller, server.address)) for _ in range(2))

        asyncio.get_running_loop().call_soon(queue_up)
        await ping(caller, server.address)  # it ends here, and the first in line has not resumed yet
        first, second = line
        first.cancel()
        assert await second == Ack()
        assert first.cancelled()


async def test_a_server_that_does_not_read_bounds_what_is_queued_for_it(caller: WebSocketCaller) -> None:
    reads = asyncio.Event()

    async def deaf(peer: web.WebSocketResponse) -> None:
        await _greet(peer)
        await reads.wait()
        while (await peer.receive()).type is WSMsgType.BINARY:
            pass

    async with odd_server(deaf) as address:

        async def call() -> EntryReply:
            path = "x" * MIB
            return await caller.call(address, Stat(path=path), EntryReply, deadline_seconds=0.5)

        outcomes = await asyncio.gather(*(call() for _ in range(60)), return_exceptions=True)
        sent = sum(isinstance(outcome, DeadlineExceeded) for outcome in outcomes)
        refused = sum(isinstance(outcome, Overloaded) for outcome in outcomes)
        assert sent + refused == 60
        assert sent <= SEND_QUEUE_BYTES_MAX // MIB + 20  # some more are in the kernel's buffers
        assert refused > 20
        assert caller._connections[address]._outbox.queued_bytes <= SEND_QUEUE_BYTES_MAX + MIB + KIB
        reads.set()


async def test_a_failed_connection_nobody_waits_for_any_more_is_no_complaint() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    caller = WebSocketCaller(role="test", node="test", connect_seconds_max=0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, never says hello
        address = Address(f"127.0.0.1:{silent.getsockname()[1]}")
        call = asyncio.ensure_future(caller.call(address, Ping(), Ack, deadline_seconds=5.0))
        await asyncio.sleep(0)  # the call has begun to wait for its connection
        connecting = caller._connecting[address]
        call.cancel()
        await asyncio.wait({call, connecting})
    assert not connecting.cancelled()
    del connecting, call  # the call's traceback holds the other task
    gc.collect()
    await caller.close()
    assert complaints == []
