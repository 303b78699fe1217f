"""The idle scan over all replicas of this server, so that rot is found in chunks nobody reads (GFS §5.2).

It verifies, the replica store marks what is bad, heartbeats report it. What a client's read finds needs no
scrubber.

    DIRECTORY/scrub.json   {"passes": 3, "began_ms": 1700000000000, "after": 4711, …}

Chunks are visited in the order of their handles, over and over, from where the last process stopped: the next
one is the one not looked at for longest. The file is a hint: without it a pass starts anew.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from gfs.chunkserver.core.token_bucket import TokenBucket
from gfs.clock import Clock
from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import ChecksumMismatch, CorruptState, GfsError, NotFound, StaleVersion
from gfs.settings import SCRUB_BUSY_DIVISOR, SCRUB_PIECE_BYTES, SCRUB_SAVE_SECONDS
from gfs.telemetry import logger
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, CHUNK_BYTES, ChunkHandle

_log = logger("chunkserver")
T = TypeVar("T")

PROGRESS_FILE = "scrub.json"
PAGE_CHUNKS = 1024
IDLE_SECONDS = 1.0  # between two looks whether there is anything to do
CHUNK_TRIES_MAX = 3  # a chunk granted anew under us so often is left for the next pass


class RunBlocking(Protocol):
    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class ScrubbedReplicas(Protocol):
    """What scrubbing needs of the replica store; blocking."""

    def handles_after(self, handle: ChunkHandle, *, limit: int) -> list[ChunkHandle]: ...

    def verify(self, handle: ChunkHandle, offset: int, buffer: memoryview) -> int: ...


class ScrubProgress(msgspec.Struct, kw_only=True):
    """`passes` are complete; the one under way began at `began_ms` (wall clock) and has come to `after`."""

    passes: int = 0
    began_ms: int = 0
    after: ChunkHandle = ChunkHandle(0)
    chunks: int = 0
    verified_bytes: int = 0
    damaged: int = 0


class Scrubber:
    """Run `run()` as one task. At most `bytes_per_second`, much less while `client_work()` counts on."""

    def __init__(
        self,
        replicas: ScrubbedReplicas,
        clock: Clock,
        disk: Disk,
        directory: str,
        *,
        in_worker: RunBlocking,
        client_work: Callable[[], int],
        bytes_per_second: float,
        pass_seconds: float,
    ) -> None:
        """`in_worker`: a thread of its own, so that no client waits behind a scrubber. `client_work`: a count
        of what has been done for clients."""
        self._replicas = replicas
        self._clock = clock
        self._disk = disk
        self._path = os.path.join(directory, PROGRESS_FILE)
        self._in_worker = in_worker
        self._client_work = client_work
        self._work_seen = client_work()
        self._bytes_per_second = bytes_per_second
        self._pass_seconds = pass_seconds
        self._buffer = memoryview(bytearray(SCRUB_PIECE_BYTES))
        self._bucket = TokenBucket(bytes_per_second, burst=SCRUB_PIECE_BYTES, now=clock.monotonic())
        self._saved_at = clock.monotonic()
        self.progress = ScrubProgress()

    async def run(self) -> None:
        self.progress = await self._in_worker(self._load)
        while True:
            try:
                if self.progress.began_ms == 0:
                    self.progress.began_ms = self._clock.wall_ms()
                await self._finish_pass()
                await self._await_next_pass()
            except GfsError as error:
                _log.warning("scrubbing pauses", error=error.message)
                await self._clock.sleep(IDLE_SECONDS)

    async def _finish_pass(self) -> None:
        while True:
            following = partial(self._replicas.handles_after, self.progress.after, limit=PAGE_CHUNKS)
            page = await self._in_worker(following)
            for handle in page:
                await self._check(handle)
                self.progress.after = handle
                self.progress.chunks += 1
                if self._clock.monotonic() - self._saved_at >= SCRUB_SAVE_SECONDS:
                    await self._save()
            if len(page) < PAGE_CHUNKS:
                return

    async def _await_next_pass(self) -> None:
        done = self.progress
        _log.debug("a scrub pass has ended", chunks=done.chunks, bytes=done.verified_bytes, bad=done.damaged)
        while True:
            # By the wall clock, so that restarts do not put the next pass off; one set back counts as due.
            passed = (self._clock.wall_ms() - self.progress.began_ms) / 1000
            if not 0 <= passed < self._pass_seconds:
                break
            await self._clock.sleep(min(IDLE_SECONDS, self._pass_seconds - passed))
        self.progress = ScrubProgress(passes=done.passes + 1, began_ms=self._clock.wall_ms())
        await self._save()

    async def _check(self, handle: ChunkHandle) -> None:
        """Verify one replica to its end, or to the first bad block: one is enough to replace it."""
        offset = tries = 0
        while offset < CHUNK_BYTES:
            got = 0
            try:
                got = await self._in_worker(partial(self._replicas.verify, handle, offset, self._buffer))
            except StaleVersion:
                tries += 1
                if tries < CHUNK_TRIES_MAX:
                    continue
            except NotFound:
                pass  # deleted since it was listed
            except (ChecksumMismatch, CorruptState):
                self.progress.damaged += 1
            except GfsError as error:
                _log.warning("a replica could not be scrubbed", chunk=f"{handle:x}", error=error.message)
            self.progress.verified_bytes += got
            offset += got
            await self._pause(max(got, CHECKSUM_BLOCK_BYTES))
            if got < len(self._buffer):
                return

    async def _pause(self, verified_bytes: int) -> None:
        """Wait as the rate says, and longer when there was work of clients meanwhile."""
        now = self._clock.monotonic()
        work = self._client_work()
        is_busy, self._work_seen = work != self._work_seen, work
        self._bucket.set_rate(self._bytes_per_second / (SCRUB_BUSY_DIVISOR if is_busy else 1), now=now)
        await self._clock.sleep(self._bucket.take(verified_bytes, now=now))

    # --- progress over restarts -------------------------------------------------------------------

    def _load(self) -> ScrubProgress:
        try:
            return msgspec.json.decode(read_whole_file(self._disk, self._path), type=ScrubProgress)
        except (OSError, msgspec.MsgspecError):
            return ScrubProgress()

    async def _save(self) -> None:
        self._saved_at = self._clock.monotonic()
        content = msgspec.json.encode(self.progress) + b"\n"
        try:
            await self._in_worker(lambda: write_file_durably(self._disk, self._path, content))
        except OSError as error:
            _log.debug("the scrubber's progress was not noted", error=error.strerror or str(error))
