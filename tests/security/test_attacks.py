"""What strangers send to each port: nothing, half of something, too much, or anything at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gfs.credentials import CREDENTIAL_CHARS_MAX, new_token, token_digest
from gfs.errors import GfsError, Unauthenticated
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.master.gate import MasterGate
from gfs.messages.base import Ack, Identity, Ping, Request
from gfs.messages.namespace import EntryReply, Stat
from gfs.messages.security import ListTokens, RotateKeys
from gfs.settings import FRAME_BYTES_MAX
from gfs.telemetry import Metrics
from gfs.tls import TlsIdentity
from gfs.transport.dispatch import answer_ping
from gfs.transport.frames import Call, encode_frame, join_frames, own_hello
from gfs.transport.interface import CallContext
from gfs.transport.websocket_client import WebSocketCaller
from gfs.transport.websocket_server import ControlServer
from gfs.vocabulary import Address, LogIndex
from tests.client.real_cluster import RealCluster
from tests.fakes.clock import VirtualClock
from tests.security.test_tls import authority, identity, issued

FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def gate() -> MasterGate:
    tables = MemoryTables()
    MasterState(tables)
    return MasterGate(
        tables=lambda: tables,
        committed_index=lambda: LogIndex(0),
        clock=VirtualClock(),
        secret=b"secret",
        cluster="c",
        superuser="root",
        first_token_sha256=token_digest("gfst_first").hex(),
        unknown=lambda: None,
    )


CREDENTIALS = st.text(max_size=2 * CREDENTIAL_CHARS_MAX) | st.text(max_size=80).map("gfsp_master_".__add__)


@given(CREDENTIALS, st.sampled_from([Ping(), Stat(path="/"), ListTokens(), RotateKeys()]))
def test_no_credential_that_a_stranger_makes_up_opens_anything(credential: str, asked: Request) -> None:
    context = CallContext("x", "t", 1.0, Identity("root"), credential)
    with pytest.raises(Unauthenticated) as refused:
        gate().admit(asked, context)
    assert len(credential) < 8 or credential not in str(refused.value) + refused.value.hint


@asynccontextmanager
async def listening(*, tls: TlsIdentity | None = None) -> AsyncIterator[ControlServer]:
    server = ControlServer(
        Address("127.0.0.1:0"),
        {Ping: answer_ping},
        cluster=lambda: "c",
        role="master",
        node="m1",
        metrics=Metrics(),
        live=lambda: True,
        ready=lambda: (True, ""),
        gate=gate().admit,
        tls=tls,
        hello_seconds_max=0.3,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def hung_up(address: str, said: bytes, *, ssl: bool = False) -> None:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    try:
        await asyncio.wait_for(reader.read(), 30)  # to its end
    except ConnectionError:
        pass
    writer.close()


@pytest.mark.parametrize("said", [b"", b"GET /rpc HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01\x02\x00\x01"])
@pytest.mark.parametrize("with_tls", [False, True])
async def test_who_keeps_a_connection_and_says_too_little_is_hung_up_on(
    tmp_path: Path, said: bytes, with_tls: bool
) -> None:
    tls = None
    if with_tls:
        ca = authority(tmp_path / "ca")
        tls = identity(ca, issued(ca, "master", "m1", tmp_path / "m1", cluster="c"))
    async with listening(tls=tls) as server:
        if not with_tls and not said.endswith(b"\r\n"):
            said += b"\r\n" * (said == b"")
        await hung_up(server.address, said or b"\r\n")


@FEW
@given(st.binary(max_size=300), st.booleans())
def test_any_frame_is_answered_or_hung_up_on_and_the_next_caller_is_served(
    rubbish: bytes, after_hello: bool
) -> None:
    async def scenario() -> None:
        async with listening() as server, aiohttp.ClientSession() as session:
            async with session.ws_connect(f"http://{server.address}/rpc") as socket:
                if after_hello:
                    mine = own_hello(role="client", node="x", cluster="c", credential="gfst_none")
                    await socket.send_bytes(join_frames([encode_frame(mine)]))
                    await socket.receive(timeout=30)
                await socket.send_bytes(rubbish)
                await socket.close()
            caller = WebSocketCaller("client", "y", "c", credential="gfst_first")
            try:
                await caller.call(server.address, Ping(), Ack, deadline_seconds=30.0)
            finally:
                await caller.close()

    asyncio.run(scenario())


async def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    async with listening() as server, aiohttp.ClientSession() as session:
        async with session.ws_connect(f"http://{server.address}/rpc", max_msg_size=0) as socket:
            mine = own_hello(role="client", node="x", cluster="c", credential="gfst_first")
            await socket.send_bytes(join_frames([encode_frame(mine)]))
            await socket.receive(timeout=30)
            try:
                await socket.send_bytes(join_frames([encode_frame(Call(1, 1.0, "", Ping()))]))
                await socket.send_bytes(bytes(FRAME_BYTES_MAX + 1000))
                while (await socket.receive(timeout=30)).type is aiohttp.WSMsgType.BINARY:
                    pass
            except ConnectionError:
                pass  # it did not even take it


async def test_rubbish_on_every_port_of_a_cluster_leaves_it_serving(tmp_path: Path) -> None:
    heads = (b"\0" * 64, b"\x16\x03\x01" + b"\xff" * 80, b"GET /v1/chunks/1 HTTP/1.1\r\n\r\n", b"A" * 70_000)
    async with RealCluster(tmp_path, chunkservers=1, tokens=True) as cluster:
        master, server = cluster.settings.masters["m1"], cluster.settings.chunkservers["cs1"]
        for address in (master.control, master.raft, server.control, server.data):
            await asyncio.gather(*(hung_up(address, head + b"\r\n\r\n") for head in heads))
        caller = WebSocketCaller("client", "x", credential=new_token())
        with pytest.raises(GfsError):
            await caller.call(master.control, Stat(path="/"), EntryReply, deadline_seconds=5.0)
        await caller.close()
        async with await cluster.client() as client:
            await client.write_bytes("/f", b"x")
            assert await client.read_bytes("/f") == b"x"
