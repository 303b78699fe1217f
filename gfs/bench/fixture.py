"""A cluster for measuring, in a temporary directory, and the sums that every report needs."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from gfs import aio
from gfs.client.client import AsyncClient
from gfs.local.layout import Layout, make_layout, open_layout
from gfs.local.supervisor import Supervisor, wait_until_ready


@asynccontextmanager
async def local_cluster(
    *,
    masters: int = 3,
    chunkservers: int = 3,
    directory: str | None = None,
    tokens: bool = False,
    amend: Callable[[Layout], Awaitable[str]] | None = None,
) -> AsyncIterator[tuple[Supervisor, AsyncClient]]:
    """A fresh cluster of real processes and a connected client; both are gone afterwards.

    `tokens`: it wants them, and capabilities; the client has an admin's.
    `amend`: what its gfs.toml is to say further, knowing its ports.
    """
    place = tempfile.mkdtemp(prefix="gfs-bench-", dir=directory)
    layout = make_layout(place, masters=masters, chunkservers=chunkservers, first_port=0, tokens=tokens)
    if amend is not None:
        more = await amend(layout)
        with open(layout.config_path, "a", encoding="utf-8") as config:
            config.write(more)
        layout = open_layout(place)
    supervisor = Supervisor(layout, restart=False, say=print)
    try:
        await supervisor.start()
        client = await aio.connect(
            [node.control for node in layout.settings.masters.values()], settings=layout.settings.client
        )
        try:
            await wait_until_ready(client.cluster_status, chunkservers=chunkservers, supervisor=supervisor)
            yield supervisor, client
        finally:
            await client.close()
    finally:
        await supervisor.stop()
        shutil.rmtree(place, ignore_errors=True)


def spread(samples: Sequence[float]) -> str:
    """Median with lowest and highest."""
    return f"{statistics.median(samples):.3f} ({min(samples):.3f} … {max(samples):.3f})"
