"""Software of other people against real programs; what takes long runs by its marker: pytest -m heavy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from gfs.client.client import AsyncClient
from gfs.client.loop_thread import LoopThread
from gfs.errors import Unavailable
from tests.client.real_cluster import RealCluster
from tests.processes.cluster import ProcessCluster
from tests.waiting import eventually

T = TypeVar("T")


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
    """All chunk servers are there, and all masters: the next one killed is the only one that is missing."""

    async def wait(client: AsyncClient) -> None:
        await programs.ready(client)
        await eventually(partial(_all_masters_follow, client), "all masters follow one of them")

    ask_the_masters(programs, wait)


async def _all_masters_follow(client: AsyncClient) -> Literal[True] | None:
    try:
        masters = (await client.cluster_status()).masters
    except Unavailable:
        return None
    return True if sorted(master.role for master in masters) == ["follower", "follower", "leader"] else None


def leader_of(programs: ProcessCluster, *, other_than: str = "") -> str:
    """The master that leads, as soon as one does."""

    async def ask(client: AsyncClient) -> str | None:
        try:
            leader = (await client.cluster_status()).leader
        except Unavailable:  # on a busy machine a status may be answered too late
            return None
        return leader if leader not in ("", other_than) else None

    async def wait(client: AsyncClient) -> str:
        return await eventually(partial(ask, client), f"a master other than {other_than or 'none'} leads")

    return ask_the_masters(programs, wait)


def ask_the_masters(programs: ProcessCluster, ask: Callable[[AsyncClient], Coroutine[None, None, T]]) -> T:
    """What `ask` makes of a client of its own."""

    async def connected() -> T:
        async with await programs.connect() as client:
            return await ask(client)

    thread = LoopThread()
    try:
        return thread.run(connected())
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
