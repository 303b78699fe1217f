"""Relays between the Raft ports of masters on one machine, so that a master can be cut off without root.

A relay for each direction of each pair; `gfs.toml` has masters dial each other through them. What is cut
stays open and silent: nobody is told, bytes wait, new connections get no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gfs.local.layout import Layout
from gfs.vocabulary import split_address

PIECE_BYTES = 2**16


class RaftLinks:
    """All relays of one cluster. `cut()` and `heal()` take effect with the next byte."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, str], _Link] = {}

    async def lay_out(self, layout: Layout) -> str:
        """Start the relays; what `gfs.toml` has to say further for masters to use them."""
        masters = layout.settings.masters
        lines = []
        for dialer in masters:
            lines.append(f"\n[masters.{dialer}.dial]")
            for target, node in masters.items():
                if target != dialer:
                    link = self._links[dialer, target] = _Link(*split_address(node.raft))
                    lines.append(f'{target} = "127.0.0.1:{await link.start()}"')
        return "\n".join(lines) + "\n"

    def cut(self, master: str) -> None:
        """Between `master` and all others nothing passes, either way."""
        for ends, link in self._links.items():
            if master in ends:
                link.is_open.clear()

    def heal(self) -> None:
        for link in self._links.values():
            link.is_open.set()

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()


class _Link:
    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._spawn(self._carry(reader, writer))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:  # Any: what the coroutine passes to the loop
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.is_open.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()  # the target is down: that is told
            return
        self._spawn(self._pump(far_reader, writer, far_writer))
        await self._pump(reader, far_writer, writer)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        """Carry bytes one way until either end closes; that, too, is not told while the link is cut."""
        try:
            while piece := await source.read(PIECE_BYTES):
                await self.is_open.wait()
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass  # an end was killed: the other one hears of it
        finally:
            if not self._is_closing():
                await self.is_open.wait()
            sink.close()
            back.close()

    def _is_closing(self) -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
