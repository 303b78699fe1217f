"""Three whole masters whose checkpoints are made when a test says so; what attacks on them need."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest

from chaos.simulation.loop import run_virtual
from chaos.simulation.stepped_work import SteppedLoop
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_messages import FetchPiece
from gfs.messages import operations as op
from gfs.vocabulary import LogIndex
from tests.core.master_records import NOW_MS
from tests.raft.power_cuts import small_pieces
from tests.raft.whole_masters import WholeCluster, WholeMaster

BY_HAND = RaftOptions(checkpoint_log_bytes=2**30, segment_bytes=3000)  # checkpoints only when asked for


@pytest.fixture
def run() -> Iterator[Callable[..., None]]:
    """Run a scenario on three whole masters."""
    with small_pieces(), tempfile.TemporaryDirectory(prefix="gfs-attacks-", dir=_memory()) as directory:

        def start(scenario: Callable[[WholeCluster], Awaitable[None]], *, seed: int = 1) -> None:
            async def whole(loop: SteppedLoop) -> None:
                cluster = WholeCluster(loop, f"{directory}/{seed}", BY_HAND)
                try:
                    for master in cluster.masters:
                        await master.start()
                    await until(cluster, lambda: cluster.leader() is not None)
                    await scenario(cluster)
                finally:
                    cluster.remove()

            run_virtual(whole, seed=seed, make_loop=SteppedLoop)

        yield start


def _memory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


async def until(cluster: WholeCluster, condition: Callable[[], object], *, seconds: float = 20) -> None:
    deadline = cluster.loop.now + seconds
    while not condition():
        assert cluster.loop.now < deadline, f"not within {seconds} virtual seconds: {cluster.describe()}"
        await asyncio.sleep(0.002)


def leader_of(cluster: WholeCluster) -> WholeMaster:
    leader = cluster.leader()
    assert leader is not None and leader.node is not None
    return leader


async def fill(cluster: WholeCluster, prefix: str, count: int) -> None:
    """`count` files, some at a time."""

    async def one(number: int) -> None:
        create = op.CreateFile(path=f"/{prefix}-{number}-{'x' * 100}", replication_goal=3, replace=False)
        assert await cluster.propose(op.LogRecord(at_ms=NOW_MS, operation=create))

    for first in range(0, count, 20):
        await asyncio.gather(*(one(number) for number in range(first, min(first + 20, count))))


async def checkpoint(master: WholeMaster) -> LogIndex:
    assert master.node is not None
    return await master.node.checkpoint()


async def leave_behind(cluster: WholeCluster, prefix: str = "behind") -> tuple[WholeMaster, WholeMaster]:
    """(leader, follower): the follower is cut off, and the leader's log no longer reaches it."""
    leader = leader_of(cluster)
    follower = next(master for master in cluster.masters if master is not leader)
    cluster.loop.network.isolate(follower.name, list(cluster.names))
    for name in cluster.names:
        cluster.loop.network.reset(follower.name, name)  # nothing that is under way arrives late
    for number in range(2):
        await fill(cluster, f"{prefix}{number}", 150)
        await checkpoint(leader)
    assert leader.node is not None and follower.node is not None
    assert leader.node.parts.log.base.index > follower.node.status().applied
    return leader, follower


def watch_pieces(leader: WholeMaster, patch: pytest.MonkeyPatch) -> list[FetchPiece]:
    assert leader.node is not None
    asked: list[FetchPiece] = []
    serve = leader.node.parts.events.serve_piece

    def noting(request: FetchPiece) -> Awaitable[msgspec.Struct]:
        asked.append(request)
        return serve(request)

    patch.setattr(leader.node.parts.events, "serve_piece", noting)
    return asked


def checkpoint_names(master: WholeMaster) -> list[str]:
    """Oldest first, without their endings."""
    found = master.disk.listdir(f"{master.directory}/checkpoints")
    return sorted(name.removesuffix(".manifest") for name in found if name.endswith(".manifest"))


def damage_checkpoint(master: WholeMaster, name: str, how: str) -> None:
    path = f"{master.directory}/checkpoints/{name}"
    if how == "bit in the file":
        master.disk.flip_bit(path + ".lmdb", 20_000, 3)
    elif how == "bit in the manifest":
        master.disk.flip_bit(path + ".manifest", 20)
    elif how == "file cut short":
        file = master.disk.open(path + ".lmdb")
        file.truncate(30_000)
        file.sync()
    elif how == "no manifest":
        master.disk.unlink(path + ".manifest")
    else:
        master.disk.unlink(path + ".lmdb")
