"""Clients of all doors while the leading master is killed in the middle of their work: at worst a pause."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest

import gfs
from gfs.client.blocking import Client
from gfs.integrations.fsspec_filesystem import GFSFileSystem
from tests.foreign.byte_clients import BYTE_CLIENTS, KEY, SECRET, ByteClient, BytesWork, Places
from tests.foreign.leader_kill import work_on_while_the_leader_is_killed
from tests.foreign.table_clients import TABLE_CLIENTS, TableClient, TablesWork
from tests.integrations.gateways import running_http, running_s3, running_webhdfs
from tests.processes.cluster import ProcessCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def gateways(cluster: ProcessCluster) -> Iterator[tuple[str, str, str]]:
    """URLs: s3, webhdfs, http."""
    masters = ",".join(cluster.addresses)
    with ExitStack() as stack:
        yield (
            stack.enter_context(running_s3(masters, {KEY: SECRET})),
            stack.enter_context(running_webhdfs(masters)),
            stack.enter_context(running_http(masters)),
        )


@pytest.fixture(scope="module")
def client(cluster: ProcessCluster) -> Iterator[Client]:
    with gfs.connect(cluster.addresses) as client:
        yield client


@pytest.fixture
def folder(client: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    name = "-".join(re.findall("[a-z0-9]+", request.node.callspec.id.lower()))
    client.mkdir(f"/{name}-works")
    yield f"{name}-works"
    client.delete(f"/{name}-works", recursive=True, skip_trash=True)


@pytest.mark.parametrize("make", BYTE_CLIENTS.values(), ids=BYTE_CLIENTS)
def test_a_client_of_bytes_sees_at_worst_a_pause(
    make: ByteClient,
    cluster: ProcessCluster,
    gateways: tuple[str, str, str],
    client: Client,
    folder: str,
    tmp_path: Path,
    record_property: Record,
) -> None:
    with make(Places(cluster, *gateways, tmp_path), folder) as verbs:
        paused = work_on_while_the_leader_is_killed(BytesWork(verbs, folder), cluster, client)
    record_property("longest_pause_seconds", round(paused, 2))


@pytest.mark.parametrize("make", TABLE_CLIENTS.values(), ids=TABLE_CLIENTS)
def test_a_library_of_tables_sees_at_worst_a_pause(
    make: TableClient, cluster: ProcessCluster, client: Client, folder: str, record_property: Record
) -> None:
    options = {"masters": ",".join(cluster.addresses)}
    fsspec.register_implementation("gfs", GFSFileSystem, clobber=True)  # not what another tree installed
    filesystem = fsspec.filesystem("gfs", **options)
    try:
        work = TablesWork(make(filesystem, options), filesystem, folder)
        paused = work_on_while_the_leader_is_killed(work, cluster, client)
    finally:
        GFSFileSystem.clear_instance_cache()
    record_property("longest_pause_seconds", round(paused, 2))
