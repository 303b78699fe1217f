"""kill -9 of each program at each named point around fsync, rename, acknowledgement, grant and bump.

One cluster for the file: a program is restarted with one failpoint armed, the workload runs until it
has died there, it comes back unarmed, and everything acknowledged must still be there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster
from tests.processes.workload import Workload, run_until_dead

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

STEPS_MAX = 400
LEADER_FAILPOINTS = (
    "oplog.before_write=kill@9",
    "oplog.written=kill@9",
    "oplog.synced=kill@9",
    "master.before_propose=kill@9",
    "master.applied=kill@9",
    "state.before_commit=kill@9",
    "master.before_reply=kill@9",
    "lease.before_grant=kill@2",
    "lease.granted=kill@2",
    "lease.bumped_one=kill@2",
    "lease.bumped_all=kill@2",
)
FOLLOWER_FAILPOINTS = (
    "oplog.before_write=kill@9",
    "oplog.written=kill@9",
    "oplog.synced=kill@9",
    "raft.before_ack=kill@9",
    "raft.acked=kill@9",
    "state.committed=kill@9",
)
CHECKPOINT_FAILPOINTS = (
    "checkpoint.before_write=kill@2",
    "checkpoint.written=kill@2",
    "checkpoint.before_rename=kill@2",
    "checkpoint.file_renamed=kill@2",
    "file.renamed=kill@4",
    "checkpoint.renamed=kill@2",
    "checkpoint.half_removed=kill",
)
CHECKPOINT_OFTEN = {"GFS__RAFT__CHECKPOINT_LOG_BYTES": "3000"}
CHUNKSERVER_FAILPOINTS = (
    "chunk.before_bump=kill@2",
    "chunk.bumped=kill@2",
    "chunk.before_write=kill@2",
    "chunk.data_written=kill@2",
    "chunk.index_committed=kill@2",
    "chunk.before_ack=kill@2",
    "chunk.before_sync=kill@2",
    "chunk.synced=kill@2",
    "chunk.journal_rotated=kill@2",
    "chunk.index_flushed=kill@2",
    "chunk.journal_removed=kill@2",
    "write.ordered=kill@2",
    "write.before_ack=kill@2",
    "write.forwarded=kill@2",
    "write.before_reply=kill@2",
    "write.replied=kill@2",
    "push.received=kill@2",
    "push.forwarded=kill@2",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProcessCluster]:
    found = ProcessCluster(tmp_path_factory.mktemp("crashes"), masters=3, chunkservers=4)
    found.start()
    client = await found.connect()
    await found.ready(client)
    await client.close()
    yield found
    found.stop()


async def crash_at(
    cluster: ProcessCluster, node: str, failpoint: str, *, lead: bool = False, **environment: str
) -> None:
    client = await cluster.connect()
    try:
        await cluster.ready(client)
        cluster.kill([node])
        cluster.start([node], failpoint=failpoint, **environment)
        if lead:
            await make_leader(cluster, node)
        else:
            await cluster.ready(client)
        role = "leader" if lead else "member"
        workload = Workload(client, f"/crash/{role}-{node}-{failpoint}", seed=hash_of(failpoint))
        await workload.set_up()
        await run_until_dead(workload, lambda: cluster.processes[node].poll() is not None, STEPS_MAX)
        assert cluster.processes[node].returncode == -9
        for _ in range(5):  # the others carry on without it
            await workload.step()
        cluster.start([node])
        await cluster.ready(client)
        await workload.verify()
        await cluster.masters_agree()
    finally:
        await client.close()


def hash_of(text: str) -> int:
    return sum(text.encode())


async def make_leader(cluster: ProcessCluster, node: str) -> None:
    """Stop the other masters one after the other until `node`, which is up to date, has been elected."""
    client = await cluster.connect()
    try:
        for _ in range(40):
            leader = (await cluster.ready(client)).leader
            if leader == node:
                return
            if cluster.processes[node].poll() is not None:
                return  # it died at its failpoint on the way: just as good
            cluster.kill([leader])
            cluster.start([leader])
        raise AssertionError(f"{node} was never elected")
    finally:
        await client.close()


@pytest.mark.parametrize("failpoint", LEADER_FAILPOINTS)
@keeps("master-replication")
async def test_a_leader_killed_at_any_point_loses_nothing_acknowledged(
    cluster: ProcessCluster, failpoint: str
) -> None:
    client = await cluster.connect()
    leader = (await cluster.ready(client)).leader
    await client.close()
    await crash_at(cluster, leader, failpoint, lead=True)


@pytest.mark.parametrize("failpoint", FOLLOWER_FAILPOINTS)
async def test_a_follower_killed_at_any_point_loses_nothing_acknowledged(
    cluster: ProcessCluster, failpoint: str
) -> None:
    client = await cluster.connect()
    leader = (await cluster.ready(client)).leader
    await client.close()
    await crash_at(cluster, next(m for m in cluster.masters if m != leader), failpoint)


@pytest.mark.parametrize("failpoint", CHECKPOINT_FAILPOINTS)
@keeps("checkpoint-by-log-size")
async def test_a_master_killed_while_it_writes_a_checkpoint_loses_nothing_acknowledged(
    cluster: ProcessCluster, failpoint: str
) -> None:
    await crash_at(cluster, cluster.masters[1], failpoint, **CHECKPOINT_OFTEN)


async def test_a_master_killed_as_it_installs_a_leaders_checkpoint_loses_nothing_acknowledged(
    cluster: ProcessCluster,
) -> None:
    client = await cluster.connect()
    try:
        victim = cluster.masters[0]
        await cluster.masters_agree()
        cluster.kill([victim])
        for other in cluster.masters[1:]:  # their log no longer reaches back to the victim's
            cluster.kill([other])
            cluster.start([other], **CHECKPOINT_OFTEN)
            await cluster.ready(client)
        workload = Workload(client, "/crash/install", seed=5)
        await workload.set_up()
        for _ in range(100):
            await workload.step()
        cluster.start([victim], failpoint="checkpoint.before_install=kill")
        assert await cluster.died(victim) == -9
        for _ in range(5):
            await workload.step()
        cluster.start([victim])
        await cluster.masters_agree()
        await workload.verify()
    finally:
        await client.close()


async def test_a_master_killed_as_it_begins_a_log_segment_loses_nothing_acknowledged(
    cluster: ProcessCluster,
) -> None:
    await crash_at(
        cluster, cluster.masters[2], "oplog.segment_created=kill@2", GFS__RAFT__SEGMENT_BYTES="3000"
    )


@pytest.mark.parametrize("failpoint", ["chunk.redo_logged=kill@2", "chunk.overwritten=kill@2"])
async def test_a_chunkserver_killed_within_an_overwrite_loses_nothing_acknowledged(
    cluster: ProcessCluster, failpoint: str
) -> None:
    client = await cluster.connect()
    node = cluster.chunkservers[1]
    try:
        await cluster.ready(client)
        cluster.kill([node])
        cluster.start([node], failpoint=failpoint)
        await cluster.ready(client)
        workload = Workload(client, f"/crash/{failpoint}", seed=3)
        await workload.set_up()
        for _ in range(STEPS_MAX):
            await workload.overwrite_step()
            if cluster.processes[node].poll() is not None:
                break
        assert cluster.processes[node].returncode == -9
        cluster.start([node])
        await cluster.ready(client)
        await workload.verify()
    finally:
        await client.close()


async def test_a_master_killed_before_its_vote_leaves_loses_nothing_acknowledged(
    cluster: ProcessCluster,
) -> None:
    client = await cluster.connect()
    try:
        leader = (await cluster.ready(client)).leader
        voter = next(master for master in cluster.masters if master != leader)
        workload = Workload(client, "/crash/vote", seed=11)
        await workload.set_up()
        for _ in range(10):
            await workload.step()
        cluster.kill([voter])
        cluster.start([voter], failpoint="raft.before_vote=kill")
        await cluster.masters_agree()
        cluster.kill([leader])
        assert await cluster.died(voter) == -9
        cluster.start([leader, voter])
        await cluster.ready(client)
        await workload.step()
        await workload.verify()
        await cluster.masters_agree()
    finally:
        await client.close()


@pytest.mark.parametrize("failpoint", CHUNKSERVER_FAILPOINTS)
async def test_a_chunkserver_killed_at_any_point_loses_nothing_acknowledged(
    cluster: ProcessCluster, failpoint: str
) -> None:
    await crash_at(cluster, cluster.chunkservers[0], failpoint)


@keeps("fast-recovery")
async def test_all_programs_killed_at_once_come_back_with_everything(cluster: ProcessCluster) -> None:
    client = await cluster.connect()
    try:
        await cluster.ready(client)
        workload = Workload(client, "/crash/all", seed=7)
        await workload.set_up()
        for _ in range(30):
            await workload.step()
        cluster.kill()
        cluster.start()
        await cluster.ready(client)
        await workload.verify()
        await cluster.masters_agree()
    finally:
        await client.close()
