"""Whole chunk servers on real sockets and files: three in this process, the test is master and client."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import msgspec
import pytest
import pytest_asyncio

from gfs.chunkserver.process import ChunkServer
from gfs.clock import SystemClock
from gfs.disk import Disk, OpenFile, SystemDisk, SystemFile
from gfs.errors import (
    ChecksumMismatch,
    ConfigInvalid,
    ConnectionLost,
    GfsError,
    LeaseExpired,
    ReplicaFailed,
    Unavailable,
    WrongCluster,
)
from gfs.local.ports import free_ports
from gfs.master.core.locations import Locations
from gfs.messages.base import Reply, Request
from gfs.messages.chunks import Replica
from gfs.messages.data import PushAnswer
from gfs.messages.heartbeat import Heartbeat, HeartbeatReply
from gfs.messages.replicas import BumpReply, BumpVersion, WriteChunk, WriteReply
from gfs.settings import ChunkServerNode, ChunkServerSettings, ClusterSettings, MasterNode, Settings
from gfs.telemetry import Metrics
from gfs.transport.data_client import DataClient
from gfs.transport.event_loop import ENVIRONMENT_KEY
from gfs.transport.interface import CallContext
from gfs.transport.websocket_client import WebSocketCaller
from gfs.transport.websocket_server import ControlServer
from gfs.vocabulary import (
    MIB,
    Address,
    ChunkHandle,
    ChunkVersion,
    ClusterId,
    PushId,
    ServerId,
    Term,
    split_address,
)
from tests.chunkserver.rig import block_checksums
from tests.paper.boxes import keeps

CLUSTER = ClusterId("sockets")
HANDLE = ChunkHandle(42)
ANY_PORT = Address("127.0.0.1:0")
SECONDS = 10.0


class Cluster:
    """Chunk servers a, b, c and one master that hears them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.locations = Locations(dead_seconds=5.0)
        self.heard = asyncio.Condition()
        self.servers: dict[str, ChunkServer] = {}
        self.rpc = WebSocketCaller("client", "test")
        self.data = DataClient(congestion_control="")
        self.pushes = 0
        self.master = ControlServer(
            ANY_PORT,
            {Heartbeat: self._hear},
            cluster=lambda: CLUSTER,
            role="master",
            node="m1",
            metrics=Metrics(),
            live=lambda: True,
            ready=lambda: (True, ""),
        )

    async def _hear(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, Heartbeat)
        wanted = self.locations.hear(request, now=SystemClock().monotonic())
        async with self.heard:
            self.heard.notify_all()
        return HeartbeatReply(cluster=CLUSTER, term=Term(1), is_leader=True, report_wanted=wanted)

    def settings(self, name: str, **cluster: Any) -> Settings:
        return Settings(
            cluster=ClusterSettings(**cluster),
            masters={"m1": MasterNode(control=self.master.address, raft=ANY_PORT)},
            chunkservers={name: ChunkServerNode(control=ANY_PORT, data=ANY_PORT)},
            chunkserver=ChunkServerSettings(heartbeat_seconds=0.05, flush_seconds=0.05),
        )

    async def start(self, name: str, disk: Disk | None = None) -> ChunkServer:
        server = ChunkServer(self.settings(name), name, str(self.directory / name), disk=disk)
        await server.start()
        self.servers[name] = server
        async with self.heard:
            await asyncio.wait_for(self.heard.wait_for(lambda: server.readiness()[0]), SECONDS)
        return server

    async def stop(self) -> None:
        for server in self.servers.values():
            await server.stop()
        await self.rpc.close()
        await asyncio.to_thread(self.data.close)
        await self.master.stop()

    def replica(self, name: str) -> Replica:
        server = self.servers[name]
        (known,) = (k for k in self.locations.servers() if k.control == server.control_address)
        assert known.data == server.data_address
        return known.replica()

    async def grant(self, version: int, *names: str, create: bool = False) -> None:
        members = [self.replica(name) for name in names]
        for member in members:
            request = BumpVersion(
                cluster=CLUSTER,
                master_term=Term(1),
                handle=HANDLE,
                version=ChunkVersion(version),
                oldest_version=ChunkVersion(version - 1),
                create=create,
                primary=members[0].server,
                replicas=members,
                lease_seconds=60.0,
            )
            await self.rpc.call(member.control, request, BumpReply, deadline_seconds=SECONDS)

    async def push(self, data: bytes, offset: int, *names: str) -> PushId:
        self.pushes += 1
        push_id = PushId(f"push-{self.pushes}")
        first, *rest = (self.replica(name).data for name in names)
        answer: PushAnswer = await asyncio.to_thread(
            partial(
                self.data.push,
                first,
                push_id,
                memoryview(data),
                offset=offset,
                chain=rest,
                checksums=block_checksums(data, offset),
                deadline_seconds=SECONDS,
            )
        )
        assert not answer.failed
        return push_id

    async def write(self, push: PushId, offset: int, length: int, version: int, primary: str) -> WriteReply:
        request = WriteChunk(
            handle=HANDLE,
            version=ChunkVersion(version),
            offset_bytes=offset,
            length_bytes=length,
            push=push,
        )
        return await self.rpc.call(
            self.replica(primary).control, request, WriteReply, deadline_seconds=SECONDS
        )

    async def put(self, data: bytes, offset: int, version: int, *names: str) -> WriteReply:
        return await self.write(await self.push(data, offset, *names), offset, len(data), version, names[0])

    async def read(self, name: str, version: int, length: int, first: int = 0) -> bytes:
        buffer = bytearray(length)
        got, _ = await asyncio.to_thread(
            partial(
                self.data.read_into,
                self.replica(name).data,
                HANDLE,
                ChunkVersion(version),
                first,
                memoryview(buffer),
                deadline_seconds=SECONDS,
            )
        )
        return bytes(buffer[:got])


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.master.start()
    try:
        yield cluster
    finally:
        await cluster.stop()


