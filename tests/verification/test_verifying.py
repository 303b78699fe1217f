"""One verification against real masters and chunk servers in this process; planted lies are noticed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from gfs.client.client import AsyncClient
from gfs.errors import InvalidArgument
from gfs.verification.operator_faults import OperatorFault, parse_fault
from gfs.verification.running_cluster import RunningCluster
from gfs.verification.verifying import Verification, Verifier, own_directory
from gfs.verification.workloads.append import AppendWorkload
from tests.client.real_cluster import RealCluster
from tests.verification.local_subject import SETTINGS

DIRECTORY = "/.verify-test"
LIE_AT = 1  # the append of one client that is acknowledged and not done


def forgetful(client: AsyncClient) -> AsyncClient:
    """A client that acknowledges one append without doing it."""
    real, count = client.record_append, 0

    async def record_append(path: str, data: bytes, *, framed: bool = False) -> int:
        nonlocal count
        count += 1
        if count == LIE_AT:
            return (await client.stat(path)).length_bytes
        return await real(path, data, framed=framed)

    client.record_append = record_append  # type: ignore[method-assign, assignment]
    return client


async def verified(cluster: RealCluster, *, lies: bool = False, fault: str = "") -> Verification:
    async def connect() -> AsyncClient:
        client = await cluster.client(SETTINGS)
        return forgetful(client) if lies else client

    workload = AppendWorkload(f"{DIRECTORY}/append", random.Random(2))
    workload.floor_per_second = 0.1
    verifier = Verifier(
        RunningCluster(connect),
        [workload],
        directory=DIRECTORY,
        seed=2,
        seconds=4.0,
        faults=[parse_fault(fault)] if fault else [],
        say=lambda _: None,
    )
    async with await cluster.client(SETTINGS) as client:
        async with own_directory(client, DIRECTORY, lambda _: None):
            found = await verifier.verify()
        assert await client.listdir("/") == []
        assert [entry.path async for entry in client.trash()] == []
    return found


def test_a_sound_cluster_held_a_lost_append_is_noticed_and_a_fault_that_failed_leaves_it_open(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with RealCluster(tmp_path) as cluster:
            assert (await verified(cluster)).outcome == "held"
            lost = await verified(cluster, lies=True)
            assert lost.outcome == "violated"
            assert "append" in {v.checker for v in lost.verdicts if v.finding == "violated"}
            not_hurt = await verified(cluster, fault="nothing=false")
            assert not_hurt.outcome == "undecided" and "nothing" in not_hurt.remarks[0]

    asyncio.run(main())


def test_a_fault_is_a_name_and_one_or_two_commands() -> None:
    assert parse_fault("cut=ip link set a down;ip link set a up") == OperatorFault(
        "cut", "ip link set a down", "ip link set a up"
    )
    assert parse_fault("kill=kill -9 7") == OperatorFault("kill", "kill -9 7")
    for text in ("cut", "=true", "cut=", "cut=;true"):
        with pytest.raises(InvalidArgument, match="is no fault"):
            parse_fault(text)
