"""A majority of masters is gone: reads stay, writes say what is missing within the time their caller gave."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from gfs import aio
from gfs.errors import GfsError, NoQuorum
from tests.processes.cluster import ProcessCluster
from tests.waiting import until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

DEADLINE_SECONDS = 2.0
GRACE_SECONDS = 3.0  # of a machine busy with other tests


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    found = ProcessCluster(tmp_path / "cluster", masters=3, chunkservers=1)
    found.start()
    async with await found.connect() as client:
        await found.ready(client)
        await client.mkdir("/d")
        await client.write_bytes("/d/f", b"stored before")
        await found.masters_agree()
    yield found
    found.stop()


async def gfs(cluster: ProcessCluster, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "gfs", "--config", cluster.layout.config_path, *arguments]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60)
    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode()


async def lose_majority(cluster: ProcessCluster, number: int) -> tuple[str, list[str]]:
    """All but one master, the leader among them. Returns: who is left, who is not."""
    async with await cluster.connect() as client:
        leader = (await client.cluster_status()).leader
    left = next(name for name in cluster.masters if name != leader)
    lost = [name for name in cluster.masters if name != left]
    for name in lost:
        cluster.processes[name].send_signal(number)
    return left, lost


async def knows(cluster: ProcessCluster, left: str, lost: list[str]) -> None:
    """Wait until the one that is left says that it misses the others."""
    address = cluster.layout.settings.masters[left].control
    async with await aio.connect([address]) as client:

        async def is_so() -> bool:
            reasons = (await client.cluster_status()).reasons
            return reasons[0].startswith(f"no quorum: 1 of 3 masters reachable ({left}), waiting for")

        await until(is_so, "the loss is noticed")


def _each_with_why(lost: list[str]) -> str:
    """A pattern: each with since when it is silent (or that it was never met), and why."""
    since = r"(last heard \d+ s ago|not heard since this master started)"
    return ", ".join(rf"{name} \({since}[^)]*\)" for name in lost)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_writes_name_the_missing_masters_within_their_deadline_and_stale_reads_go_on(
    cluster: ProcessCluster, number: int, tmp_path: Path
) -> None:
    left, lost = await lose_majority(cluster, number)
    await knows(cluster, left, lost)
    impatient = msgspec.structs.replace(cluster.layout.settings.client, retry_seconds=DEADLINE_SECONDS)
    async with await aio.connect(cluster.addresses, settings=impatient) as client:
        for failing in (
            lambda: client.mkdir("/e"),
            lambda: client.write_bytes("/d/g", b"new"),
            lambda: client.delete("/d/f"),
            lambda: client.rename("/d/f", "/d/h"),
            lambda: client.record_append("/d/log", b"record"),
            lambda: client.stat("/d/f"),
            lambda: client.listdir("/d"),
        ):
            began = time.monotonic()
            with pytest.raises(NoQuorum) as caught:
                await failing()
            assert time.monotonic() - began < DEADLINE_SECONDS + GRACE_SECONDS
            assert caught.value.definite
            said = caught.value.message
            assert re.search(
                rf"1 of 3 masters reachable \({left}\), waiting for {_each_with_why(lost)}", said
            )
        assert await client.listdir("/d", consistency="stale") == ["f"]
        assert await client.read_bytes("/d/f", consistency="stale") == b"stored before"
        age = client.freshness
        assert age is not None and age.answered_by == left and age.lag_seconds > 0

    status, _, told = await gfs(cluster, "--timeout", str(DEADLINE_SECONDS), "mkdir", "/e")
    assert status == 6 and re.search(f"waiting for {_each_with_why(lost)}", told) and "'gfs status'" in told
    status, out, _ = await gfs(cluster, "-o", "json", "status")
    reasons = json.loads(out)["reasons"]
    assert status == 6
    assert re.search(rf"1 of 3 masters reachable \({left}\), waiting for {_each_with_why(lost)}", reasons[0])
    assert "nothing can be written" in reasons[1] and "--consistency stale" in reasons[1]
    assert f"start {', '.join(lost)}" in reasons[2] and "gfs admin recover" in reasons[2]
    status, out, told = await gfs(cluster, "cat", "--consistency", "stale", "/d/f")
    assert (status, out) == (0, "stored before") and f"answered by {left}, at most" in told
    place = str(tmp_path / "backups")
    status, _, told = await gfs(cluster, "--timeout", str(DEADLINE_SECONDS), "backup", "create", place)
    assert status == 6 and "no quorum" in told
    status, out, told = await gfs(cluster, "backup", "create", place, "--consistency", "stale")
    assert status == 0 and "1 file, 1 chunk" in out, told

    if number == signal.SIGKILL:
        cluster.start(lost)
    else:
        for name in lost:
            cluster.processes[name].send_signal(signal.SIGCONT)
    async with await cluster.connect() as client:
        await client.write_bytes("/d/after", b"goes on by itself")
        assert await client.read_bytes("/d/f") == b"stored before"


async def test_without_any_master_the_failure_names_all_and_is_definite(cluster: ProcessCluster) -> None:
    cluster.kill(cluster.masters)
    impatient = msgspec.structs.replace(cluster.layout.settings.client, retry_seconds=DEADLINE_SECONDS)
    async with await aio.connect(cluster.addresses, settings=impatient) as client:
        began = time.monotonic()
        with pytest.raises(GfsError) as caught:
            await client.mkdir("/e")
        assert time.monotonic() - began < DEADLINE_SECONDS + GRACE_SECONDS
        assert caught.value.definite and caught.value.exit_status == 6
        assert all(address in caught.value.message for address in cluster.addresses)
