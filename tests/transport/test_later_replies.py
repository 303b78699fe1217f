"""Handlers that answer by a future and a conclusion, without a task: through the control port and alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gfs.errors import NotFound
from gfs.messages.base import Ack, ErrorReply, Ping, Reply, Request
from gfs.messages.namespace import Entry, EntryReply, Stat
from gfs.transport.dispatch import Dispatcher, answer_ping
from gfs.transport.frames import Call, Cancel, decode_reply
from gfs.transport.interface import CallContext, Later
from gfs.transport.websocket_server import ControlServer
from gfs.vocabulary import InodeId
from tests.transport.ports import greeted, make_server, message, next_frames, running, websocket
from tests.waiting import until

CONTEXT = CallContext("test", "t", 5.0)


async def _so(is_so: Callable[[], bool]) -> None:
    async def ask() -> bool:
        return is_so()

    await until(ask, "what the test waits for")


def _entry(path: str) -> EntryReply:
    return EntryReply(entry=Entry(path=path, inode=InodeId(2), kind="file", created_ms=0, modified_ms=0))


class _Waiting:
    """A handler of Stat: each call waits for its own future, then `conclude` says how it ends."""

    def __init__(self, conclude: Callable[[str], Reply | Awaitable[Reply]] = _entry) -> None:
        self.futures: dict[str, asyncio.Future[None]] = {}
        self.told: list[str] = []
        self._conclude = conclude

    def stat(self, request: Request, context: CallContext) -> Awaitable[Reply]:
        assert isinstance(request, Stat)
        if request.path == "/refused":
            raise NotFound("/refused does not exist")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.futures[request.path] = future

        def conclude(done: asyncio.Future[None]) -> Reply | Awaitable[Reply]:
            done.result()
            return self._conclude(request.path)

        return Later(future, conclude)

    def called(
        self, request: Request, reply: Reply | None, *, peer: str, trace: str, code: str, seconds: float
    ) -> None:
        self.told.append(code)

    def moved(self, *_: Any, **__: Any) -> None:  # Any: a bulk port's, and there is none
        raise AssertionError

    def server(self) -> ControlServer:
        return make_server({Stat: self.stat, Ping: answer_ping}, observer=self)


def _stat(number: int, path: str, seconds: float = 5.0) -> Call[Request]:
    return Call(number, seconds, "t", Stat(path=path))


async def test_calls_are_answered_in_the_order_in_which_their_futures_are_done() -> None:
    waiting = _Waiting()
    async with running(waiting.server()) as server, websocket(server.address) as socket:
        await greeted(socket)
        await socket.send_bytes(message(_stat(1, "/a"), _stat(2, "/b"), Call(3, 5.0, "t", Ping())))
        (answer,) = await next_frames(socket)
        assert (answer.id, decode_reply(answer.reply, Ack)) == (3, Ack()), "it does not wait for the others"
        for number, path in ((2, "/b"), (1, "/a")):
            waiting.futures[path].set_result(None)
            (answer,) = await next_frames(socket)
            assert (answer.id, decode_reply(answer.reply, EntryReply)) == (number, _entry(path))
    assert waiting.told == ["ok"] * 3


async def test_a_waiting_call_holds_no_task() -> None:
    waiting = _Waiting()
    async with running(waiting.server()) as server, websocket(server.address) as socket:
        await greeted(socket)
        tasks = len(asyncio.all_tasks())
        await socket.send_bytes(message(*(_stat(number, f"/{number}") for number in range(1, 101))))
        await _so(lambda: len(waiting.futures) == 100)
        assert len(asyncio.all_tasks()) == tasks


async def test_whatever_a_conclusion_or_its_future_raises_is_the_reply() -> None:
    def fail(path: str) -> Reply:
        raise NotFound(f"{path} does not exist") if path == "/missing" else RuntimeError("a bug")

    waiting = _Waiting(fail)
    dispatcher = Dispatcher({Stat: waiting.stat}, role="master", observer=waiting)

    async def reply(path: str, error: BaseException | None = None) -> ErrorReply:
        answering = asyncio.ensure_future(dispatcher.answer(Stat(path=path), CONTEXT))
        if path != "/refused":
            await _so(lambda: path in waiting.futures)
            if error is None:
                waiting.futures[path].set_result(None)
            else:
                waiting.futures[path].set_exception(error)
        reply = await answering
        assert isinstance(reply, ErrorReply)
        return reply

    assert (await reply("/refused")).message == "/refused does not exist"
    assert (await reply("/missing")).message == "/missing does not exist"
    assert (await reply("/bug")).code == "internal_fault"
    assert (await reply("/lost", NotFound("no such thing"))).message == "no such thing"
    assert waiting.told == ["not_found", "not_found", "internal_fault", "not_found"]


async def test_a_conclusion_may_have_to_wait_for_something_more() -> None:
    more = asyncio.Event()

    async def go_on(path: str) -> Reply:
        await more.wait()
        return _entry(path)

    waiting = _Waiting(go_on)
    async with running(waiting.server()) as server, websocket(server.address) as socket:
        await greeted(socket)
        await socket.send_bytes(message(_stat(1, "/a"), _stat(2, "/b", 0.05)))
        await _so(lambda: len(waiting.futures) == 2)
        for future in waiting.futures.values():
            future.set_result(None)
        (late,) = await next_frames(socket)
        assert late.id == 2 and decode_reply(late.reply, EntryReply).code == "deadline_exceeded"  # type: ignore[attr-defined]
        more.set()
        (answer,) = await next_frames(socket)
        assert decode_reply(answer.reply, EntryReply) == _entry("/a")
    assert waiting.told == ["cancelled", "ok"]


async def test_a_call_is_given_up_when_its_time_is_up_or_its_caller_does_not_wait_any_more() -> None:
    waiting = _Waiting()
    async with running(waiting.server()) as server, websocket(server.address) as socket:
        await greeted(socket)
        await socket.send_bytes(message(_stat(1, "/late", 0.05), _stat(2, "/taken-back"), _stat(3, "/kept")))
        (late,) = await next_frames(socket)
        reply = decode_reply(late.reply, EntryReply)
        assert isinstance(reply, ErrorReply) and (late.id, reply.code) == (1, "deadline_exceeded")
        await socket.send_bytes(message(Cancel(2)))
        await _so(lambda: waiting.futures["/taken-back"].cancelled())
        waiting.futures["/kept"].set_result(None)
        (answer,) = await next_frames(socket)
        assert answer.id == 3, "nothing is said to who has taken a call back"
        assert waiting.futures["/late"].cancelled()
    assert waiting.told == ["cancelled", "cancelled", "ok"]


async def test_the_end_of_a_connection_ends_its_calls() -> None:
    waiting = _Waiting()
    async with running(waiting.server()) as server:
        async with websocket(server.address) as socket:
            await greeted(socket)
            await socket.send_bytes(message(_stat(1, "/a")))
            await _so(lambda: "/a" in waiting.futures)
        await _so(lambda: waiting.futures["/a"].cancelled())
        await _so(lambda: waiting.told == ["cancelled"])


async def test_a_future_that_somebody_else_cancels_is_a_fault_and_no_silence() -> None:
    waiting = _Waiting()
    async with running(waiting.server()) as server, websocket(server.address) as socket:
        await greeted(socket)
        await socket.send_bytes(message(_stat(1, "/a")))
        await _so(lambda: "/a" in waiting.futures)
        waiting.futures["/a"].cancel()
        (answer,) = await next_frames(socket)
        reply = decode_reply(answer.reply, EntryReply)
        assert isinstance(reply, ErrorReply) and reply.code == "internal_fault"


async def test_cancelling_who_awaits_a_later_cancels_its_future() -> None:
    waiting = _Waiting()
    answering = asyncio.ensure_future(waiting.stat(Stat(path="/a"), CONTEXT))
    await _so(lambda: "/a" in waiting.futures)
    await asyncio.sleep(0)
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert waiting.futures["/a"].cancelled()
