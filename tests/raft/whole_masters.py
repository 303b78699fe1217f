"""Whole masters in virtual time: MasterState over LMDB, real checkpoint files, Raft; and what they must keep.

Every master has a machine of its own: a disk that forgets what was not synced, and a plain directory for
the state's file, which is never synced and comes out of a power cut as it likes.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from chaos.simulation.disk import ForgetfulDisk
from chaos.simulation.loop import VirtualClock
from chaos.simulation.stepped_work import ProcessDisk, SteppedLoop
from gfs.errors import GfsError
from gfs.master.checkpoint import LmdbCheckpoints
from gfs.master.checkpoint_directory import CheckpointDirectory
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import state_digest
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.master.replication.options import RaftOptions
from gfs.master.replication.raft_node import RaftNode
from gfs.master.state_machine import STATE_FILE, ReplicatedState
from gfs.messages import operations as op
from gfs.vocabulary import ClientId, ClusterId, LogIndex, MasterId, Term
from tests.core.master_records import NOW_MS
from tests.raft.cluster import Killed, member_at

CLUSTER = ClusterId("power-cuts")
STATE_BYTES_MAX = 16 * 2**20
GIVES_UP = 0.5  # of what was refused so much is not tried again: it must not have happened


class Entry(NamedTuple):
    term: Term
    proposals: tuple[bytes, ...]
    outcomes: tuple[bytes, ...]


class History:
    """What all masters together have applied, and what clients were told of it."""

    def __init__(self) -> None:
        self.entries: dict[LogIndex, Entry] = {}
        self.acknowledged: dict[bytes, bytes] = {}
        self._open_tries: Counter[bytes] = Counter()  # of each proposal that was ever made
        self.leaders_by_term: dict[Term, MasterId] = {}

    def note(self, master: MasterId, index: LogIndex, entry: Entry) -> None:
        first = self.entries.setdefault(index, entry)
        assert first == entry, f"{master} applies something else at entry {index}: a committed entry was lost"

    def tried(self, proposal: bytes) -> None:
        self._open_tries[proposal] += 1

    def refused(self, proposal: bytes) -> None:
        """One try certainly did and does nothing. Of others whose end nobody knows this says nothing."""
        self._open_tries[proposal] -= 1

    def answered(self, proposal: bytes, outcome: bytes) -> None:
        first = self.acknowledged.setdefault(proposal, outcome)
        assert first == outcome, "a retry was answered otherwise than the first call"

    def check(self) -> MemoryTables:
        """No acknowledged operation lost or answered otherwise, none twice, no refused one there.

        Returns: the state that follows from the log, made anew from nothing.
        """
        outcomes: dict[bytes, list[bytes]] = {}
        tables = MemoryTables()
        state = MasterState(tables)
        for index in sorted(self.entries):
            entry = self.entries[index]
            assert index == 2 or LogIndex(index - 1) in self.entries, f"nobody has applied entry {index - 1}"
            for proposal, outcome in zip(entry.proposals, entry.outcomes, strict=True):
                outcomes.setdefault(proposal, []).append(outcome)
                state.apply(msgspec.msgpack.decode(proposal, type=op.LogRecord), index=index)
        state.save()
        for proposal, outcome in self.acknowledged.items():
            assert proposal in outcomes, f"an acknowledged operation is lost: {proposal!r}"
            assert set(outcomes[proposal]) == {outcome}, "one operation, two outcomes"
        refused = {proposal for proposal, tries in self._open_tries.items() if not tries}
        assert not refused & set(outcomes), "an operation that was refused took effect"
        return tables


class _Watched:
    """StateMachine: the real one, with everything it applies noted in the history."""

    def __init__(self, master: MasterId, state: ReplicatedState, history: History) -> None:
        self._master, self._state, self._history = master, state, history
        self.applied, self.commit = state.applied, state.commit

    def apply(self, index: LogIndex, term: Term, proposals: Sequence[bytes]) -> list[bytes]:
        outcomes = self._state.apply(index, term, proposals)
        self._history.note(self._master, index, Entry(term, tuple(proposals), tuple(outcomes)))
        return outcomes


class WholeMaster:
    """One master and its machine."""

    def __init__(self, cluster: WholeCluster, name: MasterId, directory: str) -> None:
        self._cluster, self.name, self.directory = cluster, name, directory
        self.chance = random.Random(cluster.loop.chance.random())
        self.disk = ForgetfulDisk(seed=self.chance.randrange(2**32))
        self.disk.make_directory(directory)
        os.makedirs(directory)
        self.node: RaftNode | None = None
        self.failure: BaseException | None = None
        self.state: ReplicatedState | None = None
        self.power_cuts = self.checkpoints_installed = 0
        self._process: ProcessDisk | None = None
        self._executor: object = None

    # --- life and death ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the process. The power may go again meanwhile; then nothing runs afterwards."""
        assert self.node is None
        loop = self._cluster.loop
        process = self._process = ProcessDisk(self.disk, loop, on_cut=lambda: self._power_went(process))
        try:
            files = CheckpointDirectory(f"{self.directory}/checkpoints", process, kept_max=3)
            self.state = state = ReplicatedState(
                self.directory, files, disk=process, bytes_max=STATE_BYTES_MAX
            )
            node = self._make_node(process, state, LmdbCheckpoints(files, state))
            await node.start()
        except (OSError, GfsError) as error:
            if not process.is_dead:
                self.failure = error
                raise
            self._end_process()
            return
        if process.is_dead:
            return
        self.node, self._executor = node, node.parts.checkpoint_threads
        state.on_replaced(self._installed)
        node.on_leadership(self._note_leadership)

    def _make_node(self, process: ProcessDisk, state: ReplicatedState, store: LmdbCheckpoints) -> RaftNode:
        loop = self._cluster.loop
        return RaftNode(
            me=self.name,
            founders=[member_at(name) for name in self._cluster.names],
            dial=lambda member: (f"{self.name}>{member.id}", 1),
            listen=(self.name, 1),
            directory=self.directory,
            cluster=CLUSTER,
            secret=b"one secret",
            state=_Watched(self.name, state, self._cluster.history),
            checkpoints=store,
            options=self._cluster.options,
            disk=process,
            clock=VirtualClock(loop),
            chance=random.Random(loop.chance.random()),
            fatal=self._died,
            in_worker=lambda work: loop.run_in_executor(None, work),
        )

    def kill(self) -> None:
        """kill -9: page cache and the state's file stay as they are."""
        if self._process is not None:
            self._process.is_dead = True
        self._end_process()

    def cut_power(self, *, torn: bool) -> None:
        if self._process is not None:
            self._process.is_dead = True
        self.disk.power_cut(torn=torn)
        self._power_went(self._process)

    def cut_power_within(self, operations: int, *, torn: bool) -> None:
        """In the middle of one of this machine's next changes to its disk."""
        if not self.disk.powered_off:
            self.disk.cut_power_after(self.chance.randrange(operations), torn=torn)

    def power_on(self) -> None:
        if self.disk.powered_off:
            self.disk.power_on()
        self.disk.operations_until_cut = None

    def _power_went(self, process: ProcessDisk | None) -> None:
        if process is not self._process:
            return  # the machine is on again already
        self._process = None
        self.power_cuts += 1
        self._cluster.loop.network.power_off(self.name)
        self._end_process()
        self._spoil_state_file()

    def _end_process(self) -> None:
        node, self.node = self.node, None
        if node is not None:
            node._fail(Killed())
        self._cluster.loop.network.listeners.pop(self.name, None)
        if self._executor is not None:
            self._cluster.loop.end_work_of(self._executor)
            self._executor = None
        if self.state is not None:
            self.state.close()
            self.state = None

    def _died(self, error: BaseException) -> None:
        if not isinstance(error, Killed) and self._process is not None and not self._process.is_dead:
            self.failure = error
            raise error

    def _spoil_state_file(self) -> None:
        """Nobody ever synced it: it may be old, torn, empty or gone, and must not be believed."""
        path = f"{self.directory}/{STATE_FILE}"
        what = self.chance.choice(("as it was", "cut short", "zeros", "gone", "scrambled"))
        if not os.path.exists(path) or what == "as it was":
            return
        if what == "gone":
            os.unlink(path)
            return
        length = os.path.getsize(path)
        with open(path, "r+b") as file:
            if what == "cut short":
                file.truncate(self.chance.randrange(length + 1))
            for _ in range(20 if what == "scrambled" else 5):
                file.seek(self.chance.randrange(length // 4096 or 1) * 4096)
                file.write(bytes(4096) if what == "zeros" else self.chance.randbytes(4096))

    def _installed(self) -> None:
        self.checkpoints_installed += 1

    def _note_leadership(self, leads: bool, term: Term) -> None:
        if leads:
            first = self._cluster.history.leaders_by_term.setdefault(term, self.name)
            assert first == self.name, f"two leaders in term {term}: {first} and {self.name}"


class WholeCluster:
    def __init__(self, loop: SteppedLoop, directory: str, options: RaftOptions, *, size: int = 3) -> None:
        self.loop, self.options = loop, options
        self.history = History()
        self.names = [MasterId(f"m{number}") for number in range(1, size + 1)]
        self.masters = [WholeMaster(self, name, f"{directory}/{name}") for name in self.names]
        self._directory = directory

    def remove(self) -> None:
        for master in self.masters:
            master.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def running(self) -> list[WholeMaster]:
        return [master for master in self.masters if master.node is not None]

    def leader(self) -> WholeMaster | None:
        """Whoever leads and is ready; of several that believe it, the one of the newest term."""
        leading = [(m.node.status(), m) for m in self.running if m.node is not None]
        ready = [
            (status.term, m.name, m) for status, m in leading if status.role == "leader" and status.ready
        ]
        return max(ready)[2] if ready else None

    async def propose(self, record: op.LogRecord) -> bool | None:
        """Propose once, at whoever leads. Whether it was acknowledged; None: it was certainly refused."""
        leader = self.leader()
        if leader is None or leader.node is None:
            return False
        proposal = msgspec.msgpack.encode(record)
        self.history.tried(proposal)
        try:
            outcome = await leader.node.propose(proposal)
        except GfsError as error:
            if not error.definite:
                return False
            self.history.refused(proposal)
            return None
        self.history.answered(proposal, outcome)
        return True

    async def settled(self, *, seconds: float = 30) -> None:
        """All masters run, one leads, and all have applied the same entries."""
        deadline = self.loop.now + seconds
        while not self._all_equal():
            assert self.loop.now < deadline, f"not within {seconds} virtual seconds: {self.describe()}"
            await asyncio.sleep(0.01)

    def _all_equal(self) -> bool:
        if self.leader() is None or len(self.running) < len(self.masters):
            return False
        statuses = [master.node.status() for master in self.running if master.node is not None]
        return len({status.applied for status in statuses}) == 1 == len({s.committed for s in statuses})

    def check(self) -> None:
        """Every master's rows are those that follow from the log, and keep all promises of the state."""
        expected = self.history.check()
        for master in self.running:
            assert master.state is not None and master.failure is None
            tables = master.state.committed()
            assert state_digest(tables) == state_digest(expected), f"{master.name} differs from the log"
            check_invariants(tables)

    def describe(self) -> str:
        return "; ".join(
            f"{m.name}: {m.node.status() if m.node else 'down'}{f' ({m.failure!r})' if m.failure else ''}"
            for m in self.masters
        )


class Client:
    """Makes files and directories, moves and removes them; asks again what it got no answer to.

    And some of what was refused.
    """

    def __init__(self, cluster: WholeCluster, number: int) -> None:
        self._cluster, self._number = cluster, number
        self._chance = random.Random(cluster.loop.chance.random())
        self._sequence = 0
        self._paths: list[str] = []
        self.acknowledged = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            record = self._next_record()
            while not stop.is_set():
                done: bool | None = False
                try:
                    async with asyncio.timeout(2):
                        done = await self._cluster.propose(record)
                except TimeoutError:
                    pass
                if done:
                    self.acknowledged += 1
                    break
                if done is None and self._chance.random() < GIVES_UP:
                    break
                await asyncio.sleep(self._chance.uniform(0.005, 0.05))
            await asyncio.sleep(self._chance.uniform(0.0005, 0.01))

    def _next_record(self) -> op.LogRecord:
        self._sequence += 1
        name = f"/c{self._number}-{self._sequence}" + "x" * self._chance.choice((0, 20, 120))
        what = self._chance.random()
        operation: op.AnyOperation
        if not self._paths or what < 0.6:
            operation = op.CreateFile(path=name, replication_goal=3, replace=False)
            self._paths.append(name)
        elif what < 0.7:
            operation = op.MakeDirectory(path=name, parents=False)
        else:
            old = self._paths.pop(self._chance.randrange(len(self._paths)))
            if what < 0.85:
                operation = op.DeletePath(path=old, recursive=False, expires_at_ms=NOW_MS + 1000)
            else:
                operation = op.RenamePath(
                    source=old, destination=name, replace=False, expires_at_ms=NOW_MS + 1000
                )
                self._paths.append(name)
        # The leader would stamp a new time into a retry; here it is the same record, whose outcome is kept.
        request = op.RequestId(ClientId(1000 + self._number), self._sequence, max(1, self._sequence - 5))
        return op.LogRecord(at_ms=NOW_MS, operation=operation, request=request)
