"""Real gfs programs on loopback, for tests: start, arm failpoints, kill -9, restart. No assertions here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from gfs import aio, failpoints
from gfs.client.client import AsyncClient
from gfs.errors import GfsError
from gfs.local import layout as local_layout
from gfs.local.supervisor import wait_until_ready
from gfs.messages.cluster import ClusterStatusReply, StateDigest, StateDigestReply
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address
from tests.waiting import PATIENCE_SECONDS
from tests.waiting import eventually as eventually


class ProcessCluster:
    def __init__(self, directory: Path, *, masters: int = 3, chunkservers: int = 3) -> None:
        self.layout = local_layout.make_layout(
            str(directory), masters=masters, chunkservers=chunkservers, first_port=0
        )
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.configs: dict[str, str] = {}  # of nodes that do not use the layout's

    @property
    def masters(self) -> list[str]:
        return list(self.layout.settings.masters)

    @property
    def chunkservers(self) -> list[str]:
        return list(self.layout.settings.chunkservers)

    @property
    def addresses(self) -> list[str]:
        return [node.control for node in self.layout.settings.masters.values()]

    def start(
        self,
        nodes: Iterable[str] | None = None,
        *,
        failpoint: str = "",
        config: str = "",
        **environment: str,
    ) -> None:
        """`config`: a gfs.toml of their own, from now on."""
        for node in self.masters + self.chunkservers if nodes is None else nodes:
            role = "master" if node in self.layout.settings.masters else "chunkserver"
            if config:
                self.configs[node] = config
            env = dict(os.environ, **environment)
            if failpoint:
                env[failpoints.ENVIRONMENT_KEY] = failpoint
            with open(self.layout.log_path(node), "ab") as log:
                self.processes[node] = subprocess.Popen(
                    self.command(role, node),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=env,
                )

    def command(self, role: str, node: str) -> list[str]:
        config = self.configs.get(node, self.layout.config_path)
        return [sys.executable, "-m", "gfs", "--config", config, role, node]

    def kill(self, nodes: Iterable[str] | None = None, number: int = signal.SIGKILL) -> None:
        chosen = list(self.processes if nodes is None else nodes)
        for node in chosen:
            self.processes[node].send_signal(number)
        for node in chosen:
            self.processes[node].wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self.processes.values():
            process.wait(PATIENCE_SECONDS)

    def log(self, node: str) -> str:
        return Path(self.layout.log_path(node)).read_text(errors="replace")

    async def connect(self) -> AsyncClient:
        return await aio.connect(self.addresses, settings=self.layout.settings.client)

    async def ready(self, client: AsyncClient, chunkservers: int | None = None) -> ClusterStatusReply:
        try:
            return await wait_until_ready(
                client.cluster_status,
                chunkservers=len(self.chunkservers) if chunkservers is None else chunkservers,
                seconds=PATIENCE_SECONDS,
            )
        except GfsError as error:
            for node, process in self.processes.items():
                state = "runs" if process.poll() is None else f"ended with {process.returncode}"
                error.add_note(f"{node} {state}; its log ends with:\n{self.log(node)[-2000:]}")
            raise

    async def died(self, node: str) -> int:
        async def ended() -> int | None:
            return self.processes[node].poll()

        return await eventually(ended, f"{node} dies")

    def replica_files(self, handle: int) -> dict[str, Path]:
        """The local file of each replica on any disk, by the name of the chunk server."""
        return {
            name: path
            for name, node in self.layout.settings.chunkservers.items()
            for path in Path(node.directory).rglob(f"{handle:016x}.chunk")
        }

    def node_at(self, control: str) -> str:
        """The name of the chunk server with this address."""
        return next(
            name for name, node in self.layout.settings.chunkservers.items() if node.control == control
        )

    async def masters_agree(self) -> str:
        """Wait until all masters are at one applied index; returns the digest they share there (I7)."""
        caller = WebSocketCaller(role="test", node="test")
        answers: dict[str, object] = {}

        async def compare() -> str | None:
            replies: list[StateDigestReply] = []
            for address in self.addresses:
                try:
                    reply = await caller.call(
                        Address(address), StateDigest(), StateDigestReply, deadline_seconds=2.0
                    )
                except GfsError as error:
                    answers[address] = error
                    return None
                answers[address] = reply
                replies.append(reply)
            if len({reply.applied_index for reply in replies}) > 1:
                return None
            digests = {reply.digest for reply in replies}
            assert len(digests) == 1, f"masters differ at index {replies[0].applied_index}: {replies}"
            return digests.pop()

        try:
            return await eventually(compare, "all masters reach one index", lambda: answers)
        finally:
            await caller.close()
