"""Reads the rings of all programs: of running ones by asking, of stopped ones from their directories.

What is in the rings, and how it is shown, is told elsewhere (see gfs.diagnosis, diagnosis).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from gfs.cli.cluster_address import load_settings, master_addresses
from gfs.credentials import user_credential
from gfs.diagnosis.program import read_stopped_events, read_stopped_rpc_log
from gfs.errors import GfsError, InvalidArgument, Unavailable
from gfs.messages.base import Reply, Request
from gfs.messages.cluster import ClusterStatus, ClusterStatusReply
from gfs.messages.diagnosis import EventPage, ReadEvents, ReadRpcLog, RpcLogPage
from gfs.tls_files import tls_of_client
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address

if TYPE_CHECKING:
    from gfs.cli.app import GlobalOptions

ASK_SECONDS = 5.0

Page = TypeVar("Page", RpcLogPage, EventPage)
R = TypeVar("R", bound=Reply)


@dataclass(frozen=True, slots=True)
class Program:
    """`directory` is empty when it is not known; it may be on another machine all the same."""

    node: str
    address: Address
    directory: str = ""


class ProgramLogs:
    """The programs of one cluster. `missing` tells after each reading whose ring could not be had and why."""

    def __init__(self, programs: list[Program], caller: WebSocketCaller) -> None:
        self.programs = programs
        self.missing: dict[str, str] = {}
        self._caller = caller

    async def rpc_pages(self, queries: dict[str, ReadRpcLog]) -> dict[str, RpcLogPage]:
        """One page of each program named in `queries`."""
        return await self._pages(queries, RpcLogPage, read_stopped_rpc_log)

    async def event_pages(self, queries: dict[str, ReadEvents]) -> dict[str, EventPage]:
        return await self._pages(queries, EventPage, read_stopped_events)

    async def ask(self, node: str, request: Request, expected: type[R], *, seconds: float) -> R:
        """Ask one of the programs something of its own. Raises: GfsError."""
        (program,) = (program for program in self.programs if program.node == node)
        try:
            return await self._caller.call(program.address, request, expected, deadline_seconds=seconds)
        except Unavailable as error:
            error.hint = error.hint or f"See that {node} runs: 'gfs status'."
            raise

    async def close(self) -> None:
        await self._caller.close()

    async def _pages(
        self,
        queries: dict[str, ReadRpcLog] | dict[str, ReadEvents],
        expected: type[Page],
        from_disk: Callable[..., Page],
    ) -> dict[str, Page]:
        self.missing = {}

        async def ask(program: Program) -> Page | None:
            query = queries[program.node]
            try:
                return await self._caller.call(program.address, query, expected, deadline_seconds=ASK_SECONDS)
            except GfsError as error:
                if program.directory and os.path.isdir(program.directory) and not query.after:
                    # A program that runs has it open; reading beside it is safe too.
                    wanted = msgspec.structs.replace(query, newest=True)
                    return await asyncio.to_thread(from_disk, program.directory, program.node, wanted)
                self.missing[program.node] = error.message
                return None

        asked = [program for program in self.programs if program.node in queries]
        pages = await asyncio.gather(*(ask(program) for program in asked))
        return {program.node: page for program, page in zip(asked, pages, strict=True) if page is not None}


async def open_program_logs(options: GlobalOptions, only: tuple[str, ...]) -> ProgramLogs:
    """Find the programs: in the configuration, or without one by asking the masters named.

    Raises: InvalidArgument for a node that is not there; Unavailable when no master can be asked.
    """
    settings = load_settings(options)
    credential = user_credential(settings.client.token_file)
    tls = tls_of_client(settings.client)
    caller = WebSocketCaller("client", "gfs", settings.cluster.id, credential=credential, tls=tls)
    programs = [Program(node, place.control, place.directory) for node, place in settings.masters.items()]
    programs += [
        Program(node, place.control, place.directory) for node, place in settings.chunkservers.items()
    ]
    if not programs:
        programs = await _ask_masters(caller, master_addresses(options, settings))
    known = [program.node for program in programs]
    if unknown := sorted(set(only) - set(known)):
        await caller.close()
        raise InvalidArgument(f"there is no node {unknown[0]!r}", hint=f"There are: {', '.join(known)}.")
    return ProgramLogs([program for program in programs if not only or program.node in only], caller)


async def _ask_masters(caller: WebSocketCaller, addresses: list[str]) -> list[Program]:
    failed: GfsError = InvalidArgument("no master is named")
    for address in addresses:
        try:
            status = await caller.call(
                Address(address), ClusterStatus(), ClusterStatusReply, deadline_seconds=ASK_SECONDS
            )
        except GfsError as error:
            failed = error
            continue
        masters = [Program(master.id, master.control) for master in status.masters]
        return masters + [Program(server.id, server.control) for server in status.chunkservers]
    await caller.close()
    raise failed
