"""How long pages of the web console take with many files, and how long they keep the master from others.

A real master, alone in its cluster, on a made state (big_state); the chunk servers are pretended ones, that
report every replica and answer nothing. `wait`: the longest that anybody else waited for this master while a
page was asked for again and again, which is its longest turn and little more.
"""

from __future__ import annotations

import asyncio
import http.client
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from gfs.bench import plot
from gfs.bench.big_state import STATE_BYTES_MAX, file_path, held_chunks, write_checkpoint, write_rows
from gfs.bench.lone_master import CHECKPOINT_INDEX, CHECKPOINTS, LoneMaster, give_checkpoint
from gfs.bench.machine import Machine, describe
from gfs.errors import GfsError, Unavailable
from gfs.local.layout import Layout, make_layout
from gfs.master.lmdb_tables import LmdbTables
from gfs.messages.heartbeat import Heartbeat, HeartbeatReply, HeldChunk
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address, ClusterId, ServerId

FILES = 1_000_000
ROUNDS = 20
TARGET_MS = 50.0
GROUND_MS = 0.1  # where bars of the picture begin
PAGE_CHUNKS = 10_000  # of one page of a report
BEAT_SECONDS = 1.0
DISK_BYTES = 2**40
READY_SECONDS_MAX = 300.0
PING_SECONDS = 0.002
COUNTED_SECONDS_MAX = 30.0
HTML, JSON = "text/html", "application/json"


class PageFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of one page: for people and for programs, medians and the longest of all rounds."""

    page: str
    html_ms: float
    html_longest_ms: float
    json_ms: float
    html_bytes: int
    wait_ms: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`counted`: the first walk over all chunks had ended, so that the pages about them had all to tell."""

    machine: Machine
    files: int
    rounds: int
    counted: bool
    pages: list[PageFigures]


def pages_of(files: int) -> list[str]:
    """Every page of the console, those about one thing with one that is there."""
    path = file_path(files - 1)
    directory = path.rpartition("/")[0]
    plain = ["", "masters", "chunkservers", "replication", "snapshots", "chunks", "clients", "events"]
    return [
        *plain,
        *("calls", "config", "trash"),
        "cell?goal=3&good=3",
        f"chunk?handle={files:x}",
        f"explain?path={path}",
        "files?path=/",
        f"files?path={directory}",
        f"files?path={path}",
    ]


async def report(
    *, files: int, rounds: int, directory: str | None, picture: str, as_json: bool, say: Callable[[str], None]
) -> str:
    found = await measure(files=files, rounds=rounds, directory=directory, say=say)
    if picture:
        await asyncio.to_thread(Path(picture).write_text, drawn(found), encoding="utf-8")
    return msgspec.json.encode(found).decode() if as_json else in_words(found)


async def measure(
    *,
    files: int = FILES,
    rounds: int = ROUNDS,
    directory: str | None = None,
    say: Callable[[str], None] = print,
) -> Report:
    """`directory`: where the state lies meanwhile, some 800 bytes a file."""
    machine = describe()
    place = tempfile.mkdtemp(prefix="gfs-console-", dir=directory)
    try:
        say(f"  making a state of {files:,} files")
        layout = make_layout(f"{place}/cluster", masters=1, chunkservers=1, first_port=0)
        await asyncio.to_thread(_make, f"{place}/made", files)
        master = LoneMaster(layout)
        servers = PretendServers(layout, master.control)
        try:
            await master.start("/")  # so that its disk is a member's
            master.kill()
            await asyncio.to_thread(give_checkpoint, layout, f"{place}/made")
            await master.start(file_path(files - 1))
            say("  chunk servers report")
            await servers.report(files)
            beating = asyncio.create_task(servers.beat_for_ever())
            try:
                counted = await _is_counted(master.control, files)
                pages = [await _measure(master.control, page, rounds, say) for page in pages_of(files)]
            finally:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
        finally:
            await servers.close()
            master.kill()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Report(machine=machine, files=files, rounds=rounds, counted=counted, pages=pages)


def in_words(found: Report) -> str:
    lines = [
        f"{found.machine.cores} cores of {found.machine.processor}, Python {found.machine.python}; "
        f"load average {found.machine.load} before",
        f"{found.files:,} files; medians of {found.rounds} rounds, a page should take {TARGET_MS:.0f} ms",
    ]
    if not found.counted:
        lines.append("the master had not walked over all chunks yet: the matrix of them was empty")
    for one in found.pages:
        lines.append(
            f"  {one.page or 'overview':<38}{one.html_ms:7.1f} ms (longest {one.html_longest_ms:6.1f})"
            f"  JSON {one.json_ms:6.1f} ms  {one.html_bytes // 1024:5} KiB  others wait {one.wait_ms:6.1f} ms"
        )
    return "\n".join(lines)


def drawn(found: Report) -> str:
    names = [_short_name(one.page) for one in found.pages]
    groups = {
        "page": [(name, one.html_ms) for name, one in zip(names, found.pages, strict=True)],
        "JSON": [(name, one.json_ms) for name, one in zip(names, found.pages, strict=True)],
        "others wait": [(name, one.wait_ms) for name, one in zip(names, found.pages, strict=True)],
    }
    title = f"Pages of the console with {found.files:,} files"
    return plot.bar_chart(
        title, groups, y_label="milliseconds", level=TARGET_MS, level_says="target", ground=GROUND_MS
    )


