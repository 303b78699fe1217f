"""Locks on paths: what excludes what, fairness, and that no order of requests can come to a standstill."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs.errors import Overloaded
from gfs.master import namespace_locks
from gfs.master.core.lookup import NamePath, names_of
from gfs.master.namespace_locks import NamespaceLocks, ancestors
from tests.fakes.clock import settle


@dataclass
class Holder:
    """One operation: it asks for its locks, and keeps them until told."""

    locks: NamespaceLocks
    write: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    holds: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> asyncio.Task[None]:
        self.task = asyncio.create_task(self._run())
        return self.task

    async def _run(self) -> None:
        async with self.locks.hold(write=map(names_of, self.write), read=map(names_of, self.read)):
            self.holds = True
            await self.done.wait()
            self.holds = False

    def wanted(self) -> dict[NamePath, bool]:
        found = {above: False for path in (*self.write, *self.read) for above in ancestors(names_of(path))}
        found |= {names_of(path): False for path in self.read}
        return found | {names_of(path): True for path in self.write}

    async def end(self) -> None:
        self.done.set()
        await self.task


async def started(*holders: Holder) -> None:
    for holder in holders:
        holder.start()
        await settle(5)


async def test_creations_in_one_directory_go_side_by_side_and_of_one_name_one_by_one() -> None:
    locks = NamespaceLocks()
    one, other, same = (Holder(locks, write=[path]) for path in ("/d/a", "/d/b", "/d/a"))
    await started(one, other, same)
    assert one.holds and other.holds and not same.holds
    await one.end()
    await settle(5)
    assert same.holds
    await other.end()
    await same.end()
    assert locks.is_idle


async def test_a_reader_that_comes_after_a_waiting_writer_waits_for_it() -> None:
    locks = NamespaceLocks()
    first, writer, late = Holder(locks, read=["/d"]), Holder(locks, write=["/d"]), Holder(locks, read=["/d"])
    await started(first, writer, late)
    assert (first.holds, writer.holds, late.holds) == (True, False, False)
    await first.end()
    await settle(5)
    assert (writer.holds, late.holds) == (True, False)
    await writer.end()
    await late.end()
    assert locks.is_idle


async def test_whoever_gives_up_waiting_leaves_nothing_behind_and_lets_others_through() -> None:
    locks = NamespaceLocks()
    first, writer, late = Holder(locks, read=["/d"]), Holder(locks, write=["/d"]), Holder(locks, read=["/d"])
    await started(first, writer, late)
    writer.task.cancel()
    await settle(5)
    assert late.holds
    await first.end()
    await late.end()
    assert locks.is_idle
    locks.check_invariants()


async def test_a_lock_handed_to_one_who_goes_away_in_that_moment_is_handed_on() -> None:
    locks = NamespaceLocks()
    first, second, third = (Holder(locks, write=["/d"]) for _ in range(3))
    await started(first, second, third)
    first.done.set()
    await first.task
    second.task.cancel()  # it has the lock, and has not run since
    await settle(5)
    assert third.holds
    await third.end()
    assert locks.is_idle


async def test_waiting_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace_locks, "LOCK_WAITERS_MAX", 1)
    locks = NamespaceLocks()
    first, second, third = (Holder(locks, write=["/d"]) for _ in range(3))
    await started(first, second, third)
    assert isinstance(third.task.exception(), Overloaded)
    await first.end()
    await second.end()
    assert locks.is_idle


PATHS = ["/a", "/b", "/a/x", "/a/y", "/b/x", "/a/x/p", "/a/x/q"]
operations = st.tuples(
    st.lists(st.sampled_from(PATHS), max_size=2), st.lists(st.sampled_from(PATHS), max_size=2), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(
    asked=st.lists(operations, min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    turns=st.integers(0, 3),
)
def test_whatever_is_asked_for_and_in_which_order_it_ends_all_come_to_their_turn(
    asked: list[tuple[list[str], list[str], bool]], order: object, turns: int
) -> None:
    """No deadlock: as long as somebody waits, somebody holds; and never two what excludes each other."""

    async def run() -> None:
        locks = NamespaceLocks()
        holders = [Holder(locks, write=write, read=read) for write, read, _ in asked]
        for holder in holders:
            holder.start()
            await settle(turns)
        for holder, (_, _, gives_up) in zip(holders, asked, strict=True):
            if gives_up and not holder.holds:
                holder.task.cancel()
        left = [h for h, (_, _, gives_up) in zip(holders, asked, strict=True) if h.holds or not gives_up]
        while left:
            await settle(30)
            locks.check_invariants()
            holding = [holder for holder in left if holder.holds]
            assert holding, [(holder.write, holder.read) for holder in left]
            for one in holding:
                for other in holding:
                    if one is not other:
                        shared = one.wanted().keys() & other.wanted().keys()
                        assert not any(one.wanted()[p] or other.wanted()[p] for p in shared)
            ending = order.choice(holding)  # type: ignore[attr-defined]
            await ending.end()
            left.remove(ending)
        await settle(5)
        assert locks.is_idle

    asyncio.run(run())
