"""The cluster of layer T: real programs, and a proxy in every link, for each way of dialling and each wire.

Programs are told where to dial by GFS_DIAL_MAP; clients are told in process. Ids, errors and the log keep the
real addresses, and the harness itself asks past the proxies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from chaos.plan import Configuration
from chaos.real_testbed import POWERS, RealTestbed
from chaos.testbed import Layer, Power
from chaos.toxiproxy.links import Links, Wire
from chaos.toxiproxy.server import ToxiproxyServer
from gfs import aio
from gfs.client.client import AsyncClient
from gfs.local.layout import Layout
from gfs.settings import ClientSettings
from gfs.transport.dial_map import ENVIRONMENT_KEY
from gfs.verification.recorder import Recorder
from gfs.vocabulary import Address

MILLISECONDS = 1000
SLICE_PAUSE_MICROSECONDS = 20  # so that pieces do not meet again in the receiver's buffer
LINK_POWERS: frozenset[Power] = frozenset(
    ("cut", "drop", "hold", "slow", "throttle", "slice", "reset", "limit", "slow_close")
)
_Wanted = tuple[str, str, Wire, Address]


class ToxiTestbed(RealTestbed):
    layer: Layer = "toxi"
    powers: frozenset[Power] = POWERS | LINK_POWERS

    def __init__(self, layout: Layout, configuration: Configuration, server: ToxiproxyServer) -> None:
        super().__init__(layout, configuration)
        self._server = server
        self._recorder: Recorder | None = None
        self.links = Links(server, self._proxies_were_replaced)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a report has to say of how the links were made."""
        return (f"every link ran through {self._server.description}",)

    # --- links, made ------------------------------------------------------------------------------------

    async def start(self, recorder: Recorder) -> None:
        self._recorder = recorder
        os.makedirs(self._book_directory, exist_ok=True)
        await self.links.start()
        nodes = (*self.masters, *self.chunkservers)
        await self.links.add([link for node in nodes for link in self._links_from(node)])
        self._write_books()
        await super().start(recorder)

    async def stop(self) -> None:
        await super().stop()
        await self.links.stop()

    def environment_of(self, node: str) -> Mapping[str, str]:
        return {**super().environment_of(node), ENVIRONMENT_KEY: str(self._book(node))}

    async def connect(self, name: str, settings: ClientSettings) -> AsyncClient:
        if not self.links.book_of(name):
            targets = (*self.masters, *self.chunkservers)
            await self.links.add([link for target in targets for link in self._links_to(name, target)])

        def dial(address: Address) -> Address:
            # Asked at each dial: a master may have come since.
            return self.links.book_of(name).get(address, address)

        return await aio.connect(self._control_addresses(), settings=settings, dial=dial)

    async def node_added(self, node: str) -> None:
        others = [one for one in (*self.masters, *self.chunkservers) if one != node]
        wanted = self._links_from(node)
        for source in (*others, *self.clients):
            wanted += self._links_to(source, node)
        await self.links.add(wanted)
        self._write_books()

    async def node_gone(self, node: str) -> None:
        await self.links.remove_all_of(node)
        self._write_books()

    def _links_from(self, source: str) -> list[_Wanted]:
        """Whom a program may ever dial: masters all programs, chunk servers too."""
        nodes = (*self.masters, *self.chunkservers)
        return [link for target in nodes if target != source for link in self._links_to(source, target)]

    def _links_to(self, source: str, target: str) -> list[_Wanted]:
        settings = self.layout.settings
        if target in settings.masters:
            master = settings.masters[target]
            made: list[_Wanted] = [(source, target, "control", Address(master.control))]
            if source in settings.masters:
                made.append((source, target, "raft", Address(master.raft)))
            return made
        server = settings.chunkservers[target]
        made = [(source, target, "control", Address(server.control))]
        if source not in settings.masters:
            made.append((source, target, "data", Address(server.data)))
        return made

    @property
    def _book_directory(self) -> Path:
        return Path(self.layout.directory) / "dial"

    def _book(self, node: str) -> Path:
        return self._book_directory / f"{node}.json"

    def _write_books(self) -> None:
        for node in (*self.masters, *self.chunkservers):
            beside = self._book(node).with_suffix(".new")
            beside.write_text(json.dumps(self.links.book_of(node)))
            os.replace(beside, self._book(node))

    def _proxies_were_replaced(self, why: str) -> None:
        assert self._recorder is not None
        self._recorder.saw("toxiproxy", "replaced", why=why)

    # --- links, spoilt ----------------------------------------------------------------------------------

    async def cut(self, source: str, target: str) -> None:
        """Both ways: a connection carries bytes of both, whoever has dialled."""
        await self.links.cut(source, target)

    async def drop(self, source: str, target: str) -> None:
        await self.links.poison(source, target, "timeout", timeout=0)

    async def hold(self, source: str, target: str) -> None:
        await self.links.poison(source, target, "bandwidth", rate=0)

    async def slow(self, source: str, target: str, *, seconds: float, jitter: float = 0.0) -> None:
        await self.links.poison(
            source,
            target,
            "latency",
            latency=round(seconds * MILLISECONDS),
            jitter=round(jitter * MILLISECONDS),
        )

    async def throttle(self, source: str, target: str, *, bytes_per_second: int) -> None:
        await self.links.poison(source, target, "bandwidth", rate=max(1, bytes_per_second // 1000))

    async def slice(self, source: str, target: str, *, piece_bytes: int) -> None:
        await self.links.poison(
            source,
            target,
            "slicer",
            average_size=piece_bytes,
            size_variation=piece_bytes // 4,
            delay=SLICE_PAUSE_MICROSECONDS,
        )

    async def reset(self, source: str, target: str) -> None:
        await self.links.reset(source, target)

    async def limit(self, source: str, target: str, *, limit_bytes: int) -> None:
        await self.links.poison(source, target, "limit_data", bytes=limit_bytes)

    async def slow_close(self, source: str, target: str, *, seconds: float) -> None:
        await self.links.poison(source, target, "slow_close", delay=round(seconds * MILLISECONDS))

    async def heal(self, source: str, target: str) -> None:
        await self.links.heal(source, target)

    async def heal_all(self) -> None:
        await self.links.heal_all()
        await self.heal_programs()
