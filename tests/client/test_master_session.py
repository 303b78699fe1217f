"""Finding and following the leader; exactly-once mutations."""

from __future__ import annotations

import asyncio
import random

import pytest

from gfs.client.master_session import Freshness, MasterSession
from gfs.errors import (
    AlreadyExists,
    InvalidPath,
    NoQuorum,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from gfs.messages.base import Reply, Request
from gfs.messages.namespace import CreateFile, Entry, EntryReply, Stat
from gfs.settings import SESSION_WINDOW, ClientSettings
from gfs.transport.interface import CallContext
from gfs.vocabulary import ROOT_INODE, Address, ClientId
from tests.client.mini_cluster import MiniCluster
from tests.fakes.clock import VirtualClock, settle
from tests.fakes.network import FakeNetwork


async def test_the_leader_is_found_although_the_first_master_is_dead_without_waiting_for_it() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    cluster.leader = "m3:9500"
    await cluster.kill_master("m1:9500")
    async with cluster.client() as client:
        await client.mkdir("/a")
        assert await client.exists("/a")
    assert clock.monotonic() == 1000.0  # no time had to pass


async def test_a_leader_outside_the_given_addresses_is_found_by_the_hint_of_another_master() -> None:
    cluster = MiniCluster()
    cluster.leader = "m3:9500"
    async with cluster.client(masters=["m1:9500"]) as client:
        await client.mkdir("/a")
    assert "/a" in cluster.nodes


async def test_a_request_follows_the_leader_to_the_master_that_the_old_one_names() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    async with cluster.client() as client:
        await client.mkdir("/a")
        cluster.leader = "m2:9500"
        await client.mkdir("/b")
    assert clock.monotonic() == 1000.0
    assert [request.path for request in cluster.mutations_applied if hasattr(request, "path")] == ["/a", "/b"]


async def test_a_create_whose_answer_was_lost_with_the_leader_is_done_once_and_does_not_exist_already() -> (
    None
):
    cluster = MiniCluster()

    async def lose_the_answer(address: str, request: Request) -> None:
        # m1 has committed the operation, and dies before it can say so.
        if address == "m1:9500" and isinstance(request, CreateFile):
            cluster._mutate(request)
            cluster.leader = "m2:9500"
            await cluster.kill_master("m1:9500")
            await asyncio.get_running_loop().create_future()

    async with cluster.client() as client:
        await client.exists("/")
        cluster.before_answer = lose_the_answer
        await client.create("/a")
    assert len(cluster.mutations_applied) == 1
    sent = [request for request in cluster.seen(CreateFile) if isinstance(request, CreateFile)]
    assert len(sent) == 2 and sent[0].request == sent[1].request


async def test_a_name_that_was_there_before_is_refused_also_after_a_change_of_leader() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.create("/a")
        cluster.leader = "m2:9500"
        with pytest.raises(AlreadyExists):
            await client.create("/a")


async def test_an_election_adds_only_milliseconds_to_a_waiting_request() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    async with cluster.client() as client:
        await client.exists("/")
        await cluster.kill_master("m1:9500")
        cluster.leader = ""
        creating = asyncio.create_task(client.create("/a"))
        await clock.advance(0.300)  # the election
        assert not creating.done()
        cluster.leader = "m2:9500"
        await clock.advance(0.030)
        assert creating.done()
        await creating


async def test_a_leader_that_falls_silent_is_left_for_the_one_elected_in_its_place() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    async with cluster.client(ClientSettings(call_seconds=30.0)) as client:
        await client.exists("/")
        cluster.network.drop("client", "m1:9500", requests=1)  # stopped: it takes requests and says nothing
        creating = asyncio.create_task(client.create("/a"))
        await clock.advance(1.0)
        assert not creating.done()  # slow is not deposed: nobody else leads
        cluster.leader = "m2:9500"
        await clock.advance(0.5)
        assert creating.done(), "the client held on to a silent leader"
        await creating
    assert len(cluster.mutations_applied) == 1


async def test_cancelling_a_call_stays_a_cancellation() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.exists("/")
        cluster.network.drop("client", "m1:9500", requests=1)
        creating = asyncio.create_task(client.create("/a"))
        await settle()
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating


async def test_without_any_master_the_error_names_all_of_them_and_what_each_said() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    for address in cluster.masters:
        await cluster.kill_master(address)
    async with cluster.client(ClientSettings(retry_seconds=5.0)) as client:
        looking = asyncio.create_task(client.exists("/a"))
        await clock.advance(4.9)
        assert not looking.done()
        await clock.advance(0.2)
        with pytest.raises(
            Unavailable, match=r"stat /a: no master answers as the leader; gave up after 5\.0 s"
        ) as raised:
            await looking
        for address in cluster.masters:
            assert f"{address} (unavailable: no connection" in raised.value.message


async def test_a_mutation_that_may_have_happened_ends_as_unknown_when_the_budget_is_spent() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    async with cluster.client(ClientSettings(retry_seconds=5.0, call_seconds=1.0)) as client:
        await client.exists("/")
        cluster.network.drop("client", "m1:9500", replies=1)
        creating = asyncio.create_task(client.create("/a"))
        await settle()
        cluster.leader = ""
        await clock.advance(6.0)
        with pytest.raises(OutcomeUnknown, match="It may have taken effect"):
            await creating
    assert len(cluster.mutations_applied) == 1


async def test_masters_that_name_each_other_do_not_make_the_client_run_in_circles() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    async with cluster.client() as client:
        await client.exists("/")

        async def point_elsewhere(address: str, request: Request) -> None:
            other = "m2:9500" if address == "m1:9500" else "m1:9500"
            raise NotLeader("not me", details={"leader": other})

        cluster.before_answer = point_elsewhere
        before = len(cluster.network.seen)
        looking = asyncio.create_task(client.exists("/a"))
        await clock.advance(0.1)
        # Three masters, each asked every 10 ms at most, and the request itself.
        assert len(cluster.network.seen) - before < 3 * 10 + 6
        cluster.before_answer = None
        await clock.advance(0.1)
        assert await looking is False


async def test_no_more_mutations_are_open_than_a_master_keeps_outcomes_for() -> None:
    cluster = MiniCluster()
    release = asyncio.Event()

    async def hold_the_first(address: str, request: Request) -> None:
        if isinstance(request, CreateFile) and request.path == "/0":
            await release.wait()

    async with cluster.client(ClientSettings(call_seconds=60.0)) as client:
        await client.exists("/")
        cluster.before_answer = hold_the_first
        creating = [asyncio.create_task(client.create(f"/{n}")) for n in range(SESSION_WINDOW + 5)]
        while len(cluster.mutations_applied) < SESSION_WINDOW - 1:
            await settle()
        await settle()
        assert len(cluster.seen(CreateFile)) == SESSION_WINDOW  # the others wait for the first one
        release.set()
        await asyncio.gather(*creating)
    assert len(cluster.mutations_applied) == SESSION_WINDOW + 5


async def test_a_listing_goes_on_over_all_pages() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.mkdir("/d")
        for n in range(8):
            await client.create(f"/d/{n}")
        assert await client.listdir("/d") == [str(n) for n in range(8)]
        assert [entry.path async for entry in client.list("/d")] == [f"/d/{n}" for n in range(8)]


@pytest.mark.parametrize("path", ["", "a", "/a/../b", "/" + "x" * 256, "/a\0b", "/\udcff"])
async def test_a_path_that_cannot_be_one_is_refused_before_anybody_is_asked(path: str) -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        before = len(cluster.seen(Stat))
        for refused in (client.stat(path), client.create(path), client.read_bytes(path)):
            with pytest.raises(InvalidPath):
                await refused
        assert len(cluster.seen(Stat)) - before <= 1  # the search for the leader


async def test_a_missing_file_is_not_found() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        with pytest.raises(NotFound):
            await client.stat("/nowhere")
        assert not await client.exists("/nowhere")


async def test_the_first_try_counts_against_the_time_a_caller_gives() -> None:
    """A leader that takes what it is sent, and can never answer because too few masters keep it."""
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    never = asyncio.Event()

    async def keep_waiting(_: str, request: Request) -> None:
        if isinstance(request, CreateFile):
            await never.wait()

    async with cluster.client(ClientSettings(retry_seconds=3.0, call_seconds=5.0)) as client:
        await client.exists("/")
        cluster.before_answer = keep_waiting
        creating = asyncio.create_task(client.create("/a"))
        await clock.advance(3.1)
        assert creating.done()
        with pytest.raises(OutcomeUnknown):
            await creating


async def test_when_no_master_leads_the_one_that_can_be_reached_says_why() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)

    async def no_quorum(_: str, __: Request) -> None:
        raise NoQuorum("no quorum: 1 of 3 masters reachable (m1), waiting for m2, m3")

    await cluster.kill_master("m2:9500")
    await cluster.kill_master("m3:9500")
    cluster.before_answer = no_quorum
    async with cluster.client(ClientSettings(retry_seconds=2.0)) as client:
        making = asyncio.create_task(client.mkdir("/a"))
        await clock.advance(2.1)
        with pytest.raises(NoQuorum, match=r"mkdir /a: no quorum: 1 of 3 .* for m2, m3; gave up"):
            await making


