"""A master that stops while somebody looks at its console."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from tests.client.real_cluster import RealCluster


async def test_live_pages_are_ended_and_not_cut_off(tmp_path: Path) -> None:
    async with RealCluster(tmp_path, chunkservers=1) as cluster, aiohttp.ClientSession() as session:
        async with session.get(f"http://{cluster.masters['m1'].address}/ui/live/masters?") as stream:
            seen = await stream.content.readuntil(b"\n\n")
            assert b"m1" in seen
            await cluster.stop_master("m1")
            await stream.content.read()  # to its end; one that is cut off raises
            assert stream.content.at_eof()
