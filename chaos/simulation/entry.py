"""How the runner enters layer S (see chaos.layers): a plan's cluster in one process, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from chaos.plan import Plan
from chaos.simulation.scratch import scratch_directory
from chaos.simulation.testbed import POWERS, SimTestbed
from chaos.simulation.world import World, seeded
from chaos.testbed import Power, Testbed

T = TypeVar("T")

powers: frozenset[Power] = POWERS
missing: Mapping[str, str] = {
    "slice": "simulated messages are whole (layer toxi slices them)",
    "slow_close": "simulated connections are closed at once (layer toxi lets them linger)",
    "packets": "simulated links have no packets (layer kernel has)",
    "membership": "the simulated masters do not come and go (layer toxi has that)",
}
SHARED_MEMORY = "/dev/shm"
COLLECT_OBJECTS = 50_000  # made before garbage is looked for: a run's history only grows


def run(plan: Plan, directory: str, body: Callable[[Testbed], Awaitable[T]]) -> T:
    """The nodes' LMDB files are where writing is cheapest: what must survive a power cut is simulated."""
    with scratch_directory(SHARED_MEMORY if os.path.isdir(SHARED_MEMORY) else directory) as place:
        loop = World(plan.seed)
        try:
            with seeded(loop, plan.seed), _rarely_collected():
                return loop.run_until_complete(_run(loop, plan, place, body))
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


@contextmanager
def _rarely_collected() -> Iterator[None]:
    gc.collect()  # the world of the run before: many runs in one process would pile up gigabytes of them
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def _run(loop: World, plan: Plan, place: str, body: Callable[[Testbed], Awaitable[T]]) -> T:
    testbed = SimTestbed(loop, plan.configuration, os.path.join(place, "nodes"))
    try:
        return await body(testbed)
    finally:
        await testbed.stop()
