"""Plays a recorded RPC log back against a cluster (GFS §5.3: such logs serve as traces for load tests).

    gfs -o jsonl rpclog -n 2000 > calls.jsonl;  gfs --master HOST:PORT bench replay calls.jsonl

Requests for names and chunk places go out as they were recorded, bulk reads as reads of the file they were
of. A request waits for those that had been answered before it came, so that what depends on each other keeps
its order; what ran side by side does so again. Mutations of chunks are not played: their data is nowhere.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import secrets
import statistics
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from gfs import aio
from gfs.client.client import AsyncClient
from gfs.client.connections import new_client_id
from gfs.client.master_session import MasterSession
from gfs.clock import SystemClock
from gfs.errors import BY_CODE, GfsError, InvalidArgument, NotFound
from gfs.messages.base import Reply, Request, method_name
from gfs.messages.chunks import FindChunks
from gfs.messages.diagnosis import ReadRpcLog, RpcLogPage, RpcRecord
from gfs.messages.namespace import (
    CreateFile,
    DeletePath,
    Glob,
    ListDirectory,
    MakeDirectory,
    RenamePath,
    Stat,
    StatMany,
)
from gfs.settings import ClientSettings
from gfs.telemetry import trace_id
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import CHUNK_BYTES, Address, split_path

READS: tuple[type[Request], ...] = (Stat, StatMany, ListDirectory, Glob, FindChunks)
MUTATIONS: tuple[type[Request], ...] = (MakeDirectory, CreateFile, DeletePath, RenamePath)
BULK_READ = "bulk_read"
IN_FLIGHT_MAX = 256
PAGE_RECORDS = 2000
_PLAYED = {method_name(kind): kind for kind in (*READS, *MUTATIONS)}
_PATHS = ("path", "pattern", "source", "destination")
# Said by a master that could not do it just then: the caller asked again, and that was recorded too.
_NOT_ANSWERS = frozenset(
    code for code, kind in BY_CODE.items() if kind.exit_status in (6, 10) and code != "data_unavailable"
) | {"cancelled"}


class Recorded(NamedTuple):
    """One call to play. `request` is None for a bulk read: then `span` tells file, offset and length."""

    begins: float  # seconds since the first
    took: float
    method: str
    code: str
    request: Request | None
    span: tuple[str, int, int] = ("", 0, 0)


@dataclass
class Outcome:
    """How one method fared: seconds as recorded, as the servers of the replay saw it, and as we saw it."""

    recorded: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    same: int = 0  # ended as when it was recorded


def load(text: str, *, under: str = "") -> list[Recorded]:
    """The calls of a log as `gfs -o jsonl rpclog` prints it, in the order they came; others are left out.

    Args:
        under: a directory of the cluster to play in: "/replay" makes /a/b into /replay/a/b.
    Raises: InvalidArgument naming the line that is no record.
    """
    records: list[RpcRecord] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                records.append(msgspec.json.decode(line, type=RpcRecord))
            except msgspec.DecodeError as error:
                raise InvalidArgument(
                    f"line {number} is no record of a call: {error}",
                    hint="Make the file with 'gfs -o jsonl rpclog -n 2000 > FILE'.",
                ) from error
    records.sort(key=lambda record: record.at_us)
    files = _files_of_chunks(records)
    calls = [call for record in records if (call := _playable(record, files, under.rstrip("/")))]
    first = min((call.begins for call in calls), default=0.0)
    return [call._replace(begins=call.begins - first) for call in calls]


def _files_of_chunks(records: Iterable[RpcRecord]) -> dict[int, tuple[str, int]]:
    """Which chunk of which file a handle was, as far as the recorded lookups tell."""
    found: dict[int, tuple[str, int]] = {}
    for record in records:
        if record.method == method_name(FindChunks) and isinstance(record.reply, dict):
            for place in record.reply.get("chunks", ()):
                found[place["handle"]] = (record.reply["entry"]["path"], place["index"])
    return found


def _playable(record: RpcRecord, files: Mapping[int, tuple[str, int]], under: str) -> Recorded | None:
    if record.code in _NOT_ANSWERS or not isinstance(record.request, dict):
        return None
    at = record.at_us / 1e6
    if record.method == BULK_READ:
        path, index = files.get(record.request["handle"], ("", 0))
        first, last = record.request["first"], record.request["last"]
        if not path or last is None:
            return None
        span = (under + path, index * CHUNK_BYTES + first, last + 1 - first)
        return Recorded(at, record.seconds, BULK_READ, record.code, None, span)
    kind = _PLAYED.get(record.method)
    if kind is None:
        return None
    fields = {key: value for key, value in record.request.items() if key not in ("request", "type")}
    fields.pop("min_applied_index", None)  # of another log
    fields |= {key: under + fields[key] for key in _PATHS if key in fields}
    if "paths" in fields:
        fields["paths"] = [under + path for path in fields["paths"]]
    return Recorded(at, record.seconds, record.method, record.code, msgspec.convert(fields, kind))


class Player:
    """One replay. `speed`: 1 as recorded, 2 twice as fast, 0 as fast as the order of things allows."""

    def __init__(
        self, masters: Sequence[str], *, settings: ClientSettings, cluster: str, speed: float
    ) -> None:
        self._addresses, self._settings, self._cluster = aio.parse_masters(masters), settings, cluster
        self._speed = speed
        self._trace = f"replay-{secrets.token_hex(4)}"
        self._clock = SystemClock()
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self.outcomes: dict[str, Outcome] = defaultdict(Outcome)
        self.seconds = 0.0

    async def play(self, calls: Sequence[Recorded], *, under: str = "") -> None:
        """Play all calls; `outcomes` then tells how each method fared."""
        client = new_client_id()
        caller = WebSocketCaller("client", "replay", self._cluster)
        session = MasterSession(
            self._addresses,
            caller,
            client=client,
            clock=self._clock,
            chance=random.Random(client),
            settings=self._settings,
        )
        files = await aio.connect(self._addresses, settings=self._settings, cluster=self._cluster)
        session.start()
        try:
            if under:
                await files.mkdir(under, parents=True)
            ends = {address: (await self._page(caller, address, 0)).next_after for address in self._addresses}
            trace_id.set(self._trace)
            began = self._clock.monotonic()
            await self._play_in_order(calls, session, files, began)
            self.seconds = self._clock.monotonic() - began
            trace_id.set("")
            for address in self._addresses:
                await self._collect(caller, address, ends[address])
        finally:
            await files.close()
            await session.close()
            await caller.close()

    async def _play_in_order(
        self, calls: Sequence[Recorded], session: MasterSession, files: AsyncClient, began: float
    ) -> None:
        running: list[tuple[float, int, asyncio.Task[None]]] = []  # by the end they had when recorded
        for number, call in enumerate(calls):
            while running and running[0][0] <= call.begins:
                await heapq.heappop(running)[2]
            if self._speed > 0:
                await self._clock.sleep(max(0.0, began + call.begins / self._speed - self._clock.monotonic()))
            await self._slots.acquire()
            task = asyncio.get_running_loop().create_task(self._one(call, session, files))
            task.add_done_callback(lambda _: self._slots.release())
            heapq.heappush(running, (call.begins + call.took, number, task))
        for _, _, task in running:
            await task

    async def _one(self, call: Recorded, session: MasterSession, files: AsyncClient) -> None:
        outcome = self.outcomes[call.method]
        outcome.recorded.append(call.took)
        started = self._clock.monotonic()
        code = "ok"
        try:
            await self._ask(call, session, files)
        except GfsError as error:
            code = error.code
        outcome.seen.append(self._clock.monotonic() - started)
        outcome.same += code == call.code

    def _ask(self, call: Recorded, session: MasterSession, files: AsyncClient) -> Awaitable[object]:
        request = call.request
        if request is None:
            path, offset, length = call.span
            return files.read(path, offset, length)
        expected: type[Reply] = request.reply
        if isinstance(request, MUTATIONS):
            return session.mutate(
                lambda id: msgspec.structs.replace(request, request=id), f"replay {call.method}"
            )
        if getattr(request, "consistency", "linearizable") == "linearizable":
            return session.ask_leader(request, expected, f"replay {call.method}")
        return session.ask_any(request, expected, f"replay {call.method}")

    # --- what the servers saw of it ---------------------------------------------------------------

    async def _page(self, caller: WebSocketCaller, address: Address, after: int) -> RpcLogPage:
        query = ReadRpcLog(after=after, newest=after == 0, limit=PAGE_RECORDS if after else 1)
        if after:
            query = msgspec.structs.replace(query, trace=self._trace)
        try:
            return await caller.call(address, query, RpcLogPage, deadline_seconds=10.0)
        except GfsError:
            return RpcLogPage(node="", records=[], next_after=after)  # a master that is away

    async def _collect(self, caller: WebSocketCaller, address: Address, after: int) -> None:
        more = after > 0
        while more:
            page = await self._page(caller, address, after)
            for record in page.records:
                if record.method in self.outcomes and record.code not in _NOT_ANSWERS:
                    self.outcomes[record.method].served.append(record.seconds)
            after, more = page.next_after, page.more


def report(outcomes: Mapping[str, Outcome], seconds: float, recorded_seconds: float) -> list[str]:
    """Lines for a person: per method how long calls took at the servers then and now."""
    total = sum(len(outcome.seen) for outcome in outcomes.values())
    lines = [
        f"{total} calls in {seconds:.2f} s ({total / max(seconds, 1e-9):.0f}/s); "
        f"recorded within {recorded_seconds:.2f} s",
        "milliseconds, median and 99th percentile: at the server when recorded, at the server now, "
        "at the caller now",
    ]
    for method, outcome in sorted(outcomes.items()):
        lines.append(
            f"  {method:12} {len(outcome.seen):7} calls   {_spread(outcome.recorded)}   "
            f"{_spread(outcome.served)}   {_spread(outcome.seen)}   "
            f"{100 * outcome.same / len(outcome.seen):.1f} % ended as recorded"
        )
    return lines


def as_document(outcomes: Mapping[str, Outcome], seconds: float) -> str:
    """The same for programs."""
    return json.dumps(
        {
            "seconds": seconds,
            "methods": {method: msgspec.to_builtins(outcome) for method, outcome in outcomes.items()},
        }
    )


def _spread(samples: Sequence[float]) -> str:
    if not samples:
        return "    -       -   "
    ordered = sorted(samples)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{statistics.median(ordered) * 1000:7.2f} {high * 1000:7.2f}"


async def run(
    path: str, masters: Sequence[str], *, settings: ClientSettings, cluster: str, speed: float, under: str
) -> tuple[list[str], str]:
    """Load, play, report: lines for a person, and JSON.

    Raises: NotFound when nothing in the file can be played; OSError.
    """
    if under:
        split_path(under)
    with open(path, encoding="utf-8") as file:
        calls = load(file.read(), under=under)
    if not calls:
        raise NotFound(
            f"{path} holds no call that can be played back",
            hint="Make the file with 'gfs -o jsonl rpclog -n 2000 > FILE'.",
        )
    player = Player(masters, settings=settings, cluster=cluster, speed=speed)
    await player.play(calls, under=under)
    recorded_seconds = max(call.begins + call.took for call in calls)
    lines = report(player.outcomes, player.seconds, recorded_seconds)
    return lines, as_document(player.outcomes, player.seconds)
