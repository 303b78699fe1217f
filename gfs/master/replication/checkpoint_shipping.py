"""A checkpoint's way from the leader to a follower that the log no longer reaches, in resumable pieces.

The leader offers; the follower fetches, over a connection of its own, one piece at a time: what it has not
written yet it has not asked for. When the connection breaks the next offer resumes where the bytes end.
Source: Raft §7, InstallSnapshot, with the transfer turned round so that the slower side sets the pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager

import msgspec

from gfs import failpoints
from gfs.clock import Clock
from gfs.errors import ChecksumMismatch, FrameTooLarge, GfsError, NotFound, ProtocolFault, Superseded
from gfs.master.replication.checkpoints import CheckpointManifest, CheckpointReceiver, CheckpointStore
from gfs.master.replication.handshake import Dialer, Introduction
from gfs.master.replication.options import CHECKPOINT_PIECE_BYTES, RAFT_FRAME_BYTES_MAX
from gfs.master.replication.raft_messages import (
    FRAME_HEAD_BYTES,
    FetchPiece,
    NoSuchCheckpoint,
    Piece,
    frame,
)
from gfs.telemetry import logger
from gfs.tls import TlsIdentity
from gfs.transport.dial_map import dialled_endpoint
from gfs.vocabulary import MasterId

PIECE_SECONDS_MAX = 10.0
COMPLAINT_SECONDS_MAX = 60.0  # the leader reads its whole file again
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.1, 10.0  # after a fetch that brought nothing, doubling

_decode_answer = msgspec.msgpack.Decoder(Piece | NoSuchCheckpoint).decode


async def serve_piece(
    store: CheckpointStore,
    executor: Executor,
    request: FetchPiece,
    *,
    on_gone_bad: Callable[[], object],
) -> Piece | NoSuchCheckpoint:
    """The leader's side: one piece of a checkpoint that may have been replaced meanwhile.

    What follows the last byte is asked for by who has found that all of them do not verify. A checkpoint that
    cannot be read, or is so complained of, is looked at; `on_gone_bad` hears of one that was given up.
    """
    wanted = (request.index, request.term)
    manifest = next((found for found in store.kept() if (found.index, found.term) == wanted), None)
    if manifest is None or not 0 <= request.offset <= manifest.length_bytes:
        return NoSuchCheckpoint()
    length = min(CHECKPOINT_PIECE_BYTES, manifest.length_bytes - request.offset)

    def read() -> bytes:
        return store.read_piece(manifest, offset=request.offset, length=length)

    loop = asyncio.get_running_loop()
    try:
        content = await loop.run_in_executor(executor, read)
        if length and len(content) == length:
            return Piece(request.offset, content)
    except (NotFound, OSError) as error:
        logger("raft").warning("checkpoint_piece_unreadable", index=manifest.index, reason=str(error))
    if manifest in store.kept() and await loop.run_in_executor(executor, store.distrust, manifest):
        on_gone_bad()
    return NoSuchCheckpoint()


class CheckpointFetcher:
    """The follower's side: at most one fetch at a time."""

    def __init__(
        self,
        store: CheckpointStore,
        executor: Executor,
        *,
        new_dialer: Callable[[], Dialer],
        introduce: Callable[[], Introduction],
        is_wanted: Callable[[CheckpointManifest], bool],
        on_installed: Callable[[CheckpointManifest], None],
        fatal: Callable[[BaseException], None],
        clock: Clock,
        tls: TlsIdentity | None = None,
    ) -> None:
        """`is_wanted`: asked right before installing, because the log may have caught up meanwhile."""
        self._store, self._executor = store, executor
        self._new_dialer, self._introduce = new_dialer, introduce
        self._is_wanted, self._on_installed, self._fatal = is_wanted, on_installed, fatal
        self._clock, self._tls = clock, tls
        self._failures = 0  # in a row, without a byte more than the time before
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None

    def offered(self, leader: MasterId, address: tuple[str, int], manifest: CheckpointManifest) -> None:
        if self._task is None and self._clock.monotonic() >= self._not_before:
            work = self._fetch(leader, address, manifest)
            self._task = asyncio.get_running_loop().create_task(work, name="checkpoint fetch")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _fetch(self, leader: MasterId, address: tuple[str, int], manifest: CheckpointManifest) -> None:
        log = logger("raft").bind(leader=leader, index=manifest.index)
        receiver: CheckpointReceiver | None = None
        before = 0
        try:
            receiver = self._store.receive(manifest)
            before = receiver.received_bytes()
            if receiver.received_bytes() < manifest.length_bytes:
                await self._receive_rest(leader, address, manifest, receiver)
            await self._in_worker(receiver.prepare)
        except (OSError, TimeoutError, EOFError, GfsError, msgspec.DecodeError) as error:
            log.warning("checkpoint_fetch_interrupted", reason=str(error) or type(error).__name__)
            self._wait_before_the_next(progress=receiver is not None and receiver.received_bytes() > before)
            if receiver is not None and isinstance(error, ChecksumMismatch | NotFound):
                receiver.discard()
            if isinstance(error, ChecksumMismatch):
                await self._complain(leader, address, manifest)
            return
        finally:
            self._task = None
        if not self._is_wanted(manifest):
            return
        try:
            failpoints.hit("checkpoint.before_install")
            receiver.install()
            failpoints.hit("checkpoint.installed")
            self._on_installed(manifest)
        except Exception as error:  # the state may be neither the old nor the new one
            self._fatal(error)
            return
        self._failures = 0
        log.info("checkpoint_installed", bytes=manifest.length_bytes)

    def _wait_before_the_next(self, *, progress: bool) -> None:
        """The leader offers many times a second; a full disk is not filled the sooner for asking as often."""
        self._failures = 0 if progress else self._failures + 1
        if self._failures:
            seconds = min(RETRY_SECONDS_MAX, RETRY_SECONDS_MIN * 2 ** (self._failures - 1))
            self._not_before = self._clock.monotonic() + seconds

    async def _receive_rest(
        self,
        leader: MasterId,
        address: tuple[str, int],
        manifest: CheckpointManifest,
        receiver: CheckpointReceiver,
    ) -> None:
        async with self._connection(leader, address) as (reader, writer):
            while (offset := receiver.received_bytes()) < manifest.length_bytes:
                writer.write(frame(FetchPiece(manifest.index, manifest.term, offset)))
                async with asyncio.timeout(PIECE_SECONDS_MAX):
                    answer = _decode_answer(await _read_frame(reader))
                if isinstance(answer, NoSuchCheckpoint):
                    raise NotFound(f"{leader} no longer has checkpoint {manifest.index}")
                if answer.offset != offset or not answer.content:
                    raise ProtocolFault(f"{leader} sent bytes of {answer.offset}, not of {offset}")
                await self._in_worker(receiver.write_piece, offset, answer.content)

    async def _complain(
        self, leader: MasterId, address: tuple[str, int], manifest: CheckpointManifest
    ) -> None:
        """Have the leader look at what it ships; else it would offer the same damage for ever."""
        try:
            async with self._connection(leader, address) as (reader, writer):
                writer.write(frame(FetchPiece(manifest.index, manifest.term, manifest.length_bytes)))
                async with asyncio.timeout(COMPLAINT_SECONDS_MAX):
                    await _read_frame(reader)
        except (OSError, TimeoutError, EOFError, GfsError) as error:
            logger("raft").warning("checkpoint_complaint_unheard", leader=leader, reason=str(error))

    @asynccontextmanager
    async def _connection(
        self, leader: MasterId, address: tuple[str, int]
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(PIECE_SECONDS_MAX):
            reader, writer = await asyncio.open_connection(
                *dialled_endpoint(*address),
                limit=2 * CHECKPOINT_PIECE_BYTES,
                ssl=None if self._tls is None else self._tls.client_context(),
            )
        try:
            async with asyncio.timeout(PIECE_SECONDS_MAX):
                await self._shake_hands(leader, reader, writer)
            yield reader, writer
        finally:
            writer.close()

    async def _shake_hands(
        self, leader: MasterId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        dialer, introduction = self._new_dialer(), self._introduce()
        writer.write(frame(dialer.hello(leader, "checkpoint")))
        writer.write(frame(dialer.respond(await _read_frame(reader), introduction)))
        dialer.finish(await _read_frame(reader), introduction)
        if dialer.refused_because:
            raise Superseded(f"{leader} refuses us: {dialer.refused_because}")

    async def _in_worker(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(FRAME_HEAD_BYTES), "little")
    if length > RAFT_FRAME_BYTES_MAX:
        raise FrameTooLarge(f"a frame of {length} bytes was announced; the limit is {RAFT_FRAME_BYTES_MAX}")
    return await reader.readexactly(length)
