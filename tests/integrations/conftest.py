"""One real cluster for each module of these tests, running in a thread beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from gfs.client.loop_thread import LoopThread
from gfs.integrations.fsspec_filesystem import GFSFileSystem
from tests.client.real_cluster import RealCluster


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Addresses of the masters of a running cluster, as URLs have them."""
    thread = LoopThread()
    cluster = RealCluster(_directory(tmp_path_factory))
    thread.run(cluster.__aenter__())
    try:
        yield ",".join(cluster.addresses)
    finally:
        thread.run(cluster.__aexit__())
        thread.stop()


def _directory(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("cluster")


@pytest.fixture(scope="module")
def filesystem(masters: str) -> Iterator[GFSFileSystem]:

    # Not by name: the entry point is of what is installed, which another tree may have made.
    fsspec.register_implementation("gfs", GFSFileSystem, clobber=True)
    yield fsspec.filesystem("gfs", masters=masters)
    GFSFileSystem.clear_instance_cache()
