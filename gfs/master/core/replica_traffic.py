"""Replicas on their way from server to server: what the last count and disks do not show yet. Volatile."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from gfs.master.core.clone_task import CloneTask
from gfs.vocabulary import ChunkHandle, ServerId

SETTLED_SECONDS = 3600.0  # a chunk moved for balance is not moved again so soon
MOVES_KEPT = 10_000
DEPARTED_KEPT = 2000


class ReplicaTraffic:
    """Told of each task as it begins and ends, and of each walk that counts the members of all sets."""

    def __init__(self) -> None:
        self.moves_begun = 0  # for balance, ever
        self._active: dict[ChunkHandle, CloneTask] = {}
        self._uncounted: list[CloneTask] = []  # done since the walk began that was last to end
        self._before_walk = 0  # of these, done when the present walk began
        self._departed: deque[tuple[ChunkHandle, ServerId]] = deque(maxlen=DEPARTED_KEPT)
        self._moved: OrderedDict[ChunkHandle, float] = OrderedDict()

    @property
    def moves_under_way(self) -> int:
        return sum(task.reason == "rebalance" for task in self._active.values())

    def began(self, task: CloneTask) -> None:
        self._active[task.handle] = task
        self.moves_begun += task.reason == "rebalance"

    def ended(self, task: CloneTask, *, made: bool) -> None:
        del self._active[task.handle]
        if made:
            self._uncounted.append(task)
            if task.drop is not None:
                self._departed.append((task.handle, task.drop))

    def walk_began(self) -> None:
        self._before_walk = len(self._uncounted)

    def walk_ended(self) -> None:
        """What was done before the walk is in its count. What was done during it may be or not: a small
        error, which the next walk mends."""
        del self._uncounted[: self._before_walk]
        self._before_walk = 0

    def net(self) -> Counter[ServerId]:
        """By server, since the last count: replicas it has got or will get, less those it gives."""
        counts: Counter[ServerId] = Counter()
        for task in (*self._active.values(), *self._uncounted):
            counts[task.target] += 1
            if task.drop is not None:
                counts[task.drop] -= 1
        return counts

    def unseen(self, server: ServerId, *, holds: Callable[[ServerId, ChunkHandle], bool]) -> int:
        """Replicas its disk does not show yet, less those it still shows though they have left it."""
        coming = sum(task.target == server for task in self._active.values())
        going = sum(task.drop == server for task in self._active.values())
        lingering = sum(giver == server and holds(giver, handle) for handle, giver in self._departed)
        return coming - going - lingering

    def note_move(self, handle: ChunkHandle, *, now: float) -> None:
        """This chunk is being moved for balance."""
        self._moved.pop(handle, None)
        self._moved[handle] = now
        while len(self._moved) > MOVES_KEPT:
            self._moved.popitem(last=False)

    def was_moved(self, handle: ChunkHandle, *, now: float) -> bool:
        at = self._moved.get(handle)
        return at is not None and now - at < SETTLED_SECONDS
