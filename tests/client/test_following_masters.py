"""A client follows the masters wherever they go: one living address leads to all, old ones lead on."""

from __future__ import annotations

from gfs.client.core.master_list import MasterList
from gfs.client.master_session import LIST_SECONDS
from gfs.messages.members import FindMasters
from gfs.settings import MASTERS_NAMED_MAX
from gfs.vocabulary import Address
from tests.client.mini_cluster import MiniCluster
from tests.fakes.clock import VirtualClock

A, B, C = Address("a:1"), Address("b:1"), Address("c:1")


def test_the_leaders_word_replaces_what_was_heard_and_the_seeds_stay() -> None:
    masters = MasterList([A])
    masters.add([B, A, Address("")])
    assert masters.addresses == [A, B]
    masters.replace([C])
    assert masters.addresses == [A, C]


def test_no_more_are_taken_from_anybodys_word_than_the_limit() -> None:
    masters = MasterList([A])
    masters.add([Address(f"x{number}:1") for number in range(1000)])
    assert len(masters.addresses) == 1 + MASTERS_NAMED_MAX


async def test_who_knows_one_master_finds_the_others_when_that_one_dies() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    async with cluster.client(masters=["m1:9500"]) as client:
        await client.mkdir("/a")
        await clock.advance(0.2)  # the leader is asked who the masters are
        cluster.leader = "m3:9500"
        await cluster.kill_master("m1:9500")
        await client.mkdir("/b")
    assert "/b" in cluster.nodes


async def test_who_knows_only_old_masters_is_led_on_until_all_of_them_are_replaced() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    async with cluster.client(masters=["m1:9500"]) as client:
        for number in range(4, 10):  # m1, m2, m3 → m4, m5, m6 → … each under a client that goes on
            address = cluster.add_master(f"m{number}")
            await client.mkdir(f"/{number}")
            await clock.advance(LIST_SECONDS + 0.2)
            old = cluster.masters.pop(0)
            cluster.leader = address if cluster.leader == old else cluster.leader
            await cluster.kill_master(old)
            await client.mkdir(f"/{number}-again")
            assert len(client.masters) <= 1 + 4  # the seed, and who was there when the leader was asked


async def test_an_idle_client_asks_nobody_and_one_in_use_asks_seldom() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    async with cluster.client() as client:
        await client.mkdir("/a")
        await clock.advance(60.0)
        assert len(cluster.seen(FindMasters)) == 1
        for number in range(60):
            await client.exists(f"/{number}")
            await clock.advance(1.0)
        assert 5 <= len(cluster.seen(FindMasters)) <= 7
