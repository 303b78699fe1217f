"""What every control wire promises its callers and handlers: over WebSockets, and over the fake network."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable
from typing import Protocol, TypeVar

import pytest

from gfs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    FrameTooLarge,
    GfsError,
    InternalFault,
    InvalidArgument,
    NotLeader,
    Unavailable,
)
from gfs.messages.base import Ack, Ping, Reply, Request
from gfs.messages.namespace import Entry, EntryReply, MakeDirectory, MutationReply, Stat
from gfs.settings import CALLS_IN_FLIGHT_MAX, FRAME_BYTES_MAX
from gfs.telemetry import Metrics, trace_id
from gfs.transport.dispatch import answer_ping
from gfs.transport.interface import CallContext, Handlers, RpcCaller
from gfs.transport.websocket_client import WebSocketCaller
from gfs.transport.websocket_server import ControlServer
from gfs.vocabulary import Address, InodeId
from tests.fakes.clock import VirtualClock
from tests.fakes.network import FakeNetwork

T = TypeVar("T")


class _Server(Protocol):
    address: Address

    async def stop(self) -> None: ...


class _Wire(ABC):
    """One way to connect programs, and to let time pass on it."""

    @abstractmethod
    async def serve(self, handlers: Handlers) -> _Server: ...

    @abstractmethod
    def caller(self) -> RpcCaller: ...

    async def while_seconds_pass(self, seconds: float, work: Awaitable[T]) -> T:
        """The outcome of `work`, which needs that many seconds of the wire's time."""
        return await work


class _WebSockets(_Wire):
    def __init__(self) -> None:
        self.to_close: list[RpcCaller] = []
        self.to_stop: list[ControlServer] = []

    async def serve(self, handlers: Handlers) -> _Server:
        server = ControlServer(
            Address("127.0.0.1:0"),
            handlers,
            cluster=lambda: "test",
            role="master",
            node="m1",
            metrics=Metrics(),
            live=lambda: True,
            ready=lambda: (True, ""),
        )
        await server.start()
        self.to_stop.append(server)
        return server

    def caller(self) -> RpcCaller:
        caller = WebSocketCaller("client", "c1")
        self.to_close.append(caller)
        return caller


class _InMemory(_Wire):
    def __init__(self, clock: VirtualClock | None = None) -> None:
        self.clock = clock
        self.network = FakeNetwork(clock)
        self.servers = 0

    async def serve(self, handlers: Handlers) -> _Server:
        self.servers += 1
        return self.network.server(f"m{self.servers}:1", handlers)

    def caller(self) -> RpcCaller:
        return self.network.caller("c1")

    async def while_seconds_pass(self, seconds: float, work: Awaitable[T]) -> T:
        if self.clock is None:
            return await work
        task = asyncio.ensure_future(work)
        await self.clock.advance(seconds)
        assert task.done()
        return task.result()


@pytest.fixture(params=["websocket", "fake", "fake, virtual time"])
async def wire(request: pytest.FixtureRequest) -> AsyncIterator[_Wire]:
    if request.param == "websocket":
        sockets = _WebSockets()
        yield sockets
        for caller in sockets.to_close:
            await caller.close()
        for server in sockets.to_stop:
            await server.stop()
    else:
        yield _InMemory(VirtualClock() if "virtual" in request.param else None)


async def _make_directory(request: Request, _: CallContext) -> Reply:
    assert isinstance(request, MakeDirectory)
    return MutationReply(inode=InodeId(len(request.path)), applied_index=7)


async def test_a_request_is_answered_with_the_reply_of_its_handler(wire: _Wire) -> None:
    server = await wire.serve({Ping: answer_ping, MakeDirectory: _make_directory})
    caller = wire.caller()
    reply = await caller.call(server.address, MakeDirectory(path="/abc"), MutationReply, deadline_seconds=5)
    assert reply == MutationReply(inode=InodeId(4), applied_index=7)
    assert await caller.call(server.address, Ping(), Ack, deadline_seconds=5) == Ack()


