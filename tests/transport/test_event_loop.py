"""The loop a program asked for is the loop it gets, and the wire works on each."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest

from gfs.errors import ConfigInvalid
from gfs.messages.base import Ack, Ping, Reply, Request
from gfs.messages.namespace import MakeDirectory, MutationReply
from gfs.transport import event_loop
from gfs.transport.dispatch import answer_ping
from gfs.transport.interface import CallContext
from gfs.transport.websocket_client import WebSocketCaller
from tests.transport.ports import make_server, running

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None
needs_uvloop = pytest.mark.skipif(not HAS_UVLOOP, reason="uvloop is not installed")


async def _loop_name() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_auto_takes_uvloop_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(event_loop.ENVIRONMENT_KEY, raising=False)
    assert event_loop.run(_loop_name()) == ("uvloop" if HAS_UVLOOP else "asyncio")


@needs_uvloop
def test_a_loop_can_be_chosen_by_name_and_the_environment_overrules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(event_loop.ENVIRONMENT_KEY, raising=False)
    assert event_loop.run(_loop_name(), loop="asyncio") == "asyncio"
    assert event_loop.run(_loop_name(), loop="uvloop") == "uvloop"
    monkeypatch.setenv(event_loop.ENVIRONMENT_KEY, "asyncio")
    assert event_loop.run(_loop_name(), loop="uvloop") == "asyncio"


def test_an_unknown_loop_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(event_loop.ENVIRONMENT_KEY, raising=False)
    with pytest.raises(ConfigInvalid, match="trio"):
        event_loop.run(_loop_name(), loop="trio")


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=needs_uvloop)])
def test_calls_that_wait_and_calls_that_do_not_are_answered_on_either_loop(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(event_loop.ENVIRONMENT_KEY, raising=False)

    async def wait(request: Request, _: CallContext) -> Reply:
        assert isinstance(request, MakeDirectory)
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        return MutationReply(applied_index=len(request.path))

    async def main() -> None:
        caller = WebSocketCaller("client", "c1")
        async with running(make_server({Ping: answer_ping, MakeDirectory: wait})) as server:
            calls = []
            for number in range(300):
                request = MakeDirectory(path="/" + "d" * (number * 100))
                calls.append(caller.call(server.address, request, MutationReply, deadline_seconds=20))
            replies = asyncio.gather(*calls)
            for _ in range(50):
                assert await caller.call(server.address, Ping(), Ack, deadline_seconds=20) == Ack()
            assert [reply.applied_index for reply in await replies] == [1 + n * 100 for n in range(300)]
            await caller.close()

    event_loop.run(main(), loop=loop)
