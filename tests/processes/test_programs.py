"""Programs as users write them, run against a real cluster that loses servers meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.paper.boxes import keeps
from tests.processes.cluster import ProcessCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

SORTED_MIB = int(os.environ.get("GFS_TEST_SORT_MIB", "1024"))


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProcessCluster]:
    directory = tmp_path_factory.mktemp("programs")
    found = ProcessCluster(directory, masters=3, chunkservers=4)
    found.start()
    client = await found.connect()
    await found.ready(client)
    await client.close()
    yield found
    found.stop()
    shutil.rmtree(directory)  # gigabytes, which pytest would keep for three runs


@keeps("streams-and-small-reads", "many-and-small-files")
async def test_an_external_sort_is_right_although_servers_die_under_it(cluster: ProcessCluster) -> None:
    """Input, sorted runs and output are in the cluster; a chunk server dies in the runs, the leader in the
    merge; every record of the output is checked."""
    command = [sys.executable, "-m", "tests.programs.external_sort", ",".join(cluster.addresses)]
    program = subprocess.Popen([*command, str(SORTED_MIB)], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    said = []
    try:
        for line in program.stdout:
            said.append(line.strip())
            if line.startswith("run 3:"):
                cluster.kill([cluster.chunkservers[0]])
            if line.startswith("run 6:"):
                client = await cluster.connect()
                cluster.kill([(await client.cluster_status()).leader])
                await client.close()
                cluster.start([cluster.chunkservers[0]])
        assert program.wait(60) == 0, said
    finally:
        program.kill()
        program.stdout.close()
    assert said[-1] == "done"
