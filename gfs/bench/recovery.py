"""How fast lost replicas are made anew: two chunk servers killed at once, under a cap on the clones' speed.

The paper's §6.2.5 as ratios: what share of the cap is used, and whether every chunk with a single replica is
back to two before a clone of any other begins.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass

from gfs.bench.fixture import local_cluster
from gfs.client.client import AsyncClient
from gfs.local.supervisor import Supervisor
from gfs.master.core.repair import LAST_COPY
from gfs.messages.placement import ReplicationQueueReply
from gfs.vocabulary import MIB

CHUNKSERVERS = 7
FILES = 30
FILE_BYTES = 8 * MIB
CLONES_AT_ONCE = 4
CLONE_BYTES_PER_SECOND = 6 * MIB
CAP_BYTES_PER_SECOND = CLONES_AT_ONCE * CLONE_BYTES_PER_SECOND
POLL_SECONDS = 0.01
GIVE_UP_SECONDS = 120.0

_SETTINGS = {
    "GFS__MASTER__CLONES_MAX": str(CLONES_AT_ONCE),
    "GFS__MASTER__CLONES_PER_SERVER_MAX": "4",
    "GFS__MASTER__CLONE_BYTES_PER_SECOND": str(CLONE_BYTES_PER_SECOND),
    "GFS__MASTER__REBALANCING_MAX": "0",
    "GFS__MASTER__CHUNKSERVER_DEAD_SECONDS": "2",
    "GFS__MASTER__REPAIR_DELAY_SECONDS": "1",
}


@dataclass(slots=True)
class Recovery:
    """What was seen. `out_of_order`: clones of chunks with two replicas seen while one with one waited."""

    lost_replicas: int
    singles: int
    began_at: float = 0.0
    singles_done_at: float = 0.0
    ended_at: float = 0.0
    clones: int = 0
    out_of_order: int = 0

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at

    @property
    def bytes_per_second(self) -> float:
        return self.clones * FILE_BYTES / self.seconds


async def measure() -> Recovery:
    """One recovery on a cluster of its own."""
    before = {key: os.environ.get(key) for key in _SETTINGS}
    os.environ.update(_SETTINGS)  # the programs of the cluster inherit them
    try:
        async with local_cluster(masters=1, chunkservers=CHUNKSERVERS) as (supervisor, client):
            paths = [f"/f{number}" for number in range(FILES)]
            content = os.urandom(FILE_BYTES)
            for path in paths:
                await client.write_bytes(path, content)
            found = await _kill_two(supervisor, client, paths)
            await _watch(client, found)
            for path in paths:
                (place,) = await client.chunks(path)
                assert len(place.replicas) == 3, f"{path} has {len(place.replicas)} replicas"
            return found
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


async def _kill_two(supervisor: Supervisor, client: AsyncClient, paths: list[str]) -> Recovery:
    servers = (await client.cluster_status()).chunkservers
    ids = {server.control: server.id for server in servers}
    names = list(supervisor.layout.settings.chunkservers)[:2]
    lost = {ids[supervisor.layout.settings.chunkservers[name].control] for name in names}
    replicas = [
        len(lost & {replica.server for replica in place.replicas})
        for path in paths
        for place in await client.chunks(path)
    ]
    for name in names:
        supervisor.signal(name, signal.SIGKILL)
    return Recovery(lost_replicas=sum(replicas), singles=sum(count == 2 for count in replicas))


async def _watch(client: AsyncClient, found: Recovery) -> None:
    """Follow the leader's queue from its first clone until nothing is left."""
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    while found.clones < found.lost_replicas:
        assert time.monotonic() < give_up_at, f"{found.clones} of {found.lost_replicas} clones were made"
        seen = await client.operator.replication_queue(limit=1000)
        now = time.monotonic()
        if seen.active and not found.began_at:
            found.began_at = now
        if _has_singles(seen):
            found.singles_done_at = now
            found.out_of_order += any(row.state == "active" and row.priority < LAST_COPY for row in seen.rows)
        found.clones, found.ended_at = seen.made, now
        await asyncio.sleep(POLL_SECONDS)


def _has_singles(seen: ReplicationQueueReply) -> bool:
    return any(row.priority >= LAST_COPY for row in seen.rows)


async def report() -> None:
    print(
        f"recovery: 2 of {CHUNKSERVERS} chunk servers killed, {FILES} chunks of {FILE_BYTES // MIB} MiB, "
        f"{CLONES_AT_ONCE} clones at once at {CLONE_BYTES_PER_SECOND // MIB} MiB/s each"
    )
    found = await measure()
    share = found.bytes_per_second / CAP_BYTES_PER_SECOND
    print(
        f"{found.clones} replicas made in {found.seconds:.1f} s: {found.bytes_per_second / MIB:.1f} MiB/s, "
        f"{share:.0%} of the cap of {CAP_BYTES_PER_SECOND / MIB:.0f} MiB/s"
    )
    print(
        f"{found.singles} chunks had a single replica: all had two after "
        f"{max(0.0, found.singles_done_at - found.began_at):.1f} s; clones of others begun before that: "
        f"{found.out_of_order}"
    )
