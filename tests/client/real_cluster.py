"""Real masters and chunk servers in this process, on loopback sockets and a directory of the test's own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from gfs import aio
from gfs.chunkserver.process import ChunkServer
from gfs.chunkserver.tier_setup import OpenService, open_obstore
from gfs.client.client import AsyncClient
from gfs.credentials import new_token, token_digest, write_token
from gfs.errors import GfsError
from gfs.local.ports import free_ports
from gfs.master.process import Master
from gfs.messages.chunks import Replica
from gfs.settings import (
    AccessSettings,
    ChunkServerNode,
    ChunkServerSettings,
    ClientSettings,
    ClusterSettings,
    MasterNode,
    MasterSettings,
    Settings,
    TierSettings,
)
from gfs.vocabulary import MIB, Address, ChunkHandle


class RealCluster:
    """`async with`: started when it is entered, and with all chunk servers known to the leader."""

    def __init__(
        self,
        directory: Path,
        *,
        masters: int = 1,
        chunkservers: int = 3,
        tokens: bool = False,
        tier: TierSettings | None = None,
        open_service: OpenService = open_obstore,
    ) -> None:
        """`tokens`: it wants one of whoever calls; the first, an admin's, is in `token_file`.

        `open_service`: what the chunk servers have behind the URL of `tier`.
        """
        self._open_service = open_service
        ports = (Address(f"127.0.0.1:{port}") for port in free_ports(2 * (masters + chunkservers)))
        secret = directory / "secret"
        secret.write_text("a long line nobody guesses")
        secret.chmod(0o600)
        self.ca_file = ""  # of a cluster that speaks TLS
        self.token_file = str(directory / "token") if tokens else ""
        access = AccessSettings()
        if tokens:
            write_token(self.token_file, token := new_token())
            access = AccessSettings(tokens=True, first_token_sha256=token_digest(token).hex())
        self.settings = Settings(
            access=access,
            cluster=ClusterSettings(id="test-cluster", secret_file=str(secret)),
            masters={
                f"m{n}": MasterNode(control=next(ports), raft=next(ports)) for n in range(1, masters + 1)
            },
            chunkservers={
                f"cs{n}": ChunkServerNode(control=next(ports), data=next(ports))
                for n in range(1, chunkservers + 1)
            },
            master=MasterSettings(state_bytes_max=256 * MIB),
            chunkserver=ChunkServerSettings(
                heartbeat_seconds=0.1, push_buffer_bytes=64 * MIB, tier=tier or TierSettings()
            ),
        )
        self._directory = directory
        self._to_stop = AsyncExitStack()
        self.masters: dict[str, Master] = {}
        self.chunkservers: dict[str, ChunkServer] = {}

    @property
    def addresses(self) -> list[str]:
        return [node.control for node in self.settings.masters.values()]

    async def client(self, settings: ClientSettings | None = None) -> AsyncClient:
        default = ClientSettings(token_file=self.token_file, ca_file=self.ca_file)
        return await aio.connect(self.addresses, settings=settings or default)

    async def stop_replica(self, replica: Replica) -> None:
        """Stop the chunk server that holds `replica`."""
        nodes = self.settings.chunkservers.items()
        name = next(name for name, node in nodes if node.control == replica.control)
        await self.chunkservers.pop(name).stop()

    async def stop_master(self, name: str) -> None:
        await self.masters.pop(name).stop()

    async def start_master(self, name: str) -> None:
        self.masters[name] = Master(self.settings, name, str(self._made(name)))
        await self.masters[name].start()

    async def start_chunkserver(self, name: str) -> None:
        self.chunkservers[name] = ChunkServer(
            self.settings, name, str(self._made(name)), open_service=self._open_service
        )
        await self.chunkservers[name].start()

    def replica_files(self, handle: ChunkHandle) -> list[Path]:
        """The local file of each replica there is, of running and stopped chunk servers."""
        name = f"{handle:016x}.*"
        return sorted(
            path for server in self.settings.chunkservers for path in (self._directory / server).rglob(name)
        )

    async def leader(self) -> str:
        """Of now; between two leaders, the next one."""
        async with await self.client() as client:
            while not (leader := (await client.cluster_status()).leader):
                await client.exists("/")  # waits for a leader
            return leader

    async def __aenter__(self) -> Self:
        self._to_stop.push_async_callback(self._stop_all)
        try:
            for name in self.settings.masters:
                await self.start_master(name)
            for name in self.settings.chunkservers:
                await self.start_chunkserver(name)
            async with await self.client() as client:
                await self._until_complete(client)
        except BaseException:
            await self._to_stop.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._to_stop.aclose()

    async def _until_complete(self, client: AsyncClient) -> None:
        while True:
            await client.exists("/")  # waits for a leader
            status = await client.cluster_status()
            if sum(server.alive for server in status.chunkservers) == len(self.chunkservers):
                return

    async def _stop_all(self) -> None:
        for server in self.chunkservers.values():
            await server.stop()
        for master in self.masters.values():
            try:
                await master.stop()
            except GfsError:
                pass  # the last ones find nobody to hand over to

    def _made(self, name: str) -> Path:
        path = self._directory / name
        path.mkdir(exist_ok=True)
        return path
