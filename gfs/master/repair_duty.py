"""What a leader does so that every chunk has its replicas, in the right places (GFS §4.3).

The choices are core/repair's and core/rebalance's, the order core/repair_queue's, the work replica_moves'.
Nothing here is logged: a new leader looks again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from contextlib import suppress

from gfs.clock import Clock
from gfs.errors import GfsError
from gfs.master.clone_runs import CarriesOut, CloneRuns
from gfs.master.commit import Commits
from gfs.master.core.clone_task import CloneTask
from gfs.master.core.health import RepairOutlook
from gfs.master.core.leases import LeaseTable
from gfs.master.core.locations import Locations
from gfs.master.core.placement import Candidate, Chance
from gfs.master.core.rebalance import BY_ITSELF, WHEN_ASKED, Levels
from gfs.master.core.repair import (
    DRAIN_PRIORITY,
    LAST_COPY,
    REBALANCE_PRIORITY,
    choose_needless,
    choose_source,
    choose_target,
    make_task,
    priority_of,
    why_no_target,
)
from gfs.master.core.repair_queue import Limits, Need, RepairQueue
from gfs.master.core.repair_scan import RepairScan, Sighting, sight
from gfs.master.core.replica_survey import MemberState, Surveyor
from gfs.master.core.replica_traffic import ReplicaTraffic
from gfs.master.core.server_pool import ServerPool
from gfs.master.core.tenure import Tenure, tenures
from gfs.master.reads import Reads
from gfs.settings import SHORTAGES_KEPT
from gfs.telemetry import logger
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId, ServerId, Term

TICK_SECONDS = 0.25
HURRY_SECONDS = 0.01  # between two steps of a walk that looks for damage
STEP_CHUNKS_MAX = 250  # about 4 ms of reading
REST_SECONDS = 10.0  # between two walks when nothing has happened
TRIES_PER_TICK = 64
SHORTAGES_PER_TICK = 256  # looked at besides the walk
SHORTAGE_SECONDS = 60.0  # how long a chunk that a client met short of replicas is preferred
WRITER_SECONDS_MAX = 5.0  # a drain waits no longer for the writer of a chunk: of a small file, not of a log
ABSENT_SECONDS = 5.0  # a replica that is just being made, or copied for a snapshot, is not taken for lost
HOLD_SECONDS_MAX = 120.0  # a chunk waits no longer than this for a whole walk to tell who is worse off

_log = logger("master.repair")


class RepairDuty:
    """Run `run()` as one task on every master; it acts only while that master leads and knows its servers."""

    def __init__(
        self,
        *,
        clock: Clock,
        chance: Chance,
        commits: Commits,
        reads: Reads,
        locations: Locations,
        pool: ServerPool,
        leases: LeaseTable,
        moves: CarriesOut,
        limits: Limits,
        patience_seconds: float,
        levels_by_itself: bool,
    ) -> None:
        """`patience_seconds`: see Surveyor. `levels_by_itself`: rebalances without being asked."""
        self._clock = clock
        self._chance = chance
        self._commits = commits
        self._reads = reads
        self._locations = locations
        self._pool = pool
        self._leases = leases
        self._moves = moves
        self.patience_seconds = patience_seconds
        self._levels_by_itself = levels_by_itself
        self._limits = limits
        self._shortages: OrderedDict[tuple[InodeId, ChunkIndex], float] = OrderedDict()
        self._wake = asyncio.Event()
        self._begin_anew(None)

    def _begin_anew(self, term: Term | None) -> None:
        self._term = term
        self.queue = RepairQueue(self._limits)
        self.scan = RepairScan()
        self.traffic = ReplicaTraffic()
        self._runs = CloneRuns(self._moves, self.queue, self.traffic, self._clock, self._ended)
        self.counted = False  # a whole walk has ended since a server was last lost, drained or taken back
        self.levelling = False  # an operator wants it as level as can be
        self._servers: dict[ServerId, tuple[MemberState, Tenure]] = {}
        self._walk_at = 0.0
        self._left_out = 0
        self._moves_before = 0
        self._shortages.clear()

    # --- what others say -----------------------------------------------------------------------

    def note_shortage(self, inode: InodeId, index: ChunkIndex) -> None:
        """A client has just asked for this chunk, and there were fewer replicas than there should be."""
        if self._term is None:
            return
        self._shortages.pop((inode, index), None)
        self._shortages[inode, index] = self._clock.monotonic()
        while len(self._shortages) > SHORTAGES_KEPT:
            self._shortages.popitem(last=False)

    def level(self) -> None:
        """An operator asks for everything to be levelled as far as it goes."""
        self.levelling = True
        self._walk_at = 0.0
        self._wake.set()

    def look_again(self) -> None:
        """Something was said that changes what is to be done: do not wait for the next tick."""
        self._wake.set()

    # --- what others want to know --------------------------------------------------------------

    def members_of(self, server: ServerId, unknown: int) -> int:
        """How many chunks name this server in their set, as of the last walk; `unknown` while the first walk
        since its tenure was changed goes on. 0 is certain for a server that drains: it enters no set."""
        return self.scan.members.get(server, 0) if self._is_counted(server) else unknown

    def about_members_of(self, server: ServerId, unknown: int) -> int:
        """The same, with what was moved since."""
        counted = self.members_of(server, -1)
        return max(0, counted + self.traffic.net()[server]) if counted >= 0 else unknown

    def count_again(self) -> None:
        """Do not rest before the next walk."""
        self._walk_at = 0.0
        self._wake.set()

    def last_replicas_of(self, server: ServerId, unknown: int) -> int:
        """Of how many chunks it has the only good replica."""
        return self.scan.last_replicas.get(server, 0) if self._is_counted(server) else unknown

    def last_examples_of(self, server: ServerId) -> list[tuple[InodeId, ChunkIndex]]:
        """Some of these."""
        return self.scan.last_examples.get(server, [])

    def outlook(self) -> RepairOutlook | None:
        """What is under way and due, in numbers; None on a master that does not lead."""
        if self._term is None:
            return None
        now, queue = self._clock.monotonic(), self.queue
        failures = [failure for need in queue.in_order() if (failure := queue.failure(need.handle))]
        waiting = queue.waiting - len(failures)
        left = waiting + len(queue.active)
        said = tenures(self._reads.now())
        return RepairOutlook(
            active=len(queue.active),
            waiting=waiting,
            failed=len(failures),
            # What failed may fail again: nobody can say when that is done.
            seconds_left=queue.seconds_left(left, now=now) if left else None,
            why=failures[0].message if failures else "",
            left={s: self.about_members_of(s, -1) for s, tenure in said.items() if tenure == "draining"},
        )

    def _is_counted(self, server: ServerId) -> bool:
        """Also that the walk began after the server's tenure was last changed, as far as it was."""
        tenure = tenures(self._reads.now()).get(server, "serving")
        return self.counted and self._servers.get(server, ("", "serving"))[1] == tenure

    # --- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            while True:
                try:
                    pause = self.tick()
                except Exception:
                    # A fault of ours here must not end the master, nor the next one in its turn.
                    _log.exception("looking for repairs failed unexpectedly")
                    pause = REST_SECONDS
                await self._rest(pause)
        finally:
            self._runs.cancel()

    async def _rest(self, seconds: float) -> None:
        """Until then, or until a clone has ended."""
        loop = asyncio.get_running_loop()
        waits = {loop.create_task(self._clock.sleep(seconds)), loop.create_task(self._wake.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._wake.clear()

    def tick(self) -> float:
        """One short step. Returns: seconds after which the next is due."""
        now = self._clock.monotonic()
        term = self._commits.leading() if self._commits.is_leading else None
        if term != self._term:
            self._runs.cancel()
            self._begin_anew(term)
        if term is None or not self._locations.is_settled(now=now):
            return TICK_SECONDS
        surveyor = self.surveyor(now)
        self._watch_servers(surveyor)
        hurries = self._look_around(surveyor, now)
        self._look_at_shortages(surveyor, now)
        self._begin_repairs(surveyor, now)
        return HURRY_SECONDS if hurries else TICK_SECONDS

    def surveyor(self, now: float) -> Surveyor:
        return Surveyor(self._reads.now(), self._locations, now=now, patience_seconds=self.patience_seconds)

    def _watch_servers(self, surveyor: Surveyor) -> None:
        """When a server comes, goes or is to leave, everything is looked at again, at once."""
        said = tenures(self._reads.now())
        ids = {server.id for server in self._locations.servers()} | set(said)
        states = {s: (surveyor.server_state(s), said.get(s, "serving")) for s in sorted(ids)}
        if states != self._servers:
            self._servers = states
            self.counted = False
            self.scan.restart()
            self._walk_at = 0.0
            self.queue.retry_soon()

    # --- looking -------------------------------------------------------------------------------

    def _look_around(self, surveyor: Surveyor, now: float) -> bool:
        """Take the next step of the walk, if it is due; returns whether the one after it is urgent."""
        if self._left_out and not self.queue.waiting:
            self._left_out, self._walk_at = 0, now
        if now < self._walk_at:
            return False
        levels = self.levels(now, asked=self.levelling) if self._may_level() else None

        candidates = self._pool.candidates(self._reads.now(), now=now)

        def show(sighting: Sighting) -> None:
            if self._note(sighting, now):
                return
            needless = choose_needless(sighting.survey, candidates)
            if needless is not None and sighting.chunk.references == 1:
                self._runs.give_up(sighting.inode, sighting.index, sighting.chunk.handle, needless)
            elif levels is not None and self.queue.has_room(rebalancing=True):
                self._level_one(sighting, levels, now)

        if self.scan.is_at_beginning:
            self.traffic.walk_began()
        ended = self.scan.step(self._reads.now(), surveyor, show, chunks_max=STEP_CHUNKS_MAX)
        if not ended:
            return not self.counted
        self.counted = True
        self._left_out, self.queue.left_out = self.queue.left_out, 0
        self.traffic.walk_ended()
        # While a walk finds something to move or to give up, the next follows soon.
        moves = self.traffic.moves_begun + self._runs.removals_begun
        found = moves != self._moves_before
        self._moves_before = moves
        self._walk_at = now + (TICK_SECONDS if found else REST_SECONDS)
        if levels is not None and not found and not self.traffic.moves_under_way:
            self.levelling = False  # as level as it can be
        return False

    def _note(self, sighting: Sighting, now: float) -> bool:
        """Remember what this chunk needs; returns whether it needs anything."""
        handle = sighting.chunk.handle
        if self.queue.is_active(handle):
            return True
        priority = self._priority(sighting, now)
        if priority is not None:
            self.queue.want(Need(sighting.inode, sighting.index, handle, priority, now))
        elif sighting.chunk.references == 1:  # of several files, another may want more replicas
            self.queue.discard(handle)
            self.queue.forgive([handle])
        return priority is not None

    def _priority(self, sighting: Sighting, now: float) -> int | None:
        asked_at = self._shortages.get((sighting.inode, sighting.index))
        waits = asked_at is not None and now - asked_at < SHORTAGE_SECONDS
        return priority_of(sighting.survey, deleted=sighting.deleted, blocks_client=waits)

    def _look_at_shortages(self, surveyor: Surveyor, now: float) -> None:
        """Chunks that clients wait for do not wait for the walk."""
        latest = itertools.islice(reversed(self._shortages.items()), SHORTAGES_PER_TICK)
        for (inode, index), asked_at in latest:
            if now - asked_at > 2 * TICK_SECONDS:
                break
            sighting = sight(self._reads.now(), surveyor, inode, index)
            if sighting is not None:
                self._note(sighting, now)

    # --- repairing -----------------------------------------------------------------------------

    def _begin_repairs(self, surveyor: Surveyor, now: float) -> None:
        if not self.queue.waiting or not self.queue.has_room():
            return
        candidates = self._pool.candidates(self._reads.now(), now=now)
        for need in self.queue.due(now=now, look_at_max=TRIES_PER_TICK):
            if not self.queue.has_room():
                return
            if need.priority < LAST_COPY and not self.counted and now - need.since < HOLD_SECONDS_MAX:
                return  # somewhere there may be a chunk with a single replica left
            sighting = sight(self._reads.now(), surveyor, need.inode, need.index)
            if sighting is None or sighting.chunk.handle != need.handle:
                self.queue.discard(need.handle)
                continue
            priority = self._priority(sighting, now)
            if priority is None:
                self.queue.discard(need.handle)
            elif priority < need.priority:
                self._note(sighting, now)
            else:
                self._begin_one(sighting, priority, need.since, candidates, now)

    def _begin_one(
        self, sighting: Sighting, priority: int, since: float, candidates: list[Candidate], now: float
    ) -> None:
        survey = sighting.survey
        may_wait = priority == DRAIN_PRIORITY and now - since < WRITER_SECONDS_MAX
        if may_wait and self._is_written(sighting, now):
            return
        if survey.those("absent") and now - since < ABSENT_SECONDS:
            return
        target = choose_target(
            survey,
            candidates,
            holds_old=lambda server: self._holds(server, survey.handle),
            busy=self.queue.is_busy,
            chance=self._chance,
        )
        source = choose_source(survey, self.queue.load)
        if target is not None and source is not None and not self.queue.is_busy(source):
            was_more = len(self._locations.holders(survey.handle)) > len(survey.good)
            task = make_task(
                survey,
                sighting.inode,
                sighting.index,
                target=target,
                source=source,
                priority=priority,
                was_more=was_more,
            )
            self._begin(task, source, sighting, now)
        elif target is None and not self._could_later(sighting, candidates):
            self.queue.fail(survey.handle, why_no_target(survey, candidates), now=now)

    def _could_later(self, sighting: Sighting, candidates: list[Candidate]) -> bool:
        """Whether only other clones under way keep every server from taking the replica."""
        anyone = choose_target(
            sighting.survey,
            candidates,
            holds_old=lambda _: False,
            busy=lambda _: False,
            chance=self._chance,
        )
        return anyone is not None

    def _is_written(self, sighting: Sighting, now: float) -> bool:
        """Moving a replica ends the chunk's lease: what can wait does so until its writer is done."""
        chunk = sighting.chunk
        lease = self._leases.find(chunk.handle, chunk.version, now=now)
        return lease is not None and not chunk.sealed and not sighting.closed

    def _holds(self, server_id: ServerId, handle: ChunkHandle) -> bool:
        known = self._locations.get(server_id)
        return known is not None and known.held.get(handle) > 0

    def _begin(self, task: CloneTask, source: ServerId, sighting: Sighting, now: float) -> None:
        self._pool.note_placed([task.target], now=now)
        self._runs.begin(task, source=source, members=sighting.survey.members, now=now)

    def _ended(self, task: CloneTask, made: bool) -> None:
        """See at once whether the chunk needs more, and what else there is room for now."""
        if made:
            self._locations.note_copied(task.target, task.handle)
        now = self._clock.monotonic()
        with suppress(GfsError):  # damaged tables are found by whoever must act on them
            sighting = sight(self._reads.now(), self.surveyor(now), task.inode, task.index)
            if sighting is not None and sighting.chunk.handle == task.handle:
                self._note(sighting, now)
        self._wake.set()

    # --- levelling -----------------------------------------------------------------------------

    def _may_level(self) -> bool:
        """Nothing is moved for balance while anything is to be repaired, or not everything has been seen."""
        wanted = self.levelling or self._levels_by_itself
        repairs = any(active.task.reason != "rebalance" for active in self.queue.active)
        return wanted and self.counted and not repairs and not self.queue.has_hope()

    def levels(self, now: float, *, asked: bool) -> Levels:
        """How the servers compare, counting what is on its way."""
        net = self.traffic.net()
        return Levels(
            self._pool.candidates(self._reads.now(), now=now),
            lambda server: self.scan.members.get(server, 0) + net[server],
            lambda server: self.traffic.unseen(server, holds=self._holds),
            WHEN_ASKED if asked else BY_ITSELF,
        )

    def _level_one(self, sighting: Sighting, levels: Levels, now: float) -> None:
        handle = sighting.chunk.handle
        if self._is_written(sighting, now) or self.traffic.was_moved(handle, now=now):
            return
        move = levels.choose_move(sighting.survey, holds=lambda server: self._holds(server, handle))
        if move is None:
            return
        giver, receiver = move
        source = choose_source(sighting.survey, self.queue.load)
        if source is None or self.queue.is_busy(source) or self.queue.is_busy(receiver):
            return
        task = CloneTask(
            inode=sighting.inode,
            index=sighting.index,
            handle=handle,
            target=receiver,
            drop=giver,
            reason="rebalance",
            priority=REBALANCE_PRIORITY,
            source=source,
        )
        levels.apply(giver, receiver)
        self.traffic.note_move(handle, now=now)
        self._begin(task, source, sighting, now)
