"""`gfs bench metadata`, once through with a real cluster: every figure is there and adds up."""

from __future__ import annotations

import os
import statistics
import time

import msgspec
import pytest

from gfs.bench.fixture import local_cluster
from gfs.bench.machine import cpu_seconds
from gfs.bench.metadata import MetadataBench, Report, chart, in_words, measure
from gfs.errors import Unavailable


async def test_every_round_has_all_figures_and_the_shares_are_those_of_its_own_echo() -> None:
    said: list[str] = []
    found = await measure(in_flight=8, rounds=2, seconds=0.1, say=said.append)
    assert len(said) == len(found.rounds) == 2
    shares = [100 * one.create.per_second / one.echo.per_second for one in found.rounds]
    assert found.create_share.median == round(statistics.median(shares), 2)
    for one in found.rounds:
        assert set(one.stat.cpu_us) == {"client", "leader", "follower 1", "follower 2"}
        assert one.create_us > one.round_trip_us > 0 and one.fdatasync_us > 0
    assert msgspec.json.decode(msgspec.json.encode(found), type=Report) == found
    assert found.machine.cores > 0
    assert f"create: {found.create_share.median:.1f} (" in in_words(found)
    picture = chart(found)
    assert picture.count("<polyline") == 2 and "create ≥ 25" in picture


async def test_a_master_that_ends_meanwhile_is_named_with_its_last_words() -> None:
    async with local_cluster(chunkservers=1) as (supervisor, client):
        leader = (await client.cluster_status()).leader
        bench = MetadataBench(supervisor, client, leader, in_flight=4, seconds=0.05)
        follower = min(set(supervisor.settings.masters) - {leader})
        supervisor.kill(follower)
        await supervisor.ended(follower)
        with pytest.raises(Unavailable, match=f"master {follower} ended while it was measured: "):
            await bench.round(0)
        await bench.close()


def test_cpu_time_of_a_program_is_told_without_its_idle_time() -> None:
    used, spent = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < spent + 0.1:
        pass
    assert 0.08 <= cpu_seconds(os.getpid()) - used <= 1.0
