"""Software of other people against real programs; what takes long runs by its marker: pytest -m heavy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfs.client.loop_thread import LoopThread
from tests.client.real_cluster import RealCluster
from tests.processes.cluster import ProcessCluster


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "heavy" in (config.getoption("markexpr") or ""):
        return
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    if heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if not item.get_closest_marker("heavy")]


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    """Three masters and three chunk servers, each a program that can be killed."""
    programs = ProcessCluster(tmp_path_factory.mktemp("foreign"))
    programs.start()
    try:
        until_ready(programs)
        yield programs
    finally:
        programs.stop()


def until_ready(programs: ProcessCluster) -> None:
    """All masters and chunk servers are there."""

    async def wait() -> None:
        async with await programs.connect() as client:
            await programs.ready(client)

    thread = LoopThread()
    try:
        thread.run(wait())
    finally:
        thread.stop()


def tool(name: str) -> str:
    """Where a command is: of this interpreter's packages, or of the system. Skips where it is not."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Addresses of a cluster in a thread of this process, for what asks a thousand small things."""
    thread = LoopThread()
    running = RealCluster(tmp_path_factory.mktemp("one"))
    thread.run(running.__aenter__())
    try:
        yield running.addresses
    finally:
        thread.run(running.__aexit__())
        thread.stop()
