"""Read and write locks on paths, at the leader (GFS §4.1). Order what takes several records against the rest.

An operation locks the ancestors of its path for reading and the path itself for reading or writing. There is
no lock for a directory as such: two creations in one directory lock it for reading only. Locks are taken by
level, then by name, so no two operations can wait for each other; they are made when needed, and go when
nobody holds or awaits them. They are volatile: what must hold over a change of leader, the log makes sure of
(core/snapshots). So while nobody holds a lock, operations of one record go without: the log orders them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gfs.errors import Overloaded
from gfs.master.core.lookup import NamePath, spell

LOCK_WAITERS_MAX = 4096  # operations waiting for a lock; more are refused


@dataclass(slots=True)
class _Node:
    """One path's lock. `waiting`: first come, first served; (whether to write, told when it is held)."""

    readers: int = 0
    is_written: bool = False
    waiting: deque[tuple[bool, asyncio.Future[None]]] = field(default_factory=deque)

    def admits(self, writes: bool) -> bool:
        return not self.is_written and not (writes and self.readers)

    def take(self, writes: bool) -> None:
        assert self.admits(writes)
        if writes:
            self.is_written = True
        else:
            self.readers += 1

    def give_back(self, writes: bool) -> None:
        if writes:
            assert self.is_written
            self.is_written = False
        else:
            assert self.readers > 0
            self.readers -= 1
        self.hand_on()

    def hand_on(self) -> None:
        """To those who have waited longest, as many as may have it together."""
        while self.waiting and self.admits(self.waiting[0][0]):
            writes, told = self.waiting.popleft()
            if not told.done():
                self.take(writes)
                told.set_result(None)

    @property
    def is_free(self) -> bool:
        return not (self.readers or self.is_written or self.waiting)


def ancestors(names: NamePath) -> list[NamePath]:
    """The directories above a path, but for the root: nobody ever locks that for writing."""
    return [names[:depth] for depth in range(1, len(names))]


class NamespaceLocks:
    """The locks of one leader. On the event loop's thread.

    Invariants: a path is held by any number of readers or by one writer; whoever waits for a path holds only
    paths before it in the order of levels and names.
    """

    def __init__(self) -> None:
        self._nodes: dict[NamePath, _Node] = {}
        self._waiters = 0

    @property
    def is_idle(self) -> bool:
        """Nobody holds a lock: an operation of one record needs none."""
        return not self._nodes

    @asynccontextmanager
    async def hold(
        self, *, write: Iterable[NamePath] = (), read: Iterable[NamePath] = ()
    ) -> AsyncIterator[None]:
        """Hold these paths, and the ancestors of all for reading, until the end of the block.

        Raises: Overloaded when too many wait already.
        """
        leaves = dict.fromkeys(read, False)
        leaves |= dict.fromkeys(write, True)
        wanted = {above: False for names in leaves for above in ancestors(names)} | leaves
        held: list[tuple[NamePath, bool]] = []
        try:
            for names in sorted(wanted, key=lambda names: (len(names), names)):
                await self._take(names, wanted[names])
                held.append((names, wanted[names]))
            yield
        finally:
            for names, writes_it in reversed(held):
                self._nodes[names].give_back(writes_it)
                self._drop_if_free(names)

    async def _take(self, names: NamePath, writes: bool) -> None:
        node = self._nodes.setdefault(names, _Node())
        if not node.waiting and node.admits(writes):
            node.take(writes)
            return
        if self._waiters >= LOCK_WAITERS_MAX:
            self._drop_if_free(names)
            raise Overloaded(f"{self._waiters} operations wait for {spell(names)} and other paths already")
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        node.waiting.append((writes, told))
        self._waiters += 1
        try:
            await told
        except BaseException:
            if told.done() and not told.cancelled():
                node.give_back(writes)  # it was handed over in the moment in which we went away
            elif (writes, told) in node.waiting:
                node.waiting.remove((writes, told))
                node.hand_on()  # those behind us may have waited for us only
            self._drop_if_free(names)
            raise
        finally:
            self._waiters -= 1

    def _drop_if_free(self, names: NamePath) -> None:
        node = self._nodes.get(names)
        if node is not None and node.is_free:
            del self._nodes[names]

    def check_invariants(self) -> None:
        for node in self._nodes.values():
            assert not node.is_free
            assert not (node.readers and node.is_written)
            assert not node.waiting or not node.admits(node.waiting[0][0])
        assert self._waiters == sum(len(node.waiting) for node in self._nodes.values())
