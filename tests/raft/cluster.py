"""A cluster of RaftNodes in virtual time, with the oracles every scenario is judged by."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from chaos.simulation.disk import ForgetfulDisk
from chaos.simulation.loop import VirtualClock, VirtualLoop
from gfs.errors import GfsError
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_node import RaftNode
from gfs.master.replication.replicator import Member
from gfs.vocabulary import Address, ClusterId, LogIndex, MasterId, Term
from tests.fakes.replicated_state import FileCheckpoints, RecordedState

SECRET = b"one secret"
CLUSTER = ClusterId("test-cluster")


def member_at(name: MasterId) -> Member:
    return Member(name, Address(f"{name}:1"), Address(f"{name}:2"), voter=True)


class Killed(Exception):
    pass


class Machine:
    """One master's computer: its disk outlives the process; its state only while the power is on."""

    def __init__(self, cluster: Cluster, name: MasterId) -> None:
        self._cluster, self.name = cluster, name
        self.disk = ForgetfulDisk(seed=cluster.loop.chance.randrange(2**32))
        self.state = RecordedState()
        self.node: RaftNode | None = None
        self.failure: BaseException | None = None
        self.led: list[tuple[bool, Term]] = []
        self.joins = False  # its settings no longer call it a founder

    async def start(self, *, secret: bytes = SECRET, cluster: ClusterId = CLUSTER) -> None:
        assert self.node is None
        loop = self._cluster.loop
        founders = set(self._cluster.founders) - ({self.name} if self.joins else set())
        checkpoints = FileCheckpoints(f"/{self.name}/checkpoints", self.disk, self.state)
        if self.state.applied()[0] == 0:
            checkpoints.restore()
        self.failure = None
        node = RaftNode(
            me=self.name,
            founders=[member_at(name)._replace(voter=name in founders) for name in self._cluster.names],
            dial=lambda member: (f"{self.name}>{member.id}", 1),
            listen=(self.name, 1),
            directory=f"/{self.name}",
            cluster=cluster,
            secret=secret,
            state=self.state,
            checkpoints=checkpoints,
            options=self._cluster.options,
            disk=self.disk,
            clock=VirtualClock(loop),
            chance=random.Random(loop.chance.random()),
            fatal=self._died,
            in_worker=lambda work: loop.run_in_executor(None, work),
        )
        node.on_leadership(lambda leads, term: self._cluster.note_leadership(self, leads, term))
        await node.start()
        self.node = node

    def _died(self, error: BaseException) -> None:
        self.node = None
        if not isinstance(error, Killed):
            self.failure = error

    def kill(self) -> None:
        """kill -9: unwritten memory is gone, the page cache and the state's file are not."""
        if (node := self.node) is not None:
            node._fail(Killed())
            # What its threads were about to do to the disk dies with it.
            checkpointing = node.parts.checkpointing
            for task in (checkpointing._task, checkpointing._fetcher._task):
                if task is not None:
                    task.cancel()
            self.node = None

    async def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later: nothing is read or ticked; what was sent meanwhile comes late."""
        node, network = self.node, self._cluster.loop.network
        if node is None:
            return
        turns = node.parts.turns
        if turns._tick_handle is None:
            return
        network.freeze(self.name)
        turns._tick_handle.cancel()
        turn, turns._turn = turns._turn, lambda: None  # type: ignore[method-assign]
        await asyncio.sleep(seconds)
        turns._turn = turn  # type: ignore[method-assign]
        turns._asked = False
        network.thaw(self.name)
        if node is self.node:
            turns._tick()

    def cut_power(self, *, torn: bool = False) -> None:
        """The state's file may be torn, so it is rebuilt from the newest checkpoint."""
        if self.node is not None:
            self._cluster.loop.network.power_off(self.name)
        self.kill()
        self.disk.power_cut(torn=torn)
        self.disk.power_on()
        self.lose_state()

    def lose_state(self) -> None:
        digests = self.state.digests
        self.state = RecordedState()
        self.state.digests = {i: d for i, d in digests.items() if i < 0}


class Cluster:
    def __init__(
        self,
        loop: VirtualLoop,
        size: int = 3,
        options: RaftOptions | None = None,
        *,
        founders: int | None = None,
    ) -> None:
        """`founders`: so many of the masters are in from the start; the others run, and are to be added."""
        self.loop, self.options = loop, options or RaftOptions()
        self.names = [MasterId(f"m{number}") for number in range(1, size + 1)]
        self.founders = self.names[: size if founders is None else founders]
        self.machines = {name: Machine(self, name) for name in self.names}
        self.leaders_by_term: dict[Term, MasterId] = {}
        self.acknowledged: list[bytes] = []
        self.refused: list[bytes] = []
        self.digests: dict[int, bytes] = {}

    async def start(self) -> None:
        for machine in self.machines.values():
            await machine.start()

    def note_leadership(self, machine: Machine, leads: bool, term: Term) -> None:
        machine.led.append((leads, term))
        if leads:
            first = self.leaders_by_term.setdefault(term, machine.name)
            assert first == machine.name, f"two leaders in term {term}: {first} and {machine.name}"

    @property
    def running(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.node is not None]

    def leader(self) -> Machine | None:
        """Whoever leads and is ready; of several that believe it, the one of the newest term."""
        leading = [
            m for m in self.running if m.node and m.node.status().role == "leader" and m.node.status().ready
        ]
        return max(leading, key=lambda m: m.node.status().term if m.node else Term(0), default=None)

    async def until(self, condition: Callable[[], object], *, seconds: float = 20) -> None:
        deadline = self.loop.now + seconds
        while not condition():
            assert self.loop.now < deadline, f"not within {seconds} virtual seconds: {self.describe()}"
            await asyncio.sleep(0.005)

    async def elected(self, *, besides: Machine | None = None) -> Machine:
        await self.until(lambda: (found := self.leader()) is not None and found is not besides)
        leader = self.leader()
        assert leader is not None
        return leader

    async def propose(self, proposal: bytes, at: Machine | None = None) -> bytes | None:
        """Propose once; the outcome, or None when it may or may not have happened, or did not."""
        machine = at or self.leader()
        if machine is None or machine.node is None:
            return None
        try:
            outcome = await machine.node.propose(proposal)
        except GfsError as error:
            if error.definite:
                self.refused.append(proposal)
            return None
        self.acknowledged.append(proposal)
        return outcome

    async def settled(self) -> None:
        """Every running master that is a member has applied the same entries."""

        def same() -> bool:
            leader = self.leader()
            if leader is None or leader.node is None:
                return False
            members = {member.id for member in leader.node.members()}
            nodes = [machine.node for machine in self.running if machine.node and machine.name in members]
            return len({node.status().applied for node in nodes}) == 1

        await self.until(same)

    def check(self) -> None:
        """Equal states at equal indices; every acknowledged proposal there, no refused one, none twice."""
        for machine in self.machines.values():
            for index, digest in machine.state.digests.items():
                assert self.digests.setdefault(index, digest) == digest, f"{machine.name} differs at {index}"
        for machine in self.running:
            assert machine.failure is None
        leader = self.leader()
        if leader is not None:
            items = leader.state.items
            missing = set(self.acknowledged) - set(items)
            assert not missing, f"{len(missing)} acknowledged proposals are lost, like {min(missing)[:40]!r}"
            assert not set(self.refused) & set(items), "a proposal that was refused took effect"

    def describe(self) -> str:
        return "; ".join(
            f"{m.name}: {m.node.status() if m.node else f'down ({m.failure!r})'}"
            for m in self.machines.values()
        )


__all__ = ["Cluster", "LogIndex", "Machine"]
