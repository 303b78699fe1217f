"""A cluster for measuring, in a temporary directory, and the sums that every report needs."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from gfs import aio, certificates
from gfs.client.client import AsyncClient
from gfs.local.layout import Layout, make_layout, open_layout
from gfs.local.supervisor import Supervisor, wait_until_ready
from gfs.tls import NodeName


@asynccontextmanager
async def local_cluster(
    *,
    masters: int = 3,
    chunkservers: int = 3,
    directory: str | None = None,
    tokens: bool = False,
    tls: bool = False,
    amend: Callable[[Layout], Awaitable[str]] | None = None,
) -> AsyncIterator[tuple[Supervisor, AsyncClient]]:
    """A fresh cluster of real processes and a connected client; both are gone afterwards.

    `tokens`: it wants them, and capabilities; the client has an admin's.
    `tls`: control and Raft connections are TLS, of nodes with certificates.
    `amend`: what its gfs.toml is to say further, knowing its ports.
    """
    place = tempfile.mkdtemp(prefix="gfs-bench-", dir=directory)
    layout = make_layout(place, masters=masters, chunkservers=chunkservers, first_port=0, tokens=tokens)
    more = "" if amend is None else await amend(layout)
    if tls:
        more += _certified(layout)
    with open(layout.config_path, "a", encoding="utf-8") as config:
        config.write(more)
    layout = open_layout(place)
    client_settings = layout.settings.client
    if tls:
        client_settings = msgspec.structs.replace(client_settings, ca_file=layout.settings.tls.ca_file)
    supervisor = Supervisor(layout, restart=False, say=print)
    try:
        await supervisor.start()
        client = await aio.connect(
            [node.control for node in layout.settings.masters.values()], settings=client_settings
        )
        try:
            await wait_until_ready(client.cluster_status, chunkservers=chunkservers, supervisor=supervisor)
            yield supervisor, client
        finally:
            await client.close()
    finally:
        await supervisor.stop()
        shutil.rmtree(place, ignore_errors=True)


def _certified(layout: Layout) -> str:
    """Certificates for its programs, made beside its gfs.toml, and what that has to say of them."""
    authority, nodes = os.path.join(layout.directory, "ca"), os.path.join(layout.directory, "certificates")
    certificates.make_authority(authority)
    for role, names in (("master", layout.settings.masters), ("chunkserver", layout.settings.chunkservers)):
        for node in names:
            name = NodeName(layout.settings.cluster.id, role, node)
            certificates.issue(authority, name, os.path.join(nodes, node))
    files = {
        "ca_file": os.path.join(authority, certificates.CA_CERTIFICATE),
        "certificate_file": os.path.join(nodes, "{node}", certificates.CERTIFICATE),
        "key_file": os.path.join(nodes, "{node}", certificates.KEY),
    }
    # A JSON string is a TOML basic string.
    return "\n".join(("", "[tls]", *(f"{key} = {json.dumps(path)}" for key, path in files.items()), ""))


def spread(samples: Sequence[float]) -> str:
    """Median with lowest and highest."""
    return f"{statistics.median(samples):.3f} ({min(samples):.3f} … {max(samples):.3f})"
