"""Which cluster a program without a command line means, and a client of it for each of its event loops."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gfs import aio, settings
from gfs.client.client import AsyncClient
from gfs.client.forks import keep_in_children
from gfs.errors import InvalidArgument
from gfs.messages.base import Consistency
from gfs.settings import ClientSettings

CLOSE_SECONDS = 1.0  # a program that ends waits no longer for its connections to be closed


class Cluster(NamedTuple):
    masters: list[str]
    client: ClientSettings
    id: str = ""


def find_cluster(
    *,
    masters: str = "",
    config: str = "",
    user: str = "",
    groups: str = "",
    token_file: str = "",
    ca_file: str = "",
    retry_seconds: float = 0.0,
) -> Cluster:
    """The cluster that is named here, else by GFS_MASTER or GFS_CONFIG, else the one `gfs up` runs here.

    Args:
        masters: "host:port", several with commas between.
        config: path of a gfs.toml.
        user, groups, token_file, ca_file, retry_seconds: instead of what the configuration says.
    Raises: InvalidArgument when nothing names a cluster; ConfigInvalid.
    """
    masters = masters or ("" if config else os.environ.get("GFS_MASTER", ""))
    if masters:
        loaded = settings.load(config or None)
        names = [part for part in masters.split(",") if part]
    else:
        path = config or os.environ.get("GFS_CONFIG", "") or _local_configuration()
        loaded = settings.load(path)
        names = [node.control for node in loaded.masters.values()]
        if not names:
            raise InvalidArgument(f"{path} names no masters", hint="Add a [masters.m1] section.")
    stated = {
        "user": user,
        "groups": groups,
        "token_file": token_file,
        "ca_file": ca_file,
        "retry_seconds": retry_seconds,
    }
    chosen = {name: value for name, value in stated.items() if value}
    return Cluster(names, msgspec.structs.replace(loaded.client, **chosen), loaded.cluster.id)


def _local_configuration() -> str:
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    directory = os.environ.get("GFS_DATA") or os.path.join(base, "gfs", "local")
    path = os.path.join(directory, "gfs.toml")
    if not os.path.exists(path):
        raise InvalidArgument(
            f"no cluster is named, and there is none on this machine: there is no {path}",
            hint="Name one: gfs://m1:9500,m2:9500/path, masters='m1:9500', or GFS_MASTER; or run 'gfs up'.",
        )
    return path


class _Made(NamedTuple):
    process: int
    client: AsyncClient


class Clients:
    """A client for each event loop that asks for one, made when it first does. Survives forks.

    Nothing is shared between loops, so no lock is needed: each loop touches its own entry only.
    """

    def __init__(self, which: Callable[[], Cluster], *, consistency: Consistency = "linearizable") -> None:
        self._which = which
        self._consistency = consistency
        self._made: dict[asyncio.AbstractEventLoop, _Made] = {}
        weakref.finalize(self, _close_all, self._made)

    async def here(self) -> AsyncClient:
        """The client of the running loop. Raises: as find_cluster()."""
        loop = asyncio.get_running_loop()
        made = self._made.get(loop)
        if made is None:
            for other in [other for other in list(self._made) if other.is_closed()]:
                self._made.pop(other, None)
            cluster = self._which()
            client = await aio.connect(
                cluster.masters, settings=cluster.client, cluster=cluster.id, consistency=self._consistency
            )
            made = self._made[loop] = _Made(os.getpid(), client)
            keep_in_children(loop)
            keep_in_children(client)
        return made.client


def _close_all(made: dict[asyncio.AbstractEventLoop, _Made]) -> None:
    for loop, (process, client) in list(made.items()):
        # A parent's connections are the parent's to close.
        if process != os.getpid() or not loop.is_running():
            continue
        closing = asyncio.run_coroutine_threadsafe(client.close(), loop)
        if not _runs_here(loop):
            try:
                closing.result(CLOSE_SECONDS)
            except (TimeoutError, OSError):
                pass  # the process ends anyway, or nobody uses the file system any more


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