class DyingDisk(SystemDisk):
    """A disk whose syncs fail from some moment on."""

    def __init__(self) -> None:
        self.is_dead = False

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> OpenFile:
        file = super().open(path, create=create, exclusive=exclusive)
        assert isinstance(file, SystemFile)
        return DyingFile(self, file.descriptor)


class DyingFile(SystemFile):
    __slots__ = ("_disk",)

    def __init__(self, disk: DyingDisk, descriptor: int) -> None:
        super().__init__(descriptor)
        self._disk = disk

    def sync(self) -> None:
        if self._disk.is_dead:
            raise OSError(errno.EIO, "Input/output error")
        super().sync()


def fetch(address: Address, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=SECONDS) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def say(address: Address, said: bytes) -> bytes:
    """Send bytes to a port and read what it says until it hangs up, or for a second."""
    with socket.create_connection(split_address(address), timeout=1.0) as connection:
        connection.sendall(said)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
        return answer


@keeps("write-steps")
async def test_a_piece_goes_down_the_chain_and_comes_back_from_each_replica(cluster: Cluster) -> None:
    for name in "abc":
        await cluster.start(name)
    await cluster.grant(1, "a", "b", "c", create=True)
    piece = bytes(range(256)) * (2 * MIB // 256)
    pushes = [await cluster.push(piece, offset, "a", "b", "c") for offset in (0, 2 * MIB, 4 * MIB)]
    replies = await asyncio.gather(
        *(
            cluster.write(push, offset, len(piece), 1, "a")
            for push, offset in zip(pushes, (0, 2 * MIB, 4 * MIB), strict=True)
        )
    )
    assert [reply.length_bytes for reply in replies] == [2 * MIB, 4 * MIB, 6 * MIB]
    for name in "abc":
        assert await cluster.read(name, 1, 6 * MIB) == piece * 3


@keeps("write-steps")
async def test_a_write_goes_on_without_a_lost_server_and_nothing_acknowledged_is_lost(
    cluster: Cluster,
) -> None:
    for name in "abc":
        await cluster.start(name)
    await cluster.grant(1, "a", "b", "c", create=True)
    await cluster.put(b"acknowledged", 0, 1, "a", "b", "c")
    b = cluster.replica("b").server
    push = await cluster.push(b"!", 12, "a", "c")
    await cluster.servers["b"].stop()
    with pytest.raises(ReplicaFailed) as failure:
        await cluster.write(push, 12, 1, 1, "a")
    assert failure.value.details["servers"] == b
    await cluster.grant(2, "c", "a")
    await cluster.put(b"!", 12, 2, "c", "a")
    for name in "ac":
        assert await cluster.read(name, 2, 13) == b"acknowledged!"


async def test_a_restarted_server_has_every_byte_and_no_lease(cluster: Cluster) -> None:
    await cluster.start("a")
    await cluster.grant(1, "a", create=True)
    await cluster.put(b"kept" * 50_000, 0, 1, "a")
    server = cluster.replica("a").server
    await cluster.servers["a"].stop()
    cluster.locations = Locations(dead_seconds=5.0)
    await cluster.start("a")
    assert cluster.replica("a").server == server
    assert await cluster.read("a", 1, 200_000) == b"kept" * 50_000
    with pytest.raises(LeaseExpired):
        await cluster.put(b"more", 200_000, 1, "a")
    await cluster.grant(2, "a")
    await cluster.put(b"more", 200_000, 2, "a")


async def test_a_flipped_bit_on_the_disk_is_never_served_and_reported(cluster: Cluster) -> None:
    a = await cluster.start("a")
    await cluster.grant(1, "a", create=True)
    await cluster.put(b"good" * 50_000, 0, 1, "a")
    (chunk,) = (cluster.directory / "a").rglob("*.chunk")
    with chunk.open("r+b") as file:
        file.seek(150_000)
        file.write(b"B")
    with pytest.raises((ChecksumMismatch, ConnectionLost)):
        await cluster.read("a", 1, 200_000)
    with pytest.raises(ChecksumMismatch):
        await cluster.read("a", 1, 10, first=150_000)
    assert await cluster.read("a", 1, 100, first=0) == b"good" * 25  # blocks that verify are still good
    server = cluster.replica("a").server
    async with cluster.heard:
        await asyncio.wait_for(
            cluster.heard.wait_for(lambda: cluster.locations.version_at(server, HANDLE) == 0), SECONDS
        )
    _, metrics = await asyncio.to_thread(fetch, a.control_address, "/metrics")
    assert "gfs_chunkserver_checksum_errors_total 2.0" in metrics


async def test_garbage_on_either_port_is_refused_and_the_server_goes_on(cluster: Cluster) -> None:
    a = await cluster.start("a")
    await cluster.grant(1, "a", create=True)
    for garbage in (
        b"\x00\xff\xfe" * 1000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PUT /v1/data/x HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"PUT /v1/data/x HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf a body",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ):
        for address in (a.control_address, a.data_address):
            answer = await asyncio.to_thread(say, address, garbage)
            assert b" 200 " not in answer.split(b"\r\n")[0]
    await cluster.put(b"still here", 0, 1, "a")
    assert await cluster.read("a", 1, 10) == b"still here"


async def test_health_and_metrics_tell_the_truth(cluster: Cluster) -> None:
    a = await cluster.start("a")
    await cluster.grant(1, "a", create=True)
    await cluster.put(b"x" * 1000, 0, 1, "a")
    await cluster.read("a", 1, 500)
    get: Callable[[str], Any] = partial(asyncio.to_thread, fetch, a.control_address)
    assert (await get("/livez"))[0] == 200
    assert (await get("/readyz"))[0] == 200
    _, metrics = await get("/metrics")
    for line in (
        "gfs_chunkserver_mutations_total 1.0",
        "gfs_chunkserver_mutation_bytes_total 1000.0",
        "gfs_chunkserver_writes_acknowledged_total 1.0",
        "gfs_chunkserver_read_bytes_total 500.0",
        "gfs_chunkserver_chunks 1.0",
        "gfs_chunkserver_push_buffer_bytes 0.0",
        "gfs_chunkserver_ready 1.0",
    ):
        assert line in metrics


async def test_a_server_no_master_answers_is_alive_but_not_ready_and_says_why(cluster: Cluster) -> None:
    await cluster.master.stop()
    server = ChunkServer(cluster.settings("a"), "a", str(cluster.directory / "a"))
    await server.start()
    cluster.servers["a"] = server
    assert (await asyncio.to_thread(fetch, server.control_address, "/livez"))[0] == 200
    status, why = await asyncio.to_thread(fetch, server.control_address, "/readyz")
    assert status == 503 and cluster.master.address in why


async def test_a_failed_sync_takes_the_server_out_of_service_for_good(cluster: Cluster) -> None:
    disk = DyingDisk()
    a = await cluster.start("a", disk)
    await cluster.grant(1, "a", create=True)
    await cluster.put(b"kept", 0, 1, "a")
    disk.is_dead = True
    push = await cluster.push(b"more", 4, "a")
    await cluster.write(push, 4, 4, 1, "a")  # something for the flush loop to sync
    assert "Input/output error" in await asyncio.wait_for(a.failed(), SECONDS)
    disk.is_dead = False  # the next sync would succeed, without the bytes it lost
    with pytest.raises(GfsError):
        await cluster.put(b"never", 8, 1, "a")
    assert (await asyncio.to_thread(fetch, a.control_address, "/livez"))[0] != 200
    assert not a.readiness()[0]


PROGRAM = (
    "import sys; from gfs import settings; from gfs.chunkserver.process import run_chunkserver; "
    "run_chunkserver(settings.load(sys.argv[1]), 'a', sys.argv[2])"
)


def test_the_environment_chooses_the_event_loop_as_for_every_other_program(tmp_path: Path) -> None:
    config = tmp_path / "gfs.toml"
    config.write_text(
        '[masters.m1]\ncontrol = "127.0.0.1:1"\nraft = "127.0.0.1:2"\n'
        '[chunkservers.a]\ncontrol = "127.0.0.1:3"\ndata = "127.0.0.1:4"\n'
    )
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(config), str(tmp_path / "disk")],
        env={**os.environ, ENVIRONMENT_KEY: "trio"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ran.returncode != 0 and "there is no event loop 'trio'" in ran.stderr


async def test_sigterm_is_an_ordinary_stop(cluster: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "gfs.toml"
    ports = free_ports(2)
    config.write_text(
        f'[masters.m1]\ncontrol = "{cluster.master.address}"\nraft = "127.0.0.1:1"\n'
        f'[chunkservers.a]\ncontrol = "127.0.0.1:{ports[0]}"\ndata = "127.0.0.1:{ports[1]}"\n'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(config),
        str(tmp_path / "disk"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with cluster.heard:
            await asyncio.wait_for(
                cluster.heard.wait_for(lambda: any(k.reported for k in cluster.locations.servers())), SECONDS
            )
        process.terminate()
        printed, logged = await asyncio.wait_for(process.communicate(), SECONDS)
    except BaseException:
        process.kill()
        raise
    assert process.returncode == 0
    assert printed == b""
    lines = [msgspec.json.decode(line) for line in logged.splitlines()]
    assert [line["event"] for line in lines][-1] == "chunk server stopped"
    assert all(line["role"] == "chunkserver" and line["node"] == "a" for line in lines)


async def test_a_server_that_cannot_start_says_why_in_a_sentence_and_leaves_nothing(
    cluster: Cluster,
) -> None:
    a = await cluster.start("a")

    async def refusal(settings: Settings, name: str, directory: Path) -> GfsError:
        with pytest.raises(GfsError) as failure:
            await ChunkServer(settings, name, str(directory)).start()
        assert "\n" not in failure.value.message
        return failure.value

    in_use = await refusal(cluster.settings("b"), "b", cluster.directory / "a")
    assert isinstance(in_use, Unavailable) and "another chunk server" in in_use.message

    for port in (a.control_address, a.data_address):
        taken = Settings(
            masters={"m1": MasterNode(control=cluster.master.address, raft=ANY_PORT)},
            chunkservers={
                "b": ChunkServerNode(
                    control=port if port == a.control_address else ANY_PORT,
                    data=port if port == a.data_address else ANY_PORT,
                )
            },
        )
        port_taken = await refusal(taken, "b", cluster.directory / "b")
        assert isinstance(port_taken, Unavailable) and port in port_taken.message

    file = cluster.directory / "file"
    file.write_text("")
    assert isinstance(await refusal(cluster.settings("b"), "b", file), ConfigInvalid)

    await a.stop()
    other = await refusal(cluster.settings("a", id="another"), "a", cluster.directory / "a")
    assert isinstance(other, WrongCluster) and "another" in other.message
    del cluster.servers["a"]
    await cluster.start("b")  # the directory and ports of the failed starts are free again
    assert ServerId(cluster.replica("b").server)
