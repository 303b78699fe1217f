"""The plain HTTP side of the control port: methods as JSON, health, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gfs.errors import BY_CODE, NotFound, NotLeader
from gfs.messages.base import Ping, Reply, Request
from gfs.messages.namespace import Entry, EntryReply, Stat
from gfs.settings import FRAME_BYTES_MAX
from gfs.telemetry import Metrics, trace_id
from gfs.transport.dispatch import answer_ping
from gfs.transport.http_methods import status_of
from gfs.transport.interface import CallContext
from gfs.vocabulary import InodeId
from tests.transport.ports import make_server, running, tcp


async def _stat(request: Request, context: CallContext) -> Reply:
    assert isinstance(request, Stat)
    assert trace_id.get() == context.trace
    match request.path:
        case "/missing":
            raise NotFound("no such file", hint="Look elsewhere.")
        case "/elsewhere":
            raise NotLeader("not here", details={"leader": "m2:1"})
        case "/bug":
            raise ValueError("secret detail")
        case "/slow":
            await asyncio.get_running_loop().create_future()
    entry = Entry(path=request.path, inode=InodeId(3), kind="file", created_ms=1, modified_ms=2)
    return EntryReply(entry=entry, applied_index=9)


class _Port:
    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self.base, self.session = base, session

    async def post(self, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, Any]]:
        """Any: JSON as it came."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(f"{self.base}{path}", data=body, headers=named) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(f"{self.base}{path}") as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def port() -> AsyncIterator[_Port]:
    async with running(make_server({Ping: answer_ping, Stat: _stat})) as server:
        async with aiohttp.ClientSession() as session:
            yield _Port(f"http://{server.address}", session)


async def test_a_method_can_be_called_with_plain_json(port: _Port) -> None:
    status, reply = await port.post("/v1/stat", b'{"path": "/a"}')
    assert status == 200
    assert reply["type"] == "entry"
    assert reply["entry"]["path"] == "/a"
    assert reply["applied_index"] == 9


async def test_a_method_without_arguments_needs_no_body(port: _Port) -> None:
    assert await port.post("/v1/ping") == (200, {"type": "ack"})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"path": "/a", "pth": 1}', "pth"),
        (b'{"path": 17}', "$.path"),
        (b"{}", "path"),
        (b"not json", "understood"),
        (b"[]", "understood"),
        (b'{"type": "ping", "path": "/a"}', "ping"),
        (b'{"path": "\xff"}', "understood"),
        (b'{"path": "/", "consistency": "sometimes"}', "sometimes"),
        (b"[" * 100_000, "understood"),
    ],
)
async def test_a_request_that_is_not_understood_is_a_400_that_says_why(
    port: _Port, body: bytes, told: str
) -> None:
    status, reply = await port.post("/v1/stat", body)
    assert (status, reply["type"], reply["code"]) == (400, "error", "invalid_argument")
    assert told in reply["message"]


async def test_an_unknown_method_is_a_404_that_names_those_there_are(port: _Port) -> None:
    status, reply = await port.post("/v1/explode")
    assert (status, reply["code"]) == (404, "not_found")
    assert "ping, stat" in reply["hint"]


async def test_an_unknown_page_is_a_404_in_the_same_form(port: _Port) -> None:
    status, reply = await port.post("/nowhere")
    assert (status, reply["type"], reply["code"]) == (404, "error", "not_found")


async def test_errors_keep_their_code_hint_and_details_under_a_fitting_status(port: _Port) -> None:
    status, reply = await port.post("/v1/stat", b'{"path": "/missing"}')
    assert (status, reply["code"], reply["hint"]) == (404, "not_found", "Look elsewhere.")
    status, reply = await port.post("/v1/stat", b'{"path": "/elsewhere"}')
    assert (status, reply["code"], reply["details"]) == (503, "not_leader", {"leader": "m2:1"})
    status, reply = await port.post("/v1/stat", b'{"path": "/bug"}', Gfs_Trace="t-17")
    assert (status, reply["code"]) == (500, "internal_fault")
    assert reply["details"] == {"request_id": "t-17"}
    assert "secret" not in reply["message"]


def test_every_error_has_a_status_of_its_kind() -> None:
    for code, kind in BY_CODE.items():
        assert 400 <= status_of(code) < 600
        if kind.exit_status == 2:
            assert status_of(code) == 400
    assert status_of("from_a_newer_version") == 500


