"""Starts the programs of a local cluster, restarts those that die, and stops them all.

Knows processes only: what they say of themselves is asked through the SDK.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from gfs.errors import GfsError, Unavailable, WrongCluster
from gfs.local.layout import Layout
from gfs.messages.cluster import ClusterStatusReply
from gfs.settings import Settings

READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 10.0
RESTART_SECONDS_FIRST, RESTART_SECONDS_MAX = 0.2, 10.0
HEALTHY_AFTER_SECONDS = 10.0  # a program that lived this long is restarted without delay
POLL_SECONDS = 0.05
# Statuses that a restart cannot mend: bad usage or configuration, a wrong cluster, damage on disk.
FINAL_STATUSES = frozenset({1, 2, 5, 7})

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """In the child: be stopped when the supervisor is killed, so that nothing runs unattended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Supervisor:
    """The processes of one local cluster. Use from one event loop."""

    def __init__(self, layout: Layout, *, restart: bool, say: Callable[[str], None]) -> None:
        self.layout = layout
        self._restart = restart
        self._say = say
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    async def start(self) -> None:
        """Start every program; returns when all processes run, not when they are ready."""
        for node in _nodes(self.layout.settings):
            await self._start_watched(node)

    async def follow(self, layout: Layout) -> None:
        """The cluster is laid out so by now: start what is new in it, and stop what is no part of it."""
        gone = [node for node in self._processes if node not in _nodes(layout.settings)]
        new = [node for node in _nodes(layout.settings) if node not in self._processes]
        self.layout = layout
        for node in gone:
            watcher = self._watchers.pop(node)
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            await self._end([self._processes.pop(node)])
        for node in new:
            await self._start_watched(node)

    async def _start_watched(self, node: str) -> None:
        await self.start_node(node)
        self._watchers[node] = asyncio.create_task(self._watch(node))

    async def start_node(self, node: str) -> None:
        layout = self.layout
        role = "master" if node in layout.settings.masters else "chunkserver"
        with open(layout.log_path(node), "ab") as log:
            self._processes[node] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gfs", "--config", layout.config_path, role, node),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is the supervisor's to handle
                preexec_fn=_die_with_parent,
            )

    @property
    def settings(self) -> Settings:
        return self.layout.settings

    def kill(self, node: str) -> None:
        """kill -9, as a crash would."""
        self._processes[node].kill()

    def signal(self, node: str, number: int) -> None:
        self._processes[node].send_signal(number)

    def process_id(self, node: str) -> int:
        return self._processes[node].pid

    async def ended(self, node: str) -> int:
        """Wait for a program to end; its exit status."""
        return await self._processes[node].wait()

    async def _watch(self, node: str) -> None:
        delay = RESTART_SECONDS_FIRST
        while True:
            started = time.monotonic()
            status = await self._processes[node].wait()
            if self._stopping or not self._restart:
                return
            if status in FINAL_STATUSES:
                self._say(f"{node} stopped with status {status} and stays down: {self.last_words(node)}")
                return
            delay = RESTART_SECONDS_FIRST if time.monotonic() - started > HEALTHY_AFTER_SECONDS else delay
            self._say(f"{node} died (status {status}); starting it again in {delay:.1f} s")
            await asyncio.sleep(delay)
            if self._stopping:
                return
            delay = min(delay * 2, RESTART_SECONDS_MAX)
            await self.start_node(node)

    def last_words(self, node: str) -> str:
        """The last line of a program's log; if it ended with an error, all of that."""
        try:
            with open(self.layout.log_path(node), "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
                lines = log.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return "it left no log"
        errors = [number for number, line in enumerate(lines) if line.startswith("gfs: ")]
        if errors and all(line.startswith("  ") for line in lines[errors[-1] + 1 :]):
            lines = [" ".join(line.strip() for line in lines[errors[-1] :]).removeprefix("gfs: ")]
        return lines[-1] if lines else "it left no log"

    def dead(self) -> dict[str, int]:
        """Programs that have ended, with their exit statuses."""
        return {n: p.returncode for n, p in self._processes.items() if p.returncode is not None}

    async def stop(self) -> None:
        """SIGTERM to all, chunk servers first; SIGKILL to those that do not follow in time."""
        self._stopping = True
        await self._end(list(reversed(self._processes.values())))
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)

    async def _end(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        alive = [process for process in processes if process.returncode is None]
        for process in alive:
            process.terminate()
        waits = [asyncio.create_task(process.wait()) for process in alive]
        if waits:
            _, late = await asyncio.wait(waits, timeout=STOP_SECONDS_MAX)
            if late:
                self._say(f"{len(late)} programs did not stop in {STOP_SECONDS_MAX:.0f} s; killing them")
                for process in alive:
                    if process.returncode is None:
                        process.kill()
                await asyncio.gather(*late)


def _nodes(settings: Settings) -> list[str]:
    return [*settings.masters, *settings.chunkservers]


async def wait_until_ready(
    ask: Callable[[], Awaitable[ClusterStatusReply]],
    *,
    chunkservers: int,
    supervisor: Supervisor | None = None,
    seconds: float = READY_SECONDS_MAX,
) -> ClusterStatusReply:
    """Poll until a leader answers and all chunk servers have reported.

    Raises: Unavailable with what is still missing, at once when a program ended with a final status;
        WrongCluster when another cluster has these addresses.
    """
    deadline = time.monotonic() + seconds
    missing = "no master has answered"
    while True:
        try:
            found = await ask()
            alive = sum(server.alive for server in found.chunkservers)
            if found.leader and alive >= chunkservers:
                return found
            missing = f"leader: {found.leader or 'none yet'}, {alive} of {chunkservers} chunk servers"
        except WrongCluster:
            raise
        except GfsError as error:
            missing = error.message
        for node, status in supervisor.dead().items() if supervisor else ():
            if status in FINAL_STATUSES:
                assert supervisor is not None
                raise Unavailable(f"{node} could not start: {supervisor.last_words(node)}")
        if time.monotonic() > deadline:
            last = (
                [f"{node}: {supervisor.last_words(node)}" for node in supervisor.dead()] if supervisor else []
            )
            raise Unavailable(
                f"the cluster was not ready after {seconds:.0f} s: {'; '.join([missing, *last])}",
                hint="See the logs directory.",
            )
        await asyncio.sleep(POLL_SECONDS)
