"""How the runner enters layer T (see chaos.layers): a plan's cluster behind proxies, in real time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from chaos.plan import Plan
from chaos.testbed import Power, Testbed
from chaos.toxiproxy import tools
from chaos.toxiproxy.server import ToxiproxyServer
from chaos.toxiproxy.testbed import ToxiTestbed
from gfs.local.layout import make_layout

T = TypeVar("T")

powers: frozenset[Power] = ToxiTestbed.powers
missing: Mapping[str, str] = {
    "packets": "a TCP proxy sees no packets (layer kernel does)",
    "power_cut": "the disks keep what was not synced (layers sim and kernel lose it)",
    "clock_drift": "clocks are left alone (layers sim and kernel spoil them)",
    "clock_jump": "clocks are left alone (layers sim and kernel spoil them)",
    "disk_full": "disks are left alone (layers sim and kernel spoil them)",
    "disk_errors": "disks are left alone (layers sim and kernel spoil them)",
    "slow_disk": "disks are left alone (layers sim and kernel spoil them)",
    "bit_rot": "disks are left alone (layers sim and kernel spoil them)",
}


def run(plan: Plan, directory: str, body: Callable[[Testbed], Awaitable[T]]) -> T:
    return asyncio.run(_run(plan, directory, body))


async def _run(plan: Plan, directory: str, body: Callable[[Testbed], Awaitable[T]]) -> T:
    configuration = plan.configuration
    layout = make_layout(
        os.path.join(directory, "cluster"),
        masters=configuration.masters,
        chunkservers=configuration.chunkservers,
        first_port=0,
    )
    server = ToxiproxyServer(directory, binary=tools.find_server(), seed=plan.seed)
    testbed = ToxiTestbed(layout, configuration, server)
    try:
        return await body(testbed)
    finally:
        await testbed.stop()