async def test_a_lost_quorum_is_told_sooner_than_the_end_of_all_patience() -> None:
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)

    async def no_quorum(_: str, __: Request) -> None:
        raise NoQuorum("no quorum: 1 of 3 masters reachable (m1), waiting for m2, m3")

    cluster.before_answer = no_quorum
    async with cluster.client(ClientSettings(retry_seconds=60.0, quorum_seconds=5.0)) as client:
        making = asyncio.create_task(client.mkdir("/a"))
        await clock.advance(4.8)
        assert not making.done()
        await clock.advance(0.3)
        with pytest.raises(NoQuorum, match=r"gave up after [45]\.\d s"):
            await making


async def test_masters_that_are_all_silent_are_waited_for_to_the_end() -> None:
    """They may be starting, or the way to them is cut: nobody has said that a quorum is missing."""
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)
    for master in ("m1:9500", "m2:9500", "m3:9500"):
        await cluster.kill_master(master)
    async with cluster.client(ClientSettings(retry_seconds=60.0, quorum_seconds=5.0)) as client:
        making = asyncio.create_task(client.mkdir("/a"))
        await clock.advance(55.0)
        assert not making.done()
        await clock.advance(5.1)
        with pytest.raises(Unavailable, match="no master answers"):
            await making


async def test_a_master_that_hangs_holds_up_a_stale_read_for_a_moment_and_later_ones_not_at_all() -> None:
    clock = VirtualClock()
    network = FakeNetwork(clock)
    never = asyncio.Event()

    async def hang(_: Request, __: CallContext) -> Reply:
        await never.wait()
        raise AssertionError("never")

    async def answer(_: Request, __: CallContext) -> Reply:
        entry = Entry(path="/", inode=ROOT_INODE, kind="directory", created_ms=1, modified_ms=1)
        return EntryReply(entry=entry, answered_by="m2", lag_entries=3, lag_seconds=0.5)

    network.server("m1:9500", {Stat: hang})
    network.server("m2:9500", {Stat: answer})
    session = MasterSession(
        [Address("m1:9500"), Address("m2:9500")],
        network.caller("client"),
        client=ClientId(1),
        clock=clock,
        chance=random.Random(1),
        settings=ClientSettings(retry_seconds=20.0, call_seconds=5.0),
    )
    request = Stat(path="/", consistency="stale")
    seen = clock.monotonic()
    for number in range(5):
        asked = asyncio.create_task(session.ask_any(request, EntryReply, "stat /"))
        await clock.advance(1.1 if number == 0 else 0.0)
        assert (await asked).answered_by == "m2"
    assert clock.monotonic() - seen < 1.2
    assert session.freshness == Freshness("m2", 3, 0.5)
    await session.close()


