"""What gateways cost: files read and written through each of them, beside the SDK, in turns.

Each gateway is a program of its own, as an operator runs it; the client is the cheapest there is for it: one
connection, bytes received into a buffer and forgotten. Rounds take turns, so that a busy machine slows all
sides; ratios are those of each round. CPU time is that of all programs, client and gateway included.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
import http.client
import os
import re
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from gfs.bench.fixture import local_cluster
from gfs.bench.machine import Machine, cpu_seconds, describe
from gfs.bench.processes import gfs
from gfs.client.client import AsyncClient
from gfs.errors import Unavailable
from gfs.local.supervisor import Supervisor
from gfs.vocabulary import MIB

FILE_BYTES = 256 * MIB
ROUNDS = 5
PIECE_BYTES = 4 * MIB
SDK = "sdk"
TARGET_RATIO = 0.7  # of the SDK's rate, reading
BUCKET, KEY, SECRET = "bench", "bench", "a-secret-of-some-length"
FILE = f"/{BUCKET}/file"
HTTP_SECONDS = 120.0


class GatewayRound(msgspec.Struct, frozen=True, kw_only=True):
    """`cpu_seconds_per_gib`: of all programs together."""

    side: str
    read_mib_per_second: float
    write_mib_per_second: float
    read_cpu_seconds_per_gib: float
    write_cpu_seconds_per_gib: float


class GatewayFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of all rounds; `…_ratio`: of the rate to the SDK's in the same round."""

    side: str
    read_mib_per_second: float
    write_mib_per_second: float
    read_cpu_seconds_per_gib: float
    write_cpu_seconds_per_gib: float
    read_ratio: float
    write_ratio: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    machine: Machine
    file_bytes: int
    rounds: list[GatewayRound]
    sides: list[GatewayFigures]