async def test_a_deadline_may_be_given_and_is_kept(port: _Port) -> None:
    status, reply = await port.post("/v1/stat", b'{"path": "/slow"}', Gfs_Deadline="0.05")
    assert (status, reply["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "1e9"])
async def test_a_deadline_that_makes_no_sense_is_refused(port: _Port, text: str) -> None:
    status, reply = await port.post("/v1/ping", Gfs_Deadline=text)
    assert (status, reply["code"]) == (400, "invalid_argument")


async def test_the_trace_given_comes_back_and_otherwise_one_is_made(port: _Port) -> None:
    async with port.session.post(f"{port.base}/v1/ping", headers={"Gfs-Trace": "abc"}) as answer:
        assert answer.headers["Gfs-Trace"] == "abc"
    async with port.session.post(f"{port.base}/v1/ping") as answer:
        assert len(answer.headers["Gfs-Trace"]) == 16


async def test_a_body_over_the_limit_is_refused_before_it_is_read(port: _Port) -> None:
    address = port.base.removeprefix("http://")
    async with tcp(address) as (reader, writer):  # type: ignore[arg-type]  # it is an Address
        head = f"POST /v1/stat HTTP/1.1\r\nHost: {address}\r\nContent-Length: {FRAME_BYTES_MAX + 1}\r\n\r\n"
        writer.write(head.encode())  # and not a byte of the body
        assert b"413" in await asyncio.wait_for(reader.readline(), 5)


async def test_a_chunked_body_is_cut_off_at_the_limit(port: _Port) -> None:
    async def flood() -> AsyncIterator[bytes]:
        for _ in range(FRAME_BYTES_MAX // 2**18 + 2):
            yield b"x" * 2**18

    async with port.session.post(f"{port.base}/v1/stat", data=flood()) as answer:
        assert answer.status == 413
        assert (await answer.json())["code"] == "frame_too_large"


async def test_a_compressed_body_is_refused(port: _Port) -> None:
    status, reply = await port.post("/v1/ping", b"xx", Content_Encoding="gzip")
    assert (status, reply["code"]) == (400, "invalid_argument")


async def test_a_web_page_of_another_site_cannot_call(port: _Port) -> None:
    for path in ("/v1/ping", "/rpc"):
        status, reply = await port.post(path, Origin="http://evil.example")
        assert (status, reply["code"]) == (403, "permission_denied")
    status, _ = await port.post("/v1/ping", Origin=port.base)
    assert status == 200


async def test_ready_says_why_it_is_not() -> None:
    state = [False]
    server = make_server(
        live=lambda: state[0], ready=lambda: (state[0], "" if state[0] else "no quorum: m2 and m3 are away")
    )
    async with running(server), aiohttp.ClientSession() as session:
        port = _Port(f"http://{server.address}", session)
        assert await port.get("/livez") == (503, "not live\n")
        assert await port.get("/readyz") == (503, "no quorum: m2 and m3 are away\n")
        state[0] = True
        assert await port.get("/livez") == (200, "live\n")
        assert await port.get("/readyz") == (200, "ready\n")


async def test_metrics_tell_the_calls_by_method_and_outcome() -> None:
    async with running(make_server({Ping: answer_ping, Stat: _stat}, metrics=Metrics())) as server:
        async with aiohttp.ClientSession() as session:
            port = _Port(f"http://{server.address}", session)
            for body in (b'{"path": "/a"}', b'{"path": "/a"}', b'{"path": "/missing"}'):
                await port.post("/v1/stat", body)
            status, text = await port.get("/metrics")
    assert status == 200
    assert 'gfs_rpc_calls_total{code="ok",method="stat"} 2.0' in text
    assert 'gfs_rpc_calls_total{code="not_found",method="stat"} 1.0' in text
    assert 'gfs_rpc_seconds_bucket{le="+Inf",method="stat"} 3.0' in text
    assert 'gfs_rpc_seconds_count{method="stat"} 3.0' in text
    assert "gfs_connections 0.0" in text


async def test_a_page_that_fails_is_a_500_without_its_secrets() -> None:
    def broken() -> tuple[bool, str]:
        raise RuntimeError("secret detail")

    async with running(make_server(ready=broken)) as server, aiohttp.ClientSession() as session:
        status, text = await _Port(f"http://{server.address}", session).get("/readyz")
    assert status == 500
    assert "secret" not in text
