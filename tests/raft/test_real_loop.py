"""Members on a real loop with real sockets, threads and files: what virtual time cannot show."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pysyncobj import SyncObj

from gfs.disk import SystemDisk
from gfs.local.ports import free_ports
from gfs.master.replication import engine
from gfs.master.replication.checkpoints import CheckpointManifest
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_node import RaftNode
from gfs.master.replication.replicator import Member
from gfs.vocabulary import Address, ClusterId, MasterId
from tests.fakes.replicated_state import FileCheckpoints, RecordedState
from tests.paper.boxes import keeps
from tests.raft.single import PlainMember, StoppedClock, stopped_clock

__all__ = ["stopped_clock"]

# Generous: the machine that runs the tests may be busy, and none of them is about how fast an election is.
OPTIONS = RaftOptions(election_seconds_min=1.0, election_seconds_max=1.5, peer_silent_seconds=5.0)


def no_failure(error: BaseException) -> None:
    raise AssertionError("a member failed") from error


class Members:
    def __init__(self, root: Path, count: int) -> None:
        names = [MasterId(f"m{number}") for number in range(1, count + 1)]
        self.addresses = dict(zip(names, (("127.0.0.1", port) for port in free_ports(count)), strict=True))
        self.root, self.states = root, {name: RecordedState() for name in names}
        self.nodes: dict[MasterId, RaftNode] = {}

    async def start(self, name: MasterId, **parts: Any) -> RaftNode:
        disk, state = SystemDisk(), self.states[name]
        directory = str(self.root / name)
        node = RaftNode(
            me=name,
            founders=[Member(peer, Address("-"), Address("-"), voter=True) for peer in self.addresses],
            dial=lambda member: self.addresses[member.id],
            listen=self.addresses[name],
            directory=directory,
            cluster=ClusterId("real"),
            secret=b"secret",
            state=state,
            checkpoints=parts.get("checkpoints") or FileCheckpoints(f"{directory}/checkpoints", disk, state),
            options=OPTIONS,
            fatal=no_failure,
        )
        await node.start()
        self.nodes[name] = node
        return node

    async def leader(self) -> RaftNode:
        async with asyncio.timeout(20):
            while True:
                for node in self.nodes.values():
                    if (status := node.status()).role == "leader" and status.ready:
                        return node
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Members]:
    members = Members(tmp_path, 3)
    for name in members.addresses:
        await members.start(name)
    yield members
    await members.stop()


async def test_three_members_elect_propose_and_survive_a_restart_of_all(
    three: Members, tmp_path: Path
) -> None:
    leader = await three.leader()
    outcomes = await asyncio.gather(*(leader.propose(b"%d" % number) for number in range(300)))
    assert outcomes == [b"%d" % number for number in range(1, 301)]
    assert await leader.read_barrier() >= 2
    await three.stop()
    again = Members(tmp_path, 3)
    for name in again.addresses:
        await again.start(name)
    try:
        leader = await again.leader()
        assert await leader.propose(b"after") == b"301"
    finally:
        await again.stop()


async def test_leadership_moves_on_when_the_leader_stops(three: Members) -> None:
    leader = await three.leader()
    await leader.propose(b"before")
    heard: list[bool] = []
    leader.on_leadership(lambda leads, term: heard.append(leads))
    await leader.stop()
    assert heard == [False]
    successor = await three.leader()
    assert successor is not leader
    assert await successor.propose(b"after") == b"2"


class _SlowCheckpoints(FileCheckpoints):
    """Writing takes until the test says so, as on a slow disk."""

    may_finish: threading.Event
    thread: int = 0

    def put(self, manifest: CheckpointManifest, content: bytes) -> None:
        self.thread = threading.get_ident()
        assert self.may_finish.wait(20)
        super().put(manifest, content)


@keeps("checkpoint-aside")
async def test_f5_mutations_go_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    members = Members(tmp_path, 1)
    name = MasterId("m1")
    slow = _SlowCheckpoints(str(tmp_path / "slow"), SystemDisk(), members.states[name])
    slow.may_finish = threading.Event()
    node = await members.start(name, checkpoints=slow)
    await members.leader()
    await node.propose(b"in the checkpoint")
    at = node.status().applied
    first, second = asyncio.ensure_future(node.checkpoint()), asyncio.ensure_future(node.checkpoint())
    for number in range(50):
        await node.propose(b"%d" % number)
    assert not first.done() and slow.newest() is None
    slow.may_finish.set()
    assert await first == await second == at
    assert slow.thread != threading.get_ident()
    assert [manifest.index for manifest in slow.kept()] == [at]
    await members.stop()


def test_f5_plain_serializer_runs_inside_the_tick(stopped_clock: StoppedClock, tmp_path: Path) -> None:
    inside: list[bool] = []
    ticking = False

    def serialize(path: str, data: object) -> None:
        inside.append(ticking)

    member = PlainMember(
        fullDumpFile=str(tmp_path / "dump"), serializer=serialize, deserializer=lambda path: None
    )
    member.fill([(b"\x00x", 2, 1), (b"\x00y", 3, 1)], applied=3, term=1)
    member.raft.forceLogCompaction()
    ticking = True
    member.tick()
    ticking = False
    assert inside == [True]


def test_f3_plain_retries_a_command_that_raises_for_ever(stopped_clock: StoppedClock) -> None:
    member = PlainMember()
    member.fill([(b"\x00poison", 2, 1)], applied=1, term=1)
    member.raft._SyncObj__raftCommitIndex = 2

    def fail(command: bytes) -> None:
        raise ZeroDivisionError

    member.on_apply = fail
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            member.tick()
    assert len(member.applied) == 3 and member.raft.raftLastApplied == 1


def test_engine_uses_no_private_name_that_pysyncobj_does_not_have() -> None:
    """A new release of pysyncobj that renames one of these must fail here and nowhere else."""
    source = Path(str(engine.__file__)).read_text()
    names = set(re.findall(r"_SyncObj(__\w+)", source))
    upstream = Path(str(sys.modules[SyncObj.__module__].__file__)).read_text()
    missing = {name for name in names if f"self.{name}" not in upstream and f"def {name}" not in upstream}
    assert names and not missing
    room = Path(str(engine.__file__)).parent
    others = [path.name for path in room.glob("*.py") if "_SyncObj__" in path.read_text()]
    assert others == ["engine.py"]
