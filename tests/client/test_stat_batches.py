"""Stats wanted at the same time: which of them go together, and that each has its own answer."""

from __future__ import annotations

import asyncio

import pytest

from gfs.errors import GfsError, NotFound, Unavailable
from gfs.messages.base import Request
from gfs.messages.namespace import Entry, Stat, StatMany
from gfs.settings import STATS_TOGETHER_MAX
from gfs.telemetry import trace_id
from gfs.vocabulary import Address
from tests.client.mini_cluster import MiniCluster
from tests.fakes.clock import VirtualClock, settle


async def _cluster(**kind: bool) -> MiniCluster:
    cluster = MiniCluster(clock=VirtualClock(), **kind)  # type: ignore[arg-type]
    async with cluster.client() as client:
        for name in ("a", "b", "c"):
            await client.create(f"/{name}")
    cluster.network.seen.clear()
    return cluster


def _paths(cluster: MiniCluster) -> list[list[str]]:
    """What was asked, request by request, but for the search for the leader."""
    asked: list[list[str]] = []
    for call in cluster.network.seen:
        match call.request:
            case Stat(path=path) if path != "/":
                asked.append([path])
            case StatMany(paths=paths):
                asked.append(paths)
    return asked


async def test_a_stat_goes_alone_as_long_as_no_other_is_on_its_way() -> None:
    cluster = await _cluster()
    async with cluster.client() as client:
        for path in ("/a", "/b"):
            assert (await client.stat(path)).path == path
    assert _paths(cluster) == [["/a"], ["/b"]]


async def test_those_that_come_while_one_is_on_its_way_go_together_and_each_has_its_own_answer() -> None:
    cluster = await _cluster()
    async with cluster.client() as client:
        wanted = ["/a", "/missing", "/b", "/c", "/lost"]
        found = await asyncio.gather(*(client.stat(path) for path in wanted), return_exceptions=True)
    assert _paths(cluster) == [["/a"], ["/missing", "/b", "/c", "/lost"]]
    for path, entry in zip(wanted, found, strict=True):
        if path in ("/missing", "/lost"):
            assert isinstance(entry, NotFound) and path in str(entry)
        else:
            assert isinstance(entry, Entry) and entry.path == path


async def test_more_than_one_request_may_carry_are_divided() -> None:
    cluster = await _cluster()
    async with cluster.client() as client:
        found = await asyncio.gather(*(client.stat("/b") for _ in range(2 * STATS_TOGETHER_MAX + 2)))
    assert {entry.path for entry in found} == {"/b"}
    assert [len(paths) for paths in _paths(cluster)] == [1, STATS_TOGETHER_MAX, STATS_TOGETHER_MAX, 1]


async def test_a_master_that_does_not_know_the_request_is_asked_for_each_alone() -> None:
    cluster = await _cluster(knows_stat_many=False)
    async with cluster.client() as client:
        found = await asyncio.gather(*(client.exists(path) for path in ("/a", "/b", "/missing")))
    assert found == [True, True, False]
    assert sorted(paths[0] for paths in _paths(cluster)) == ["/a", "/b", "/missing"]


async def test_what_waits_together_follows_the_leader_together() -> None:
    cluster = await _cluster()

    async def die(address: str, request: Request) -> None:
        if isinstance(request, StatMany) and address == "m1:9500":
            cluster.leader = "m2:9500"
            await cluster.kill_master("m1:9500")
            await asyncio.get_running_loop().create_future()

    async with cluster.client() as client:
        await client.stat("/a")
        cluster.before_answer = die
        found = await asyncio.gather(*(client.stat(path) for path in ("/a", "/b", "/c")))
    assert [entry.path for entry in found] == ["/a", "/b", "/c"]


async def test_one_that_is_given_up_takes_nothing_from_the_others() -> None:
    cluster = await _cluster()
    hold = asyncio.Event()

    async def wait(_: str, request: Request) -> None:
        if isinstance(request, StatMany):
            await hold.wait()

    async with cluster.client() as client:
        await client.stat("/a")
        cluster.before_answer = wait
        asked = [asyncio.ensure_future(client.stat(path)) for path in ("/a", "/b", "/c")]
        await settle()
        asked[1].cancel()
        await settle()
        hold.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[1], asyncio.CancelledError)
    assert [entry.path for entry in (found[0], found[2]) if isinstance(entry, Entry)] == ["/a", "/c"]


async def test_when_nobody_leads_everyone_who_waits_is_told_and_by_an_error_of_his_own() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    async with cluster.client() as client:
        await client.exists("/")
        for address in list(cluster.masters):
            await cluster.kill_master(Address(address))
        asked = [asyncio.ensure_future(client.stat(f"/{number}")) for number in range(4)]
        await clock.advance(60.0)
        found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in found), found
    assert len({id(error) for error in found}) == len(found)


async def test_closing_the_client_leaves_nobody_waiting() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)

    async def never(_: str, request: Request) -> None:
        if isinstance(request, StatMany):
            await asyncio.get_running_loop().create_future()

    client = cluster.client()
    await client.create("/a")
    cluster.before_answer = never
    asked = [asyncio.ensure_future(client.stat(path)) for path in ("/a", "/b", "/c")]
    await settle()
    await client.close()
    await clock.advance(60.0)
    assert all(waiting.done() for waiting in asked)
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[0], Entry)
    assert all(isinstance(error, GfsError) for error in found[1:]), found


async def test_a_stat_of_a_traced_request_is_a_call_of_its_own() -> None:
    cluster = await _cluster()

    async def traced(path: str) -> Entry:
        trace_id.set("of-a-gateway")
        return await client.stat(path)

    async with cluster.client() as client:
        await asyncio.gather(*(traced(path) for path in ("/a", "/b", "/c")))
    assert sorted(_paths(cluster)) == [["/a"], ["/b"], ["/c"]]


@pytest.mark.parametrize("consistency", ["session", "stale"])
async def test_reads_that_any_master_answers_do_not_go_together(consistency: str) -> None:
    cluster = await _cluster()
    async with cluster.client() as client:
        await asyncio.gather(*(client.stat(path, consistency=consistency) for path in ("/a", "/b", "/c")))  # type: ignore[arg-type]
    assert not cluster.seen(StatMany)
