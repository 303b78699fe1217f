"""Verifying and mending one replica on demand: for fsck, and for a master that has no whole replica left.

What is damaged, and what mending may write, replica_verifier decides. The idle scan is scrubber's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from gfs.chunkserver.clone_receiver import ReadReplica
from gfs.chunkserver.replica_verifier import ReplicaVerifier
from gfs.errors import GfsError
from gfs.messages.base import Reply, Request
from gfs.messages.check import MendReplica, MendReplicaReply, VerifyReplica, VerifyReplicaReply
from gfs.settings import CHECKS_RUNNING_MAX
from gfs.telemetry import logger
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, ClusterId

_log = logger("chunkserver")
T = TypeVar("T")

FETCH_SECONDS = 2.0  # for one block from another replica


class ReplicaChecks:
    """`workers`: threads apart from those of writes, as a check reads 64 MiB. A few run, others wait."""

    def __init__(
        self,
        verifier: ReplicaVerifier,
        read: ReadReplica,
        workers: Executor,
        *,
        join: Callable[[ClusterId], bool],
    ) -> None:
        self._verifier = verifier
        self._read = read
        self._workers = workers
        self._join = join
        self._turns = asyncio.Semaphore(CHECKS_RUNNING_MAX)

    def handlers(self) -> Handlers:
        return {VerifyReplica: self._verify, MendReplica: self._mend}

    async def _verify(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, VerifyReplica)
        found = await self._run(partial(self._verifier.bad_blocks, request.handle, request.version))
        return VerifyReplicaReply(
            version=found.version,
            length_bytes=found.length_bytes,
            sealed=found.sealed,
            bad_blocks=found.bad_blocks,
            block_checksums=list(found.block_checksums),
        )

    async def _mend(self, request: Request, _: CallContext) -> Reply:
        assert isinstance(request, MendReplica)
        self._join(request.cluster)
        sources = [(source.data, request.version) for source in request.sources]
        sources += [(older.replica.data, older.version) for older in request.older]
        fetch = partial(self._fetch, request.handle, sources)
        mended, bad = await self._run(
            partial(
                self._verifier.mend,
                request.handle,
                request.version,
                fetch,
                master_term=request.master_term,
            )
        )
        _log.warning("a replica was mended", chunk=f"{request.handle:x}", blocks=mended, still_bad=len(bad))
        return MendReplicaReply(mended_blocks=mended, bad_blocks=bad)

    def _fetch(
        self,
        handle: ChunkHandle,
        sources: Sequence[tuple[Address, ChunkVersion]],
        offset: int,
        buffer: memoryview,
    ) -> bool:
        """In a worker thread: fill `buffer` from the first source that has these bytes whole."""
        for address, version in sources:
            try:
                got, _ = self._read(address, handle, version, offset, buffer)
            except GfsError:
                continue  # it is damaged there too, or cannot be reached
            if got == len(buffer):
                return True
        return False

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._turns:
            return await asyncio.get_running_loop().run_in_executor(self._workers, work)