class _Side:
    """One way to the file, `read` and `write` give the bytes they moved."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Awaitable[int]],
        write: Callable[[], Awaitable[int]],
        processes: Sequence[int],
    ) -> None:
        self.name, self._read, self._write, self._processes = name, read, write, processes
        self.rounds: list[GatewayRound] = []

    async def play(self, size: int) -> None:
        write_rate, write_cpu = await self._timed(self._write, size)
        read_rate, read_cpu = await self._timed(self._read, size)
        self.rounds.append(
            GatewayRound(
                side=self.name,
                read_mib_per_second=read_rate,
                write_mib_per_second=write_rate,
                read_cpu_seconds_per_gib=read_cpu,
                write_cpu_seconds_per_gib=write_cpu,
            )
        )

    async def _timed(self, work: Callable[[], Awaitable[int]], size: int) -> tuple[float, float]:
        used, began = self._used(), time.perf_counter()
        moved = await work()
        seconds = time.perf_counter() - began
        if moved != size:
            raise Unavailable(f"{self.name} moved {moved} of {size} bytes")
        return round(size / MIB / seconds, 1), round((self._used() - used) * 1024 * MIB / size, 2)

    def _used(self) -> float:
        return cpu_seconds(os.getpid()) + sum(map(cpu_seconds, self._processes))


async def measure(
    *, file_bytes: int = FILE_BYTES, rounds: int = ROUNDS, say: Callable[[str], None] = print
) -> Report:
    """Measure a fresh cluster of one master and one chunk server; `say` is told of each round."""
    machine = describe()
    async with AsyncExitStack() as stack:
        programs, client = await stack.enter_async_context(local_cluster(masters=1, chunkservers=1))
        await client.mkdir(f"/{BUCKET}")
        sides = [side async for side in _sides(stack, programs, client, os.urandom(file_bytes))]
        turns = list(sides)
        for number in range(rounds):
            for side in turns:
                await side.play(file_bytes)
            turns = [*turns[1:], turns[0]]
            told = ", ".join(f"{side.name} {side.rounds[-1].read_mib_per_second:.0f} MiB/s" for side in sides)
            say(f"  round {number + 1} of {rounds}, read: {told}")
    figures = [_figures(side.rounds, sides[0].rounds) for side in sides]
    return Report(
        machine=machine,
        file_bytes=file_bytes,
        rounds=[one for side in sides for one in side.rounds],
        sides=figures,
    )


def in_words(found: Report) -> str:
    lines = [
        f"{found.machine.cores} cores of {found.machine.processor}, Python {found.machine.python}; "
        f"load average {found.machine.load} before",
        f"one file of {found.file_bytes // MIB} MiB, one connection, medians of "
        f"{len(found.rounds) // len(found.sides)} rounds; reads should be {TARGET_RATIO:.0%} of the SDK's",
    ]
    for one in found.sides:
        lines.append(
            f"  {one.side:<9}read {one.read_mib_per_second:6.0f} MiB/s {one.read_ratio:5.2f}x"
            f" {one.read_cpu_seconds_per_gib:6.2f} s of CPU a GiB"
            f"   write {one.write_mib_per_second:6.0f} MiB/s {one.write_ratio:5.2f}x"
            f" {one.write_cpu_seconds_per_gib:6.2f} s"
        )
    return "\n".join(lines)


async def report(*, file_bytes: int, rounds: int, as_json: bool, say: Callable[[str], None] = print) -> str:
    found = await measure(file_bytes=file_bytes, rounds=rounds, say=say)
    return msgspec.json.encode(found).decode() if as_json else in_words(found)


def _figures(own: Sequence[GatewayRound], sdk: Sequence[GatewayRound]) -> GatewayFigures:
    def median(value: Callable[[GatewayRound], float]) -> float:
        return round(statistics.median(map(value, own)), 2)

    def ratio(value: Callable[[GatewayRound], float]) -> float:
        return round(statistics.median(value(a) / value(b) for a, b in zip(own, sdk, strict=True)), 2)

    return GatewayFigures(
        side=own[0].side,
        read_mib_per_second=median(lambda one: one.read_mib_per_second),
        write_mib_per_second=median(lambda one: one.write_mib_per_second),
        read_cpu_seconds_per_gib=median(lambda one: one.read_cpu_seconds_per_gib),
        write_cpu_seconds_per_gib=median(lambda one: one.write_cpu_seconds_per_gib),
        read_ratio=ratio(lambda one: one.read_mib_per_second),
        write_ratio=ratio(lambda one: one.write_mib_per_second),
    )


# --- the ways ---------------------------------------------------------------------------------------


async def _sides(
    stack: AsyncExitStack, programs: Supervisor, client: AsyncClient, content: bytes
) -> AsyncIterator[_Side]:
    nodes = [*programs.settings.masters, *programs.settings.chunkservers]
    cluster = [programs.process_id(node) for node in nodes]
    yield _Side(SDK, lambda: _read_by_sdk(client), lambda: _write_by_sdk(client, content), cluster)
    keys = os.path.join(programs.layout.directory, "keys")
    with open(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
        file.write(f"{KEY} {SECRET}\n")
    config = programs.layout.config_path
    for name, options, urls in (
        ("http", (), _http_urls),
        ("webhdfs", (), _webhdfs_urls),
        ("s3", ("--keys-file", keys), _s3_urls),
    ):
        process, url = await stack.enter_async_context(_gateway(config, name, *options))
        read, write = _by_http(*urls(url), content)
        yield _Side(name, read, write, [*cluster, process])


def _by_http(
    read_url: Callable[[], str], write_url: Callable[[], str], content: bytes
) -> tuple[Callable[[], Awaitable[int]], Callable[[], Awaitable[int]]]:
    async def read() -> int:
        return await asyncio.to_thread(_get, read_url())

    async def write() -> int:
        return await asyncio.to_thread(_put, write_url(), content)

    return read, write


@asynccontextmanager
async def _gateway(config: str, kind: str, *options: str) -> AsyncIterator[tuple[int, str]]:
    """Its process and URL."""
    command = [*gfs("--config", config, "gateway", kind, "--port", "0"), *options]
    running = await asyncio.to_thread(subprocess.Popen, command, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        said = await asyncio.to_thread(running.stderr.readline)
        found = re.search(r"http://[0-9.:]+", said)
        if found is None:
            raise Unavailable(f"the gateway {kind} did not start: {said.strip()}")
        yield running.pid, found[0]
    finally:
        running.terminate()
        await asyncio.to_thread(running.wait)
        if running.stderr is not None:
            running.stderr.close()


async def _read_by_sdk(client: AsyncClient) -> int:
    buffer = memoryview(bytearray(PIECE_BYTES))
    moved = 0
    async with await client.open(FILE, "rb") as file:
        while got := await file.readinto(buffer):
            moved += got
    return moved


async def _write_by_sdk(client: AsyncClient, content: bytes) -> int:
    async with await client.open(FILE, "wb") as file:
        for start in range(0, len(content), PIECE_BYTES):
            await file.write(memoryview(content)[start : start + PIECE_BYTES])
    return len(content)


Urls = tuple[Callable[[], str], Callable[[], str]]


def _http_urls(base: str) -> Urls:
    url = f"{base}/v1/fs{FILE}"
    return (lambda: url), (lambda: url)


def _webhdfs_urls(base: str) -> Urls:
    url = f"{base}/webhdfs/v1{FILE}"
    return (lambda: f"{url}?op=OPEN"), (lambda: f"{url}?op=CREATE&overwrite=true")


def _s3_urls(base: str) -> Urls:
    return (lambda: _presigned(base, "GET")), (lambda: _presigned(base, "PUT"))


def _presigned(base: str, method: str) -> str:
    """A signed URL of the file: AWS signature V4 in query parameters, the bytes themselves unsigned."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    query = urlencode(
        {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{KEY}/{scope}",
            "X-Amz-Date": now,
            "X-Amz-Expires": "600",
            "X-Amz-SignedHeaders": "host",
        },
        quote_via=quote,
        safe="",
    )
    request = "\n".join(
        (method, FILE, query, f"host:{urlsplit(base).netloc}", "", "host", "UNSIGNED-PAYLOAD")
    )
    text = "\n".join(("AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = b"AWS4" + SECRET.encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    return f"{base}{FILE}?{query}&X-Amz-Signature={key.hex()}"


def _get(url: str) -> int:
    buffer = memoryview(bytearray(PIECE_BYTES))
    moved = 0
    with _answered("GET", url) as answer:
        while got := answer.readinto(buffer):
            moved += got
    return moved


def _put(url: str, content: bytes) -> int:
    with _answered("PUT", url, content) as answer:
        answer.read()
    return len(content)


@contextmanager
def _answered(method: str, url: str, content: bytes | None = None) -> Iterator[http.client.HTTPResponse]:
    """The last answer; bytes go where a first one without them was sent on to, as clients of HDFS do it."""
    is_asked_first = content is not None and "op=" in url
    connection, answer = _ask(method, url, None if is_asked_first else content)
    if answer.status == 307:
        url = answer.headers["Location"]
        answer.read()
        connection.close()
        connection, answer = _ask(method, url, content)
    try:
        if answer.status not in (200, 201, 204):
            raise Unavailable(f"{method} {urlsplit(url).path}: {answer.status} {answer.read(500)!r}")
        yield answer
    finally:
        connection.close()


def _ask(
    method: str, url: str, content: bytes | None
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=HTTP_SECONDS, blocksize=MIB)
    connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body=content)
    return connection, connection.getresponse()
