"""Bad input against real programs: each is answered with a clear error, never a traceback or a hang."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gfs.errors import InvalidPath, IsADirectory, NotFound
from gfs.vocabulary import split_address
from tests.processes.cluster import ProcessCluster, eventually

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

GARBAGE = (
    b"\x00" * 64,
    b"GET / HTTP/9.9\r\n\r\n",
    b"\xff\xff\xff\xff" + os.urandom(4096),
    b"PUT /v1/data/x HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
    b"GET /rpc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n" + b"\x82\x05nonse",
    b"A" * 70_000,
    b"PUT /v1/data/half HTTP/1.1\r\nContent-Length: 1000\r\n\r\nonly this",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProcessCluster]:
    found = ProcessCluster(tmp_path_factory.mktemp("bad-input"), masters=1, chunkservers=1)
    found.start()
    client = await found.connect()
    await found.ready(client)
    await client.close()
    yield found
    found.stop()


BAD_PATHS = {
    "relative": "a/b",
    "empty": "",
    "dotdot": "/a/../b",
    "over-long": "/" + "/".join(["x" * 200] * 30),
    "not UTF-8": "/a\udcff",
    "NUL": "/a\0b",
    "long name": "/" + "n" * 256,
}


@pytest.mark.parametrize("kind", BAD_PATHS)
async def test_a_bad_path_is_refused_by_every_verb(cluster: ProcessCluster, kind: str) -> None:
    path = BAD_PATHS[kind]
    client = await cluster.connect()
    try:
        for verb in (
            lambda: client.stat(path),
            lambda: client.mkdir(path),
            lambda: client.create(path),
            lambda: client.delete(path),
            lambda: client.rename(path, "/ok"),
            lambda: client.rename("/ok", path),
            lambda: client.write_bytes(path, b"x"),
            lambda: client.read_bytes(path),
        ):
            with pytest.raises(InvalidPath):
                await verb()
    finally:
        await client.close()


async def test_put_onto_a_directory_and_get_of_a_missing_file(cluster: ProcessCluster) -> None:
    client = await cluster.connect()
    try:
        await client.mkdir("/dir", parents=True)
        with pytest.raises(IsADirectory):
            await client.write_bytes("/dir", b"x")
        with pytest.raises(NotFound, match="/none"):
            await client.read_bytes("/none")
    finally:
        await client.close()


def all_ports(cluster: ProcessCluster) -> list[str]:
    settings = cluster.layout.settings
    return [
        *(address for node in settings.masters.values() for address in (node.control, node.raft)),
        *(address for node in settings.chunkservers.values() for address in (node.control, node.data)),
    ]


async def test_garbage_oversize_and_half_frames_on_every_port_close_the_connection(
    cluster: ProcessCluster,
) -> None:
    client = await cluster.connect()
    try:
        for address in all_ports(cluster):
            for noise in GARBAGE:
                with socket.create_connection(split_address(address), timeout=20) as connection:  # type: ignore[arg-type]
                    try:
                        connection.sendall(noise)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65536):
                            pass
                    except ConnectionError:
                        pass  # closed on us: just as well
        await client.write_bytes("/after-garbage", b"still here")
        assert await client.read_bytes("/after-garbage") == b"still here"
        for node in cluster.processes:
            assert cluster.processes[node].poll() is None, node
            assert "Traceback" not in cluster.log(node), node
    finally:
        await client.close()


def start_by_hand(
    cluster: ProcessCluster, role: str, node: str, *flags: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, role, node, *flags],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )


async def test_a_port_in_use_is_named(cluster: ProcessCluster, tmp_path: Path) -> None:
    settings = cluster.layout.settings
    for role, node, addresses in (
        ("master", "m1", (settings.masters["m1"].control, settings.masters["m1"].raft)),
        ("chunkserver", "c1", (settings.chunkservers["c1"].control, settings.chunkservers["c1"].data)),
    ):
        ran = start_by_hand(cluster, role, node, "--directory", str(tmp_path / node))
        assert ran.returncode == 6
        assert "Traceback" not in ran.stderr
        assert any(address in ran.stderr.splitlines()[-2] for address in addresses), ran.stderr


async def test_a_directory_in_use_is_named(cluster: ProcessCluster) -> None:
    ran = start_by_hand(cluster, "chunkserver", "c1")
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    assert cluster.layout.settings.chunkservers["c1"].directory in ran.stderr


async def test_a_chunkserver_of_another_cluster_is_refused(cluster: ProcessCluster, tmp_path: Path) -> None:
    other = ProcessCluster(tmp_path / "other", masters=1, chunkservers=1)
    other.start()
    try:
        client = await other.connect()
        await other.ready(client)
        await client.close()
        other.kill(["c1"], signal.SIGTERM)
        # The other cluster's disk under this cluster's configuration.
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gfs", "--config", cluster.layout.config_path),
                *("chunkserver", "c1", "--directory", other.layout.settings.chunkservers["c1"].directory),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        _, said = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "cluster" in said
        assert "Traceback" not in said
    finally:
        other.stop()


async def test_an_unknown_node_and_a_missing_configuration_are_refused(cluster: ProcessCluster) -> None:
    ran = start_by_hand(cluster, "master", "m9")
    assert ran.returncode == 2
    assert "m9" in ran.stderr
    ran = subprocess.run(
        [sys.executable, "-m", "gfs", "--config", "nowhere.toml", "master", "m1"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "nowhere.toml" in ran.stderr


async def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


async def test_a_master_with_a_torn_log_tail_recovers(cluster: ProcessCluster) -> None:
    client = await cluster.connect()
    try:
        await client.mkdir("/before-tear")
        cluster.kill(["m1"])
        segment = newest_segment(cluster)
        with segment.open("ab") as file:
            file.write(b"\x40\x00\x00\x00half a record")
        cluster.start(["m1"])
        await cluster.ready(client)
        assert (await client.stat("/before-tear")).kind == "directory"
    finally:
        await client.close()


def newest_segment(cluster: ProcessCluster) -> Path:
    return max((Path(cluster.layout.settings.masters["m1"].directory) / "log").glob("*.oplog"))


async def test_a_master_with_a_flipped_bit_in_its_log_refuses_to_start_and_says_which_record(
    tmp_path: Path,
) -> None:
    alone = ProcessCluster(tmp_path / "flip", masters=1, chunkservers=1)
    alone.start()
    try:
        client = await alone.connect()
        await alone.ready(client)
        for number in range(20):
            await client.mkdir(f"/{number}")
        await client.close()
        alone.kill(["m1"])
        segment = newest_segment(alone)
        await flip(segment, segment.stat().st_size // 2)
        ran = start_by_hand(alone, "master", "m1")
        assert ran.returncode == 7
        assert segment.name in ran.stderr
        assert "record" in ran.stderr
        assert "Traceback" not in ran.stderr
    finally:
        alone.stop()


async def test_a_master_skips_a_half_written_checkpoint(tmp_path: Path) -> None:
    alone = ProcessCluster(tmp_path / "half", masters=1, chunkservers=1)
    alone.start()
    try:
        client = await alone.connect()
        await alone.ready(client)
        await client.mkdir("/kept")
        alone.kill(["m1"])
        alone.start(["m1"], failpoint="checkpoint.written=kill", GFS__RAFT__CHECKPOINT_LOG_BYTES="2000")
        number = 0

        async def checkpoint_cut_short() -> bool | None:
            nonlocal number
            if alone.processes["m1"].poll() is not None:
                return True
            number += 1
            task = client.mkdir(f"/n{number}")
            done, pending = await asyncio.wait({asyncio.ensure_future(task)}, timeout=0.5)
            for one in pending:
                one.cancel()
            for one in done:
                one.exception()
            return None

        await eventually(checkpoint_cut_short, "the master dies while it writes a checkpoint")
        alone.start(["m1"])
        await alone.ready(client)
        assert (await client.stat("/kept")).kind == "directory"
        await client.close()
    finally:
        alone.stop()


async def test_a_full_disk_on_a_chunkserver_fails_over_and_loses_nothing(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path / "full", masters=1, chunkservers=4)
    cluster.start(["m1", "c1", "c2", "c3"])
    cluster.start(["c4"], failpoint="chunk.before_write=nospace@3")
    try:
        client = await cluster.connect()
        await cluster.ready(client)
        kept = {}
        for number in range(12):
            content = os.urandom(100_000 + number)
            await client.write_bytes(f"/f{number}", content)
            kept[f"/f{number}"] = content
        assert "nospace" not in cluster.log("m1")
        for path, content in kept.items():
            assert await client.read_bytes(path) == content
        await client.close()
    finally:
        cluster.stop()


async def test_a_full_disk_on_the_leader_makes_it_step_down_and_reads_go_on(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path / "master-full", masters=3, chunkservers=1)
    cluster.start()
    try:
        client = await cluster.connect()
        leader = (await cluster.ready(client)).leader
        await client.mkdir("/old")
        cluster.kill([leader])
        cluster.start([leader], failpoint="oplog.before_write=nospace@40")
        await cluster.ready(client)
        for number in range(200):
            await client.mkdir(f"/n{number}")
        await client.stat("/old")
        await client.close()
        assert cluster.processes[leader].poll() is None
        assert "Traceback" not in cluster.log(leader)
    finally:
        cluster.stop()


async def test_a_wiped_master_is_refused_until_the_operator_readmits_it(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path / "wiped", masters=3, chunkservers=1)
    cluster.start()
    try:
        client = await cluster.connect()
        leader = (await cluster.ready(client)).leader
        for number in range(5):
            await client.mkdir(f"/{number}")
        await cluster.masters_agree()
        victim = next(master for master in cluster.masters if master != leader)
        cluster.kill([victim])
        shutil.rmtree(cluster.layout.settings.masters[victim].directory)
        cluster.start([victim])

        async def refused() -> bool | None:
            return f"gfs admin members readmit {victim}" in cluster.log(leader) or None

        await eventually(refused, "the leader says how to readmit the wiped master")
        command = [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, "admin", "members"]
        wrong = subprocess.run([*command, "readmit", "m9"], capture_output=True, text=True, timeout=30)
        assert (wrong.returncode, "m9" in wrong.stderr) == (2, True), wrong.stderr
        ran = subprocess.run([*command, "readmit", victim], capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, ran.stderr
        await client.mkdir("/after")
        await cluster.masters_agree()
        await client.close()
    finally:
        cluster.stop()