async def test_an_error_arrives_as_the_class_it_was_raised_as_with_all_it_says(wire: _Wire) -> None:
    async def refuse(_: Request, __: CallContext) -> Reply:
        raise NotLeader("m1 does not lead", hint="Ask m2.", details={"leader": "m2:9500"})

    server = await wire.serve({Stat: refuse})
    with pytest.raises(NotLeader) as caught:
        await wire.caller().call(server.address, Stat(path="/"), EntryReply, deadline_seconds=5)
    assert caught.value.message == "m1 does not lead"
    assert caught.value.hint == "Ask m2."
    assert caught.value.details == {"leader": "m2:9500"}


async def test_a_bug_in_a_handler_is_an_internal_fault_with_one_sentence_and_the_request_id(
    wire: _Wire,
) -> None:
    async def fail(_: Request, __: CallContext) -> Reply:
        raise ValueError("secret detail")

    server = await wire.serve({Stat: fail, Ping: answer_ping})
    caller = wire.caller()
    token = trace_id.set("trace-of-the-test")
    try:
        with pytest.raises(InternalFault) as caught:
            await caller.call(server.address, Stat(path="/"), EntryReply, deadline_seconds=5)
    finally:
        trace_id.reset(token)
    assert "secret detail" not in caught.value.message
    assert caught.value.details == {"request_id": "trace-of-the-test"}
    assert await caller.call(server.address, Ping(), Ack, deadline_seconds=5) == Ack()


@pytest.mark.parametrize("waits_first", [False, True])
async def test_a_handler_whose_own_work_was_cancelled_still_answers(wire: _Wire, waits_first: bool) -> None:
    async def await_something_cancelled(_: Request, __: CallContext) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if waits_first:
            asyncio.get_running_loop().call_soon(future.cancel)
        else:
            future.cancel()
        return await future

    server = await wire.serve({Stat: await_something_cancelled, Ping: answer_ping})
    caller = wire.caller()
    with pytest.raises(InternalFault):
        await caller.call(server.address, Stat(path="/"), EntryReply, deadline_seconds=5)
    assert await caller.call(server.address, Ping(), Ack, deadline_seconds=5) == Ack()


async def test_a_handler_that_answers_with_another_methods_reply_is_a_bug_too(wire: _Wire) -> None:
    async def confuse(_: Request, __: CallContext) -> Reply:
        return Ack()

    server = await wire.serve({Stat: confuse})
    with pytest.raises(InternalFault):
        await wire.caller().call(server.address, Stat(path="/"), EntryReply, deadline_seconds=5)


async def test_a_method_the_program_does_not_have_is_refused_by_name_and_others_go_on(wire: _Wire) -> None:
    server = await wire.serve({Ping: answer_ping})
    caller = wire.caller()
    unknown, known = await asyncio.gather(
        caller.call(server.address, Stat(path="/"), EntryReply, deadline_seconds=5),
        caller.call(server.address, Ping(), Ack, deadline_seconds=5),
        return_exceptions=True,
    )
    assert isinstance(unknown, InvalidArgument)
    assert "stat" in unknown.message
    assert known == Ack()


async def test_values_of_the_wrong_type_never_reach_a_handler(wire: _Wire) -> None:
    reached: list[Request] = []

    async def note(request: Request, _: CallContext) -> Reply:
        reached.append(request)
        return Ack()

    server = await wire.serve({Stat: note, Ping: answer_ping})
    caller = wire.caller()
    wrong = Stat(path=17)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="path"):
        await caller.call(server.address, wrong, EntryReply, deadline_seconds=5)
    assert reached == []


async def test_nobody_at_the_address_is_a_definite_error(wire: _Wire) -> None:
    server = await wire.serve({Ping: answer_ping})
    await server.stop()
    with pytest.raises(Unavailable) as caught:
        await wire.caller().call(server.address, Ping(), Ack, deadline_seconds=5)
    assert caught.value.definite