def _short_name(page: str) -> str:
    place, _, asked = page.partition("?")
    if place == "files":
        depth = asked.count("/") if asked != "path=/" else 0
        return ("root", "directory", "file")[depth]
    return place or "overview"


# --- the master and its chunk servers ---------------------------------------------------------------


def _make(folder: str, files: int) -> None:
    path = f"{folder}.lmdb"
    tables = LmdbTables(path, bytes_max=STATE_BYTES_MAX)
    write_rows(tables, files)
    write_checkpoint(tables, folder, index=CHECKPOINT_INDEX + CHECKPOINTS)
    tables.close()
    Path(path).unlink()


class PretendServers:
    """All chunk servers that the state knows: they report what it says, and answer nobody."""

    def __init__(self, layout: Layout, master: Address) -> None:
        self._master, self._cluster = master, ClusterId(layout.settings.cluster.id)
        self._caller = WebSocketCaller("chunkserver", "pretended", self._cluster)
        self._pages: dict[ServerId, int] = {}

    async def report(self, files: int) -> None:
        """Every replica, page by page."""
        waiting: dict[ServerId, list[HeldChunk]] = {}
        for server, chunk in held_chunks(files):
            page = waiting.setdefault(server, [])
            page.append(chunk)
            if len(page) == PAGE_CHUNKS:
                await self._tell(server, page, last=False)
                waiting[server] = []
        for server, page in waiting.items():
            await self._tell(server, page, last=True)

    async def beat_for_ever(self) -> None:
        while True:
            for server in self._pages:
                with suppress(GfsError):  # the next one is soon
                    await self._call(self._beat(server))
            await asyncio.sleep(BEAT_SECONDS)

    async def close(self) -> None:
        await self._caller.close()

    async def _tell(self, server: ServerId, chunks: list[HeldChunk], *, last: bool) -> None:
        page = self._pages.get(server, 0)
        self._pages[server] = page + 1
        await self._call(
            msgspec.structs.replace(self._beat(server), report=chunks, report_page=page, report_last=last)
        )

    def _beat(self, server: ServerId) -> Heartbeat:
        return Heartbeat(
            server=server,
            cluster=self._cluster,
            incarnation="1",
            control=Address(f"127.0.0.1:{1 + len(server)}"),
            data=Address("127.0.0.1:2"),
            disk_total_bytes=DISK_BYTES,
            disk_free_bytes=DISK_BYTES // 2,
        )

    async def _call(self, beat: Heartbeat) -> None:
        await self._caller.call(self._master, beat, HeartbeatReply, deadline_seconds=READY_SECONDS_MAX)


async def _is_counted(address: Address, files: int) -> bool:
    """Whether the master's unhurried walk has soon come to the end of all chunks."""
    ends = time.monotonic() + COUNTED_SECONDS_MAX
    while time.monotonic() < ends:
        body, _ = await asyncio.to_thread(_get_once, address, "chunks", JSON)
        cells = msgspec.json.decode(body)["matrix"]["cells"]
        if sum(cell["chunks"] for cell in cells if cell["good"] >= cell["goal"]) == files:
            return True
        await asyncio.sleep(BEAT_SECONDS)
    return False


# --- measuring --------------------------------------------------------------------------------------


async def _measure(address: Address, page: str, rounds: int, say: Callable[[str], None]) -> PageFigures:
    found = await asyncio.to_thread(_ask_again_and_again, address, page, rounds)
    say(f"  {page or 'overview'}: {found.html_ms:.1f} ms")
    return found


def _ask_again_and_again(address: Address, page: str, rounds: int) -> PageFigures:
    others = _Others(address)
    others.start()
    try:
        with closing(http.client.HTTPConnection(address)) as connection:
            asked = [_get(connection, page, HTML) for _ in range(rounds)]
            programs = [_get(connection, page, JSON) for _ in range(rounds)]
    finally:
        wait = others.stop()
    times = [seconds for _, seconds in asked]
    return PageFigures(
        page=page,
        html_ms=_ms(statistics.median(times)),
        html_longest_ms=_ms(max(times)),
        json_ms=_ms(statistics.median(seconds for _, seconds in programs)),
        html_bytes=len(asked[-1][0]),
        wait_ms=_ms(wait),
    )


class _Others(threading.Thread):
    """Somebody who asks this master for next to nothing all the time, and notes the longest answer."""

    def __init__(self, address: Address) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._is_over = threading.Event()
        self._longest = 0.0

    def run(self) -> None:
        with closing(http.client.HTTPConnection(self._address)) as connection:
            while not self._is_over.wait(PING_SECONDS):
                began = time.perf_counter()
                connection.request("GET", "/livez")
                connection.getresponse().read()
                self._longest = max(self._longest, time.perf_counter() - began)

    def stop(self) -> float:
        self._is_over.set()
        self.join()
        return self._longest


def _get_once(address: Address, page: str, kind: str) -> tuple[bytes, float]:
    with closing(http.client.HTTPConnection(address)) as connection:
        return _get(connection, page, kind)


def _get(connection: http.client.HTTPConnection, page: str, kind: str) -> tuple[bytes, float]:
    """The body, and how long it took to come."""
    began = time.perf_counter()
    connection.request("GET", f"/ui/{page}", headers={"Accept": kind})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise Unavailable(f"/ui/{page} answered {answer.status}: {body[:300]!r}")
    return body, time.perf_counter() - began


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
