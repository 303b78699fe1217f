"""Real gfs programs of one cluster on this machine: started, killed, paused, armed. No links, no clocks.

Layers toxiproxy and kernel share it. What the programs do is seen by `chaos.sightings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from gfs import failpoints
from gfs.local.layout import Layout

END_SECONDS_MAX = 20.0  # for a program to be gone after SIGKILL: the system may still write for it
STOP_SECONDS_MAX = 10.0  # for a program to follow SIGTERM
LAST_WORDS_BYTES = 2000
_PR_SET_PDEATHSIG = 1


def _die_with_harness() -> None:
    """In the child: nothing runs on when the harness was killed, not even what is paused."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _as_it_is(_node: str, command: Sequence[str]) -> Sequence[str]:
    return command


class Programs:
    """The processes of one cluster, by the names of gfs.toml. All methods belong to one event loop.

    `environment`: what a program's environment has beyond our own; asked at each start.
    `wrapped`: the command that runs another one for a node, such as in a network namespace.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        environment: Callable[[str], Mapping[str, str]] = lambda _: {},
        wrapped: Callable[[str, Sequence[str]], Sequence[str]] = _as_it_is,
    ) -> None:
        self.layout = layout
        self._environment, self._wrapped = environment, wrapped
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._paused: set[str] = set()

    def is_master(self, node: str) -> bool:
        return node in self.layout.settings.masters

    def start(self, node: str, *, failpoint: str = "") -> None:
        """Start a program that does not run. `failpoint`: as GFS_FAILPOINTS has it."""
        assert not self.runs(node), f"{node} runs already"
        role = "master" if self.is_master(node) else "chunkserver"
        command = [sys.executable, "-m", "gfs", "--config", self.layout.config_path, role, node]
        environment = {**os.environ, **self._environment(node)}
        environment.pop(failpoints.ENVIRONMENT_KEY, None)
        if failpoint:
            environment[failpoints.ENVIRONMENT_KEY] = failpoint
        with open(self.layout.log_path(node), "ab") as log:
            self._processes[node] = subprocess.Popen(
                list(self._wrapped(node, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # a Ctrl-C at the terminal is the harness's to handle
                preexec_fn=_die_with_harness,
            )
        self._paused.discard(node)

    def runs(self, node: str) -> bool:
        process = self._processes.get(node)
        return process is not None and process.poll() is None

    def is_paused(self, node: str) -> bool:
        return node in self._paused and self.runs(node)

    def exit_status(self, node: str) -> int | None:
        """None while it runs, or has never run; below zero: ended by that signal."""
        process = self._processes.get(node)
        return None if process is None else process.poll()

    def process_id(self, node: str) -> int:
        return self._processes[node].pid

    def send_kill(self, node: str) -> None:
        """SIGKILL without waiting: one that is frozen dies when it is thawed."""
        if self.runs(node):
            self._processes[node].kill()

    async def kill(self, nodes: Iterable[str]) -> None:
        """kill -9, all at once, and wait until they are gone. Those that do not run are left alone."""
        chosen = [node for node in nodes if self.runs(node)]
        for node in chosen:
            self._processes[node].kill()
        await asyncio.gather(*(self.ended(node, END_SECONDS_MAX) for node in chosen))

    async def stop(self, nodes: Iterable[str] | None = None) -> None:
        """SIGTERM, and SIGKILL to those that do not follow; by default to all."""
        chosen = [node for node in (self._processes if nodes is None else nodes) if self.runs(node)]
        for node in chosen:
            self._processes[node].send_signal(signal.SIGCONT)
            self._processes[node].terminate()
        for node in chosen:
            with contextlib.suppress(TimeoutError):
                await self.ended(node, STOP_SECONDS_MAX)
        await self.kill(chosen)

    def pause(self, node: str) -> None:
        """SIGSTOP: its connections stay, and nothing answers. One that does not run is left alone."""
        if self.runs(node):
            self._processes[node].send_signal(signal.SIGSTOP)
            self._paused.add(node)

    def resume(self, node: str) -> None:
        if self.runs(node):
            self._processes[node].send_signal(signal.SIGCONT)
        self._paused.discard(node)

    async def ended(self, node: str, seconds: float) -> int:
        """Wait for a program to end; its exit status. Raises: TimeoutError."""
        process = self._processes[node]
        async with asyncio.timeout(seconds):
            while True:
                if (status := process.poll()) is not None:
                    return status
                await asyncio.sleep(0.01)

    def last_words(self, node: str) -> str:
        """The end of a program's log."""
        path = Path(self.layout.log_path(node))
        if not path.exists():
            return "(no log)"
        return path.read_bytes()[-LAST_WORDS_BYTES:].decode("utf-8", "replace")

    def state_of_all(self) -> str:
        """For a report of what went wrong: who runs, and the last words of who does not."""
        lines = []
        for node in self._processes:
            status = self.exit_status(node)
            if status is None:
                lines.append(f"{node} {'is paused' if self.is_paused(node) else 'runs'}")
            else:
                lines.append(f"{node} ended with {status}: {self.last_words(node)}")
        return "\n".join(lines)
