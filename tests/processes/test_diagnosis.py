"""What a real cluster says of itself: calls, one request over all programs, events, also after a kill."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster, eventually


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    made = ProcessCluster(tmp_path / "cluster")
    made.start()
    try:
        yield made
    finally:
        made.stop()


def gfs(cluster: ProcessCluster, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
    )


def documents(ran: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@keeps("diagnosis")
async def test_a_put_is_followed_through_all_programs_and_its_bytes_are_in_no_log(
    cluster: ProcessCluster,
) -> None:
    async with await cluster.connect() as client:
        await cluster.ready(client)
        leader = (await client.cluster_status()).leader
    secret = b"nobody reads this in a log " * 3000  # long enough to be pushed
    stored = gfs(cluster, "--request-id", "put-1", "put", "-", "/file", stdin=secret)
    assert stored.returncode == 0, stored.stderr
    steps = documents(gfs(cluster, "-o", "jsonl", "trace", "put-1"))
    done = {(step["node"], step["method"]) for step in steps}
    assert (leader, "create") in done and (leader, "acquire_lease") in done
    assert {node for node, method in done if method == "bulk_push"} == {"c1", "c2", "c3"}
    assert {method for _, method in done} >= {"bump", "write", "apply", "length_hint"}
    depth_of = {(step["node"], step["method"]): step["depth"] for step in steps}
    assert depth_of[leader, "acquire_lease"] == 0
    assert {depth for (_, method), depth in depth_of.items() if method in ("bump", "apply")} == {1}
    assert {depth for (_, method), depth in depth_of.items() if method == "bulk_push"} == {0, 1, 2}
    happened = documents(gfs(cluster, "-o", "jsonl", "events", "--node", leader))
    granted = [line for line in happened if line["event"] == "chunk granted"]
    assert granted and granted[0]["request_id"] == "put-1" and len(granted[0]["fields"]["replicas"]) == 3
    rings = [path.read_bytes() for path in (cluster_directory(cluster)).rglob("*.ring")]
    assert rings and not any(b"nobody reads" in ring for ring in rings)
    assert b"acquire_lease" in gfs(cluster, "trace", "put-1").stdout
    missing = gfs(cluster, "trace", "nothing-like-it")
    assert missing.returncode == 3 and b"no program remembers" in missing.stderr


async def test_a_killed_program_tells_its_calls_from_its_directory_and_the_others_tell_of_it(
    cluster: ProcessCluster,
) -> None:
    async with await cluster.connect() as client:
        await cluster.ready(client)
        await client.mkdir("/before")
        old = (await client.cluster_status()).leader
        # The rings are written beside the work: ask, and what was noted before is there.
        assert [
            line["request"]["path"]
            for line in documents(gfs(cluster, "-o", "jsonl", "rpclog", "--node", old, "--method", "mkdir"))
        ] == ["/before"]
        cluster.kill([old])
        await client.mkdir("/after")
        new = (await client.cluster_status()).leader
    recorded = gfs(cluster, "-o", "jsonl", "rpclog", "--node", new)
    calls = cluster_directory(cluster) / "calls.jsonl"
    calls.write_bytes(recorded.stdout)
    played = gfs(cluster, "bench", "replay", "--under", "/again", str(calls))
    assert played.returncode == 0 and b"mkdir" in played.stdout, played.stderr
    assert gfs(cluster, "ls", "/again").stdout == b"after/\n"
    dead = documents(gfs(cluster, "-o", "jsonl", "rpclog", "--node", old, "--method", "mkdir"))
    assert [line["request"]["path"] for line in dead] == ["/before"]
    happened = documents(gfs(cluster, "-o", "jsonl", "events", "--node", new))
    assert any(line["event"] == "leadership" and line["fields"]["leads"] for line in happened)
    shown = gfs(cluster, "rpclog", "--since", "1h", "--method", "mkdir")
    assert b"/before" in shown.stdout and b"/after" in shown.stdout
    wrong = gfs(cluster, "rpclog", "--node", "m9")
    assert wrong.returncode == 2 and b"there is no node 'm9'" in wrong.stderr


def cluster_directory(cluster: ProcessCluster) -> Path:
    return Path(cluster.layout.directory)


async def test_two_of_three_masters_dead_leave_reads_to_the_last_one_and_writers_a_clear_answer(
    cluster: ProcessCluster,
) -> None:
    async with await cluster.connect() as client:
        await cluster.ready(client)
        await client.write_bytes("/file", b"still here\n")
        await cluster.masters_agree()
        leader = (await client.cluster_status()).leader
    survivor = next(name for name in cluster.masters if name != leader)
    cluster.kill([name for name in cluster.masters if name != survivor])
    shown = gfs(cluster, "cat", "--consistency", "stale", "/file")
    assert (shown.returncode, shown.stdout) == (0, b"still here\n")
    assert f"answered by {survivor}, at most".encode() in shown.stderr
    listed = gfs(cluster, "--consistency", "stale", "-q", "ls", "-l", "/")
    assert listed.returncode == 0 and b"  file\n" in listed.stdout and listed.stderr == b""
    refused = gfs(cluster, "--timeout", "2", "mkdir", "/new")
    assert refused.returncode == 6
    assert b"no quorum: 1 of 3 masters reachable (m" in refused.stderr
    assert b"Start the missing masters" in refused.stderr
    status = gfs(cluster, "status")
    assert status.returncode == 6 and b"no quorum: 1 of 3 masters reachable" in status.stdout


async def test_who_follows_sees_what_comes_and_ctrl_c_ends_it(cluster: ProcessCluster) -> None:
    async with await cluster.connect() as client:
        await cluster.ready(client)
        command = [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, "-o", "jsonl"]
        following = await asyncio.create_subprocess_exec(
            *command, "rpclog", "--follow", "--method", "mkdir", stdout=subprocess.PIPE
        )
        assert following.stdout is not None
        try:
            async with asyncio.timeout(40):
                for number in range(2):
                    await client.mkdir(f"/{number}")
                    line = json.loads(await following.stdout.readline())
                    assert line["request"]["path"] == f"/{number}"
        finally:
            following.send_signal(signal.SIGINT)
            assert await following.wait() == 130


async def test_full_disks_of_two_masters_are_told_within_the_time_given_and_reads_go_on(
    cluster: ProcessCluster,
) -> None:
    """Whether the third leads on, or stepped down as the two were started anew and cannot vote."""
    async with await cluster.connect() as client:
        await cluster.ready(client)
        await client.mkdir("/before")
        await cluster.masters_agree()
        leader = (await client.cluster_status()).leader
        followers = [name for name in cluster.masters if name != leader]

        async def answers(name: str) -> bool | None:
            status = await client.cluster_status()
            return next((True for m in status.masters if m.id == name and m.role != "unreachable"), None)

        for name in followers:
            cluster.kill([name])
            cluster.start([name], failpoint="oplog.before_write=nospace")
            await eventually(partial(answers, name), f"{name} is back")
        began = time.monotonic()
        refused = gfs(cluster, "--timeout", "6", "mkdir", "/after")
        assert time.monotonic() - began < 12
        assert refused.returncode in (6, 8)
        told = b"only 1 of 3 masters keep what they are sent" in refused.stderr
        assert told or b"operation log is full" in refused.stderr, refused.stderr
        assert gfs(cluster, "status").returncode == 6
        assert gfs(cluster, "--consistency", "stale", "ls", "/").stdout == b"before/\n"
        for name in followers:
            cluster.kill([name])
            cluster.start([name])
        await client.mkdir("/again")