async def test_calls_in_flight_are_answered_as_their_handlers_finish_not_in_order(wire: _Wire) -> None:
    gates = {f"/{name}": asyncio.Event() for name in "abc"}
    finished: list[str] = []

    async def wait(request: Request, _: CallContext) -> Reply:
        assert isinstance(request, MakeDirectory)
        await gates[request.path].wait()
        return MutationReply(inode=InodeId(ord(request.path[1])))

    server = await wire.serve({MakeDirectory: wait, Ping: answer_ping})
    caller = wire.caller()

    async def call(path: str) -> None:
        reply = await caller.call(server.address, MakeDirectory(path=path), MutationReply, deadline_seconds=5)
        assert reply.inode == ord(path[1])
        finished.append(path)

    calls = {path: asyncio.create_task(call(path)) for path in gates}
    await caller.call(server.address, Ping(), Ack, deadline_seconds=5)
    for path in ("/c", "/a", "/b"):
        gates[path].set()
        await calls[path]
    assert finished == ["/c", "/a", "/b"]


async def test_a_call_whose_deadline_passes_is_indefinite_and_its_handler_is_cancelled(wire: _Wire) -> None:
    cancelled = asyncio.Event()

    async def dawdle(_: Request, context: CallContext) -> Reply:
        assert 0 < context.seconds_left <= 0.1
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError("the future never ends")

    server = await wire.serve({Ping: dawdle})
    call = wire.caller().call(server.address, Ping(), Ack, deadline_seconds=0.1)
    with pytest.raises(DeadlineExceeded) as caught:
        await wire.while_seconds_pass(0.1, call)
    assert not caught.value.definite
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_cancelling_the_caller_cancels_the_handler(wire: _Wire) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def dawdle(_: Request, __: CallContext) -> Reply:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()
        raise AssertionError("the future never ends")

    server = await wire.serve({Stat: dawdle, Ping: answer_ping})
    caller = wire.caller()
    call = asyncio.create_task(caller.call(server.address, Stat(path="/"), EntryReply, deadline_seconds=60))
    await asyncio.wait_for(begun.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(cancelled.wait(), 5)
    assert await caller.call(server.address, Ping(), Ack, deadline_seconds=5) == Ack()


async def test_handlers_may_use_timeouts_and_task_groups_wherever_they_first_wait(wire: _Wire) -> None:
    async def elaborate(_: Request, __: CallContext) -> Reply:
        async with asyncio.timeout(30):
            async with asyncio.TaskGroup() as group:
                one = group.create_task(asyncio.sleep(0, 1))
                two = group.create_task(asyncio.sleep(0, 2))
        try:
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            pass
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return MutationReply(inode=InodeId(one.result() + two.result()))

    server = await wire.serve({MakeDirectory: elaborate})
    caller = wire.caller()
    calls = [
        caller.call(server.address, MakeDirectory(path="/x"), MutationReply, deadline_seconds=5)
        for _ in range(20)
    ]
    assert [reply.inode for reply in await asyncio.gather(*calls)] == [3] * 20


async def test_calls_lost_with_the_server_are_indefinite_and_their_handlers_are_cancelled(
    wire: _Wire,
) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def dawdle(_: Request, __: CallContext) -> Reply:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()
        raise AssertionError("the future never ends")

    server = await wire.serve({Ping: dawdle})
    call = asyncio.create_task(wire.caller().call(server.address, Ping(), Ack, deadline_seconds=60))
    await asyncio.wait_for(begun.wait(), 5)
    await server.stop()
    with pytest.raises(ConnectionLost) as caught:
        await asyncio.wait_for(call, 5)
    assert not caught.value.definite
    assert cancelled.is_set()


async def test_one_request_id_follows_a_call_across_programs(wire: _Wire) -> None:
    seen: dict[str, tuple[str, str]] = {}

    async def at_the_end(_: Request, context: CallContext) -> Reply:
        seen["end"] = (context.trace, trace_id.get())
        return Ack()

    end = await wire.serve({Ping: at_the_end})
    from_middle = wire.caller()

    async def in_the_middle(_: Request, context: CallContext) -> Reply:
        await asyncio.sleep(0)  # the id must outlive a wait
        seen["middle"] = (context.trace, trace_id.get())
        await from_middle.call(end.address, Ping(), Ack, deadline_seconds=5)
        return MutationReply()

    middle = await wire.serve({MakeDirectory: in_the_middle})
    caller = wire.caller()
    token = trace_id.set("request-17")
    try:
        await caller.call(middle.address, MakeDirectory(path="/x"), MutationReply, deadline_seconds=5)
    finally:
        trace_id.reset(token)
    assert seen == {"middle": ("request-17", "request-17"), "end": ("request-17", "request-17")}


async def test_calls_without_a_request_id_get_one_each_and_do_not_mix_them_up(wire: _Wire) -> None:
    seen: list[tuple[str, str, str]] = []

    async def note(_: Request, context: CallContext) -> Reply:
        before = trace_id.get()
        await asyncio.sleep(0)
        seen.append((context.trace, before, trace_id.get()))
        return Ack()

    server = await wire.serve({Ping: note})
    caller = wire.caller()
    await asyncio.gather(*(caller.call(server.address, Ping(), Ack, deadline_seconds=5) for _ in range(30)))
    assert len({trace for trace, _, _ in seen}) == 30
    assert all(trace and trace == before == after for trace, before, after in seen)


async def test_a_request_over_the_limit_is_refused_before_it_is_sent(wire: _Wire) -> None:
    server = await wire.serve({Stat: answer_ping, Ping: answer_ping})
    caller = wire.caller()
    with pytest.raises(FrameTooLarge) as caught:
        await caller.call(server.address, Stat(path="x" * FRAME_BYTES_MAX), EntryReply, deadline_seconds=5)
    assert caught.value.definite
    assert await caller.call(server.address, Ping(), Ack, deadline_seconds=5) == Ack()


async def test_a_reply_over_the_limit_becomes_an_error_and_the_connection_goes_on(wire: _Wire) -> None:
    async def flood(_: Request, __: CallContext) -> Reply:
        path = "x" * FRAME_BYTES_MAX
        entry = Entry(path=path, inode=InodeId(1), kind="file", created_ms=0, modified_ms=0)
        return EntryReply(entry=entry, applied_index=1)

    server = await wire.serve({Stat: flood, Ping: answer_ping})
    caller = wire.caller()
    with pytest.raises(FrameTooLarge):
        await caller.call(server.address, Stat(path="/"), EntryReply, deadline_seconds=5)
    assert await caller.call(server.address, Ping(), Ack, deadline_seconds=5) == Ack()


async def test_messages_just_below_the_limit_pass_both_ways(wire: _Wire) -> None:
    async def echo(request: Request, _: CallContext) -> Reply:
        assert isinstance(request, Stat)
        entry = Entry(path=request.path, inode=InodeId(1), kind="file", created_ms=0, modified_ms=0)
        return EntryReply(entry=entry, applied_index=1)

    server = await wire.serve({Stat: echo})
    path = "/" * (FRAME_BYTES_MAX - 256)
    reply = await wire.caller().call(server.address, Stat(path=path), EntryReply, deadline_seconds=20)
    assert reply.entry.path == path


async def test_more_calls_than_may_be_in_flight_are_all_answered(wire: _Wire) -> None:
    server = await wire.serve({MakeDirectory: _make_directory})
    caller = wire.caller()
    paths = ["/" + "d" * (number % 50) for number in range(CALLS_IN_FLIGHT_MAX * 2)]
    replies = await asyncio.gather(
        *(
            caller.call(server.address, MakeDirectory(path=path), MutationReply, deadline_seconds=30)
            for path in paths
        )
    )
    assert [reply.inode for reply in replies] == [len(path) for path in paths]


async def test_a_closed_caller_loses_what_is_in_flight_and_calls_nobody(wire: _Wire) -> None:
    begun = asyncio.Event()

    async def dawdle(_: Request, __: CallContext) -> Reply:
        begun.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("the future never ends")

    server = await wire.serve({Ping: dawdle})
    caller = wire.caller()
    call = asyncio.create_task(caller.call(server.address, Ping(), Ack, deadline_seconds=60))
    await asyncio.wait_for(begun.wait(), 5)
    await caller.close()
    with pytest.raises(ConnectionLost):
        await asyncio.wait_for(call, 5)
    with pytest.raises(Unavailable):
        await caller.call(server.address, Ping(), Ack, deadline_seconds=5)


# --- what only the fake can do -----------------------------------------------------------------


async def test_a_cut_link_loses_open_calls_and_refuses_new_ones_until_it_is_healed() -> None:
    network = FakeNetwork(VirtualClock())
    begun = asyncio.Event()

    async def dawdle(_: Request, __: CallContext) -> Reply:
        begun.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("the future never ends")

    network.server("m1:1", {Stat: dawdle, Ping: answer_ping}, name="m1")
    network.server("m2:1", {Ping: answer_ping}, name="m2")
    caller = network.caller("c")
    call = asyncio.create_task(caller.call(Address("m1:1"), Stat(path="/"), EntryReply, deadline_seconds=9))
    await begun.wait()
    network.cut("m1", "c")
    with pytest.raises(ConnectionLost):
        await call
    with pytest.raises(Unavailable):
        await caller.call(Address("m1:1"), Ping(), Ack, deadline_seconds=9)
    assert await caller.call(Address("m2:1"), Ping(), Ack, deadline_seconds=9) == Ack()
    network.heal("c", "m1")
    assert await caller.call(Address("m1:1"), Ping(), Ack, deadline_seconds=9) == Ack()


async def test_a_delayed_link_takes_its_time_each_way() -> None:
    clock = VirtualClock()
    network = FakeNetwork(clock)
    network.server("m1:1", {Ping: answer_ping}, name="m1")
    network.delay("c", "m1", 0.5)
    call = asyncio.create_task(network.caller("c").call(Address("m1:1"), Ping(), Ack, deadline_seconds=9))
    await clock.advance(0.4)
    assert network.seen == []
    await clock.advance(0.5)
    assert len(network.seen) == 1
    assert not call.done()
    await clock.advance(0.1)
    assert call.result() == Ack()


@pytest.mark.parametrize("lost", ["requests", "replies"])
async def test_a_dropped_message_ends_in_the_deadline_whether_or_not_it_took_effect(lost: str) -> None:
    clock = VirtualClock()
    network = FakeNetwork(clock)
    network.server("m1:1", {Ping: answer_ping}, name="m1")
    network.drop("c", "m1", **{lost: 1})
    caller = network.caller("c")
    call = asyncio.create_task(caller.call(Address("m1:1"), Ping(), Ack, deadline_seconds=3))
    await clock.advance(3)
    assert isinstance(call.exception(), DeadlineExceeded)
    assert len(network.seen) == (0 if lost == "requests" else 1)
    assert await caller.call(Address("m1:1"), Ping(), Ack, deadline_seconds=3) == Ack()


async def test_an_isolated_program_reaches_nobody_and_is_reached_by_nobody() -> None:
    network = FakeNetwork(VirtualClock())
    for name in ("m1", "m2"):
        network.server(f"{name}:1", {Ping: answer_ping}, name=name)
    network.isolate("m1")
    for caller, address in (("m1", "m2:1"), ("m2", "m1:1")):
        with pytest.raises(GfsError):
            await network.caller(caller).call(Address(address), Ping(), Ack, deadline_seconds=1)
    network.heal_all()
    assert await network.caller("m1").call(Address("m2:1"), Ping(), Ack, deadline_seconds=1) == Ack()
