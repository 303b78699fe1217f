"""Namespace operations a second at 64 in flight, each as a share of the echo rate of the same run."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from gfs.bench.fixture import local_cluster
from gfs.messages.base import Ack, Ping
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address

IN_FLIGHT = 64
ROUNDS = 5
SECONDS = 2.0


async def rate(do: Callable[[int], Awaitable[object]], in_flight: int = IN_FLIGHT) -> float:
    """Completed calls a second of `do(number)`, `in_flight` at a time, for SECONDS."""
    numbers = iter(range(1 << 60))
    began = time.monotonic()
    done = 0

    async def loop() -> None:
        nonlocal done
        while time.monotonic() - began < SECONDS:
            await do(next(numbers))
            done += 1

    await asyncio.gather(*(loop() for _ in range(in_flight)))
    return done / (time.monotonic() - began)


async def report() -> None:
    async with local_cluster(chunkservers=1) as (supervisor, client):
        status = await client.cluster_status()
        leader = Address(supervisor.settings.masters[status.leader].control)
        caller = WebSocketCaller(role="bench", node="bench")

        async def echo(_: int) -> None:
            await caller.call(leader, Ping(), Ack, deadline_seconds=10.0)

        await client.mkdir("/m")
        await client.create("/m/one")
        shares: dict[str, list[float]] = {"create": [], "stat": []}
        for number in range(ROUNDS):
            await client.mkdir(f"/m/{number}")
            echoes = await rate(echo)
            creates = await rate(lambda i, n=number: client.create(f"/m/{n}/{i}"))  # type: ignore[misc]
            stats = await rate(lambda _: client.stat("/m/one"))
            shares["create"].append(creates / echoes)
            shares["stat"].append(stats / echoes)
            print(f"  round {number + 1}: echo {echoes:.0f}/s, create {creates:.0f}/s, stat {stats:.0f}/s")
        await caller.close()
    for name, values in shares.items():
        print(
            f"{name}: median {100 * statistics.median(values):.1f} % of the echo rate, {IN_FLIGHT} in flight"
        )
