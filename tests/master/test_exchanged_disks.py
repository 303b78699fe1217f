"""A chunk server that comes back at its old address with an empty disk is another server (GFS §4.5)."""

from __future__ import annotations

import asyncio

import pytest

from gfs.errors import DataUnavailable, GfsError
from gfs.vocabulary import ServerId
from tests.master.chunkservers import FakeChunkServer, replica_ids, write
from tests.master.lease_world import DEAD_SECONDS, LEASE_SECONDS, LeaseWorld


async def exchange_disk(here: LeaseWorld, server: ServerId) -> FakeChunkServer:
    """The same program at the same address, with an empty directory: its id is a new one."""
    old = here.servers[server]
    if old.address in here.network.servers:
        await old.kill()
    fresh = FakeChunkServer(here.network, f"{server}-new", address=old.address)
    fresh.peers = here.servers
    here.servers[fresh.id] = fresh
    return fresh


async def written_once(here: LeaseWorld) -> list[ServerId]:
    """Two acknowledged mutations under the first version; the leader of then, and its memory, are gone."""
    lease = await here.acquire()
    for mutation in (1, 2):
        write(here.servers, lease.handle, lease.version, lease.primary, mutation)
    await here.clock.advance(LEASE_SECONDS + 1)
    here.take_over()
    await here.heartbeats(report=True)
    return replica_ids(lease.replicas)


@pytest.mark.parametrize("knocks", [True, False])
async def test_set_is_not_narrowed_to_a_server_whose_disk_was_exchanged(knocks: bool) -> None:
    """The others are away for a moment and have every byte; left out, they could never come back."""
    here = await LeaseWorld().start()
    exchanged, *others = await written_once(here)
    handle = here.chunk().handle
    for server in (exchanged, *others):
        await here.servers[server].kill()
    await here.clock.advance(DEAD_SECONDS + 1)
    await exchange_disk(here, exchanged)
    if knocks:
        await here.heartbeats(report=True)
    with pytest.raises(DataUnavailable):
        await here.acquire()
    assert set(here.chunk().replicas) == {exchanged, *others}
    for server in others:
        here.servers[server].restart()
    await here.heartbeats(report=True)
    renewed = await here.acquire()
    assert set(replica_ids(renewed.replicas)) == set(others)
    assert renewed.handle == handle
    here.check(renewed, {1, 2})


async def test_empty_disk_does_not_speak_for_the_server_before_it_is_given_up() -> None:
    """Also while the old id still counts as alive, and the others do not."""
    here = await LeaseWorld().start()
    exchanged, *others = await written_once(here)
    for server in others:
        await here.servers[server].kill()
    await here.clock.advance(DEAD_SECONDS - 1)
    await here.heartbeats(only=exchanged)
    await here.clock.advance(2)
    await exchange_disk(here, exchanged)
    asking = here.start_acquire()
    error = await here.failure(asking)
    assert isinstance(error, GfsError)
    assert set(here.chunk().replicas) == {exchanged, *others}
    for server in others:
        here.servers[server].restart()
    await here.heartbeats(report=True)
    here.check(await here.acquire(), {1, 2})
    await asyncio.sleep(0)
