"""What every Clock promises, over real and over virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gfs.clock import Clock, SystemClock
from tests.fakes.clock import VirtualClock

LetPass = Callable[[Coroutine[Any, Any, None], float], Coroutine[Any, Any, None]]


async def _really(work: Coroutine[Any, Any, None], _seconds: float) -> None:
    await work


@pytest.fixture(params=["system", "virtual"])
def timed(request: pytest.FixtureRequest) -> tuple[Clock, LetPass]:
    """A clock, and how to run a coroutine while that many of its seconds pass."""
    if request.param == "system":
        return SystemClock(), _really
    clock = VirtualClock()

    async def virtually(work: Coroutine[Any, Any, None], seconds: float) -> None:
        task = asyncio.create_task(work)
        await clock.advance(seconds)
        assert task.done(), "it sleeps longer than it was given"
        task.result()

    return clock, virtually


async def test_sleep_lasts_at_least_as_long_as_asked(timed: tuple[Clock, LetPass]) -> None:
    clock, let_pass = timed
    before, before_ms = clock.monotonic(), clock.wall_ms()
    await let_pass(clock.sleep(0.02), 0.02)
    assert clock.monotonic() - before >= 0.02 - 1e-9
    assert clock.wall_ms() - before_ms >= 19


async def test_sleepers_wake_in_the_order_of_their_due_times(timed: tuple[Clock, LetPass]) -> None:
    clock, let_pass = timed
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async def all_of_them() -> None:
        await asyncio.gather(sleep(0.03), sleep(0.01), sleep(0.02))

    await let_pass(all_of_them(), 0.03)
    assert woken == [0.01, 0.02, 0.03]


async def test_a_sleeper_can_sleep_again_and_sees_time_move(timed: tuple[Clock, LetPass]) -> None:
    clock, let_pass = timed
    seen: list[float] = []

    async def three_times() -> None:
        for _ in range(3):
            await clock.sleep(0.01)
            seen.append(clock.monotonic())

    before = clock.monotonic()
    await let_pass(three_times(), 0.03 + 1e-6)
    assert [moment - before >= 0.01 * i - 1e-9 for i, moment in enumerate(seen, 1)] == [True] * 3
    assert seen == sorted(seen)


async def test_sleeping_no_time_lets_others_run(timed: tuple[Clock, LetPass]) -> None:
    clock, _ = timed
    ran: list[str] = []

    async def other() -> None:
        ran.append("other")

    task = asyncio.create_task(other())
    await clock.sleep(0)
    assert ran == ["other"]
    await task


async def test_a_cancelled_sleep_ends_at_once(timed: tuple[Clock, LetPass]) -> None:
    clock, _ = timed
    task = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_virtual_time_stands_still_until_it_is_advanced() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.advance(0.999)
    assert not task.done()
    assert clock.sleepers() == 1
    await clock.advance(0.001)
    assert task.done()
    assert clock.sleepers() == 0


async def test_the_virtual_wall_clock_can_jump_without_moving_monotonic_time() -> None:
    clock = VirtualClock(monotonic=5, wall_ms=1_000_000)
    clock.step_wall_ms(-500)
    assert clock.wall_ms() == 999_500
    assert clock.monotonic() == 5
    await clock.advance(2)
    assert clock.wall_ms() == 1_001_500
    assert clock.monotonic() == 7
