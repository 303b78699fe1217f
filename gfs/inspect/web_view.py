"""The pages of `gfs checkpoint serve`: which question each asks. The page itself is files in web/.

Each question is answered by a child process of its own; those that read the whole checkpoint (sizes, verify)
are the same commands that a person would type, asked once and remembered, as a checkpoint never changes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from importlib import resources

import msgspec

from gfs.errors import InternalFault, InvalidArgument, NotFound
from gfs.inspect.checkpoint_files import CheckpointFile, require_whole
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.guarded import guarded
from gfs.inspect.summary import told_of_path
from gfs.inspect.tree_page import Totals, directory_map, entry_page, suggestions, totals
from gfs.transport.page_server import Answer, Asked, Content, PageServer

CHUNKS_SHOWN_MAX = 1000
REASON_CHARS_MAX = 2000
_JSON = "application/json"
_FILES = {
    "GET /": ("page.html", "text/html"),
    "GET /page.js": ("page.js", "text/javascript"),
    "GET /page.css": ("page.css", "text/css"),
}


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What is known without reading the whole."""

    path: str
    index: int
    term: int
    cluster: str
    made_at_ms: int
    length_bytes: int
    totals: Totals


class WebView:
    """Answers for one checkpoint, whose bytes were found to be those of its manifest."""

    def __init__(self, file: CheckpointFile) -> None:
        """Reads the file to its end. Raises: CorruptState, UnsupportedVersion; OSError."""
        self._file = require_whole(file)
        self._stamp = _stamp(file.path)
        self._running: dict[str, asyncio.Task[bytes]] = {}
        self._about = self._ask(lambda tables: self._about_it(tables))  # before anybody is told where to look

    def server(self, host: str, port: int) -> PageServer:
        return PageServer(host, port, self.pages())

    def pages(self) -> dict[str, Answer]:
        pages: dict[str, Answer] = {place: _static(*found) for place, found in _FILES.items()}
        return pages | {
            "GET /api/about": self._tell_about,
            "GET /api/map": self._question(_map),
            "GET /api/entries": self._question(_entries),
            "GET /api/path": self._question(_path),
            "GET /api/suggest": self._question(_suggest),
            "GET /api/sizes": self._command("inspect"),
            "POST /api/verify": self._command("verify"),
        }

    async def _tell_about(self, _: Asked) -> Content:
        return Content(_JSON, self._about)

    def _about_it(self, tables: CheckpointTables) -> About:
        manifest = self._file.manifest
        return About(
            path=os.path.abspath(self._file.path),
            index=manifest.index if manifest else 0,
            term=manifest.term if manifest else 0,
            cluster=manifest.cluster if manifest else "",
            made_at_ms=manifest.made_at_ms if manifest else 0,
            length_bytes=os.path.getsize(self._file.path),
            totals=totals(tables),
        )

    def _ask(self, answer: Callable[[CheckpointTables], object]) -> bytes:
        if _stamp(self._file.path) != self._stamp:
            raise NotFound(f"{self._file.path} is gone, or another file by now", hint="Start the view anew.")
        produce = lambda: [msgspec.json.encode(answer(CheckpointTables(self._file.path)))]  # noqa: E731
        return b"".join(guarded(produce, os.path.basename(self._file.path)))

    def _question(self, answer: Callable[[CheckpointTables, Asked], object]) -> Answer:
        async def tell(asked: Asked) -> Content:
            return Content(_JSON, self._ask(lambda tables: answer(tables, asked)))

        return tell

    def _command(self, name: str) -> Answer:
        async def tell(_: Asked) -> Content:
            if name not in self._running or (self._running[name].done() and self._running[name].exception()):
                self._running[name] = asyncio.create_task(self._run(name))
            return Content(_JSON, await asyncio.shield(self._running[name]))

        return tell

    async def _run(self, name: str) -> bytes:
        """Raises: InternalFault with what the command has said."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gfs", "-o", "json", "checkpoint", name, self._file.path),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            told, complaint = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if not told:
            raise InternalFault(
                f"'gfs checkpoint {name}' has failed: {complaint.decode(errors='replace')[:2000]}"
            )
        return told


def _map(tables: CheckpointTables, asked: Asked) -> object:
    by = asked.query.get("by", "bytes")
    if by not in ("bytes", "files"):
        raise InvalidArgument(f"by={by!r}: the map is by bytes or by files")
    return directory_map(tables, asked.query.get("path", "/"), "files" if by == "files" else "bytes")


def _entries(tables: CheckpointTables, asked: Asked) -> object:
    return entry_page(tables, asked.query.get("path", "/"), asked.query.get("after", ""))


def _path(tables: CheckpointTables, asked: Asked) -> object:
    detail = told_of_path(tables, asked.query.get("path", "/"))
    return msgspec.structs.replace(detail, chunks=detail.chunks[:CHUNKS_SHOWN_MAX])


def _suggest(tables: CheckpointTables, asked: Asked) -> object:
    return suggestions(tables, asked.query.get("path", "/"))


def _static(name: str, media_type: str) -> Answer:
    body = resources.files("gfs.inspect").joinpath("web", name).read_bytes()

    async def tell(_: Asked) -> Content:
        return Content(media_type, body)

    return tell


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns
