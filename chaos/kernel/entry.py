"""How the runner enters layer K (see chaos.layers): a plan's cluster in namespaces, in real time, as root."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from chaos.faults.registry import FAULTS
from chaos.kernel import machine, tools
from chaos.kernel.machine import Run
from chaos.kernel.testbed import KernelTestbed
from chaos.plan import Plan
from chaos.testbed import Power, Testbed

T = TypeVar("T")
powers: frozenset[Power]
missing: Mapping[str, str]


def __getattr__(name: str) -> object:
    """`powers` and `missing` are found out when they are asked for: that tries each tool once."""
    if name == "powers":
        return frozenset(power for power in tools.NEEDS if not tools.power_why_not(power))
    if name == "missing":
        if reason := tools.power_why_not("kill"):
            return {"": reason}
        every = (*tools.NEEDS, *tools.NEVER)
        return {power: reason for power in every if (reason := tools.power_why_not(power))}
    raise AttributeError(name)


def run(plan: Plan, directory: str, body: Callable[[Testbed], Awaitable[T]]) -> T:
    with machine.taken() as own:
        return asyncio.run(_run(plan, directory, body, own))


async def _run(plan: Plan, directory: str, body: Callable[[Testbed], Awaitable[T]], own: Run) -> T:
    wanted = frozenset(power for step in plan.steps for power in FAULTS[step.fault].powers)
    testbed = KernelTestbed(
        own, os.path.join(directory, "cluster"), plan.configuration, seed=plan.seed, wanted=wanted
    )
    try:
        return await body(testbed)
    finally:
        await testbed.stop()
        testbed.discard_disks()