@pytest.mark.parametrize("seed", range(6))  # whichever is asked first
async def test_of_three_masters_two_that_hang_leave_time_for_the_third_in_a_short_deadline(seed: int) -> None:
    clock = VirtualClock()
    network = FakeNetwork(clock)

    async def hang(_: Request, __: CallContext) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def answer(_: Request, __: CallContext) -> Reply:
        entry = Entry(path="/", inode=ROOT_INODE, kind="directory", created_ms=1, modified_ms=1)
        return EntryReply(entry=entry, answered_by="m3", lag_entries=0, lag_seconds=9.0)

    for name, handler in (("m1", hang), ("m2", hang), ("m3", answer)):
        network.server(f"{name}:9500", {Stat: handler})
    session = MasterSession(
        [Address(f"{name}:9500") for name in ("m1", "m2", "m3")],
        network.caller("client"),
        client=ClientId(1),
        clock=clock,
        chance=random.Random(seed),
        settings=ClientSettings(retry_seconds=2.0, call_seconds=5.0),
    )
    asked = asyncio.create_task(session.ask_any(Stat(path="/", consistency="stale"), EntryReply, "stat /"))
    await clock.advance(2.0)
    assert (await asked).answered_by == "m3"
    await session.close()


async def test_a_leader_that_refuses_is_not_asked_again_without_a_pause() -> None:
    """It proves that it leads, by answering reads, and refuses changes: full disks at the others."""
    clock = VirtualClock()
    cluster = MiniCluster(clock=clock)

    async def refuse(_: str, request: Request) -> None:
        if isinstance(request, CreateFile):
            raise NoQuorum("no quorum: only 1 of 3 masters keep what they are sent")

    cluster.before_answer = refuse
    async with cluster.client(ClientSettings(retry_seconds=10.0)) as client:
        creating = asyncio.create_task(client.create("/a"))
        for _ in range(110):
            await clock.advance(0.1)
        with pytest.raises(NoQuorum, match="only 1 of 3 masters keep"):
            await creating
    assert len(cluster.seen(CreateFile)) < 250
