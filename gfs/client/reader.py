"""Reads ranges of a file: finds replicas, splits, reads side by side, moves on at any error (GFS §2.3).

Positions and read-ahead are file.py's. Every byte given out was verified against the checksums of its chunk:
a short range by the replica it came from, a long one here, as it arrives. The paper (§5.2) has the chunk
server verify; here it sends the file and the sums, a quarter of its work, and the way is covered too. What
does not fit may have been overwritten in the same moment, so the server is asked to verify it, and its word
counts: it answers with good bytes, or finds the damage, reports it and refuses.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

from gfs.client.connections import Connections
from gfs.client.core.retry_plan import GiveUp, RetryPlan, may_pass
from gfs.client.core.striping import Span, chunk_start, replica_order, split_range
from gfs.errors import (
    ChecksumMismatch,
    CorruptState,
    DataUnavailable,
    GfsError,
    IsADirectory,
    StaleVersion,
    Superseded,
)
from gfs.messages.base import Consistency
from gfs.messages.chunks import ChunkPlace, FileChunks, FindChunks, Replica
from gfs.messages.namespace import Entry
from gfs.messages.replicas import ChunkStatus, ChunkStatusReply
from gfs.settings import LOOKUP_CHUNKS, READ_LONG_RANGE_BYTES, READ_RANGE_BYTES, READ_RANGES_IN_FLIGHT
from gfs.vocabulary import CHUNK_BYTES, KIB, ChunkIndex, ChunkVersion, ServerId

# A replica that takes longer for one range is left for another; when all do, the last tries get the whole
# `data_seconds`.
PATIENCE_SECONDS = 1.0  # and as much again for a long range
VERIFIED_HERE_BYTES_MIN = 256 * KIB  # sums cost an answer more than they spare it below that
AVOID_SECONDS = 10.0  # how long a replica that failed is tried last
AVOIDED_MAX = 256
HOPELESS_ROUNDS = 2  # all replicas say, after a fresh lookup too, that their bytes are bad


@dataclass(slots=True, frozen=True)
class Part:
    """What a read of a range brought. `at_end`: the file ended before the range did."""

    length_bytes: int
    at_end: bool


class Reader:
    """Reads of one file that was opened at some inode. Any number may be in flight.

    The bytes are those of that inode: when another file takes the path meanwhile, reads that need a master
    raise Superseded instead of mixing two files.
    """

    def __init__(
        self,
        connections: Connections,
        path: str,
        entry: Entry | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> None:
        """`consistency`: of lookups; the bytes are those of the chunk versions looked up, whatever it is."""
        self._connections = connections
        self._consistency: Consistency = consistency or connections.consistency
        self._path = path
        self._entry = entry
        self._lookups: dict[ChunkIndex, asyncio.Task[FileChunks]] = {}
        self._avoided_until: dict[ServerId, float] = {}
        self._passed: dict[ChunkIndex, ChunkVersion] = {}  # versions of chunks that writers had gone past

    @property
    def entry(self) -> Entry:
        """The file as of the newest lookup."""
        assert self._entry is not None, "not opened"
        return self._entry

    async def open(self) -> Entry:
        """Look the file up anew. Raises: NotFound, IsADirectory."""
        self._connections.places.forget(self._path)
        found = await self._look_up(ChunkIndex(0))
        if found.entry.kind == "directory":
            raise IsADirectory(f"{self._path} is a directory")
        return found.entry

    async def close(self) -> None:
        running = list(self._lookups.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def exact_length(self, *, patient: bool = True) -> int:
        """Length in bytes, asking the last chunk's replicas when the master cannot know.

        Raises: DataUnavailable when none of them answers, with `patient` False at once.
        """
        entry = self.entry
        if entry.length_exact or entry.chunk_count == 0:
            return entry.length_bytes if entry.length_exact else 0
        last = ChunkIndex(entry.chunk_count - 1)
        plan = self._connections.new_plan(f"length of {self._path}", has_effects=False)
        while True:
            place = await self._place(last)
            length, error = await self._ask_length(place)
            if error is None and length == 0 and last > 0:
                # It was made ready for a writer that has not come so far: the file ends in the one before.
                last, place = ChunkIndex(last - 1), await self._place(ChunkIndex(last - 1))
                length, error = await self._ask_length(place)
            if error is None:
                return chunk_start(last) + length
            if not patient:
                raise self._unavailable(place, {}, error) from error
            await self._start_over(place, {}, error, plan, rounds=0)

    async def read_into(self, offset: int, buffer: memoryview) -> Part:
        """Fill `buffer` with the file's bytes from `offset`; short only at the end of the file.

        A chunk that is short in the middle of the file has a hole there, which reads as zeros.
        Raises: DataUnavailable naming file, chunk and servers when no good replica can be reached.
        When cancelled, it ends only after the last thread that writes to `buffer` has.
        """
        spans = split_range(offset, len(buffer), part_bytes=_range_bytes(len(buffer)))
        slots = asyncio.Semaphore(READ_RANGES_IN_FLIGHT)

        async def read(span: Span) -> Part:
            async with slots:
                return await self._read_span(span, buffer[span.at : span.at + span.length_bytes])

        if len(spans) == 1:
            return _join(spans, [await read(spans[0])], buffer)
        tasks = [asyncio.ensure_future(read(span)) for span in spans]
        try:
            return _join(spans, await asyncio.gather(*tasks), buffer)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- where chunks are -----------------------------------------------------------------------

    async def _look_up(self, first: ChunkIndex) -> FileChunks:
        """Ask the master for several chunks at once; who asks for the same ones shares the answer."""
        task = self._lookups.get(first)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._find_chunks(first))
            self._lookups[first] = task
            task.add_done_callback(lambda done: self._looked_up(first, done))
        return await asyncio.shield(task)

    def _looked_up(self, first: ChunkIndex, task: asyncio.Task[FileChunks]) -> None:
        del self._lookups[first]
        if not task.cancelled():
            task.exception()  # after a prefetch nobody may be waiting

    async def _find_chunks(self, first: ChunkIndex) -> FileChunks:
        request = FindChunks(
            path=self._path,
            first_index=first,
            count=LOOKUP_CHUNKS,
            consistency=self._consistency,
            min_applied_index=self._connections.masters.applied_index,
        )
        found = await self._connections.ask(request, FileChunks, f"read {self._path}", self._consistency)
        if self._entry is not None and found.entry.inode != self._entry.inode:
            raise Superseded(
                f"{self._path} was replaced while it was being read",
                hint="Open it again to read the new file.",
            )
        self._entry = found.entry
        for place in found.chunks:
            if place.index + 2 < found.entry.chunk_count:
                self._passed[place.index] = place.version
        now = self._connections.clock.monotonic()
        self._connections.places.store(self._path, found.entry, found.chunks, now=now)
        return found

    async def _place(self, index: ChunkIndex) -> ChunkPlace | None:
        """Where chunk `index` is; None when the file has no such chunk."""
        cache, now = self._connections.places, self._connections.clock.monotonic()
        cached = cache.entry(self._path, now=now)
        if cached is not None and cached.inode == self.entry.inode:
            place = cache.place(self._path, index, now=now)
            if place is not None:
                self._prefetch_after(index, now)
                return place
            if index >= cached.chunk_count:
                # Past the end as of a lookup that is young enough (GFS §2.7.2: a premature end, for so long).
                return None
        found = await self._look_up(index)
        for place in found.chunks:
            if place.index == index:
                return place
        return None

    def _prefetch_after(self, index: ChunkIndex, now: float) -> None:
        """Ask for the places behind `index` before a sequential reader needs them."""
        following = ChunkIndex(index + 2)
        known = self._connections.places.place(self._path, following, now=now)
        if known is None and following < self.entry.chunk_count and following not in self._lookups:
            task = asyncio.get_running_loop().create_task(self._find_chunks(following))
            self._lookups[following] = task
            task.add_done_callback(lambda done: self._looked_up(following, done))

    # --- one range of one chunk -----------------------------------------------------------------

    async def _read_span(self, span: Span, buffer: memoryview) -> Part:
        """The span, or as much of it as there is before the file ends; zeros in a hole.

        What is missing in the middle of a file is believed to be a hole only of a version that was looked up
        after bytes behind its chunk were there: a writer may be on its way through this chunk, with the next
        one ready, or the replica may have missed a grant since the place was cached.
        """
        length, version = await self._read_present(span, buffer)
        if length == span.length_bytes or span.chunk >= self.entry.chunk_count - 1:
            return Part(length, at_end=length < span.length_bytes)
        if self._passed.get(span.chunk) != version:
            if not await self._bytes_follow(span.chunk):
                return Part(length, at_end=True)
            self._connections.places.forget(self._path)
            length, _ = await self._read_present(span, buffer)
        hole = buffer[length:]
        hole[:] = bytes(len(hole))
        return Part(span.length_bytes, at_end=False)

    async def _bytes_follow(self, index: ChunkIndex) -> bool:
        """Whether the file goes on behind chunk `index`; only its last chunk can be there and be empty."""
        following = ChunkIndex(index + 1)
        if following < self.entry.chunk_count - 1:
            return True
        place = await self._place(following)
        if place is None:  # the places known are older than the entry
            self._connections.places.forget(self._path)
            place = await self._place(following)
        length, error = await self._ask_length(place)
        if error is not None:
            raise self._unavailable(place, {}, error) from error
        return length > 0

    async def _read_present(self, span: Span, buffer: memoryview) -> tuple[int, ChunkVersion]:
        """Bytes of the span that there are, read into `buffer` from whichever replica is good, and of which
        version."""
        plan: RetryPlan | None = None
        rounds = 0
        while True:
            place = await self._place(span.chunk)
            if place is None:
                return 0, ChunkVersion(0)
            length, tried, last = await self._try_replicas(place, span, buffer)
            if isinstance(last, DataUnavailable) and place.replicas:
                # Perhaps they have what there is, and none of them vouches that nothing follows it.
                end, unknown = await self._ask_length(place)
                if unknown is None and end <= span.first:
                    return 0, place.version
                if unknown is None:
                    length, tried, last = await self._try_replicas(place, span, buffer[: end - span.first])
            if last is None:
                return length, place.version
            plan = plan or self._connections.new_plan(f"read {self._path}", has_effects=False)
            rounds += 1
            await self._start_over(place, tried, last, plan, rounds=rounds)

    async def _try_replicas(
        self, place: ChunkPlace, span: Span, buffer: memoryview
    ) -> tuple[int, dict[ServerId, str], GfsError | None]:
        """Try each replica; (bytes, _, None) from the first good one, else what each has answered."""
        tried: dict[ServerId, str] = dict.fromkeys(place.missing, "is not alive")
        last: GfsError = DataUnavailable("no replica is alive")
        order = self._replica_order(place, span.first)
        data_seconds = self._connections.settings.data_seconds
        patience = PATIENCE_SECONDS * (1 + len(buffer) // READ_LONG_RANGE_BYTES)
        for seconds_each in (min(patience, data_seconds), data_seconds):
            slow: list[Replica] = []
            for replica in order:
                # The last one left has nobody to hand over to.
                seconds = data_seconds if len(order) == 1 else seconds_each
                try:
                    return await self._read_replica(place, replica, span, buffer, seconds), tried, None
                except GfsError as error:
                    tried[replica.server] = f"{error.code}: {error.message}"
                    last = error
                    self._avoid(replica.server)
                    if error.code == "deadline_exceeded" and seconds < data_seconds:
                        slow.append(replica)
            order = slow
        return 0, tried, last

    async def _read_replica(
        self, place: ChunkPlace, replica: Replica, span: Span, buffer: memoryview, seconds: float
    ) -> int:
        def read() -> tuple[int, int]:
            fetch = partial(
                self._connections.bulk.read_into,
                replica.data,
                place.handle,
                place.version,
                span.first,
                buffer,
                deadline_seconds=seconds,
                capability=place.capability,
            )
            if len(buffer) < VERIFIED_HERE_BYTES_MIN:
                return fetch()
            try:
                return fetch(verify_here=True)
            except ChecksumMismatch:
                return fetch()

        # To its end, because the thread writes to memory that is our caller's.
        length, committed = await self._connections.to_its_end(read)
        expected = min(span.first + len(buffer), self._known_length(place))
        if span.first + length < expected:
            # The master knows of more acknowledged bytes than this replica has.
            raise StaleVersion(f"{replica.server} holds {committed} bytes of at least {expected}")
        return length

    def _known_length(self, place: ChunkPlace) -> int:
        """Bytes every good replica of the chunk has for certain."""
        if place.sealed:
            return place.length_bytes
        entry = self.entry
        if entry.length_exact and place.index == entry.chunk_count - 1:
            return min(CHUNK_BYTES, max(0, entry.length_bytes - chunk_start(place.index)))
        return 0

    def _replica_order(self, place: ChunkPlace, first: int) -> list[Replica]:
        now = self._connections.clock.monotonic()
        return replica_order(
            place.replicas,
            handle=place.handle,
            client=self._connections.client,
            first=first,
            local_hosts=self._connections.local_hosts,
            avoided=[server for server, until in self._avoided_until.items() if until > now],
        )

    def _avoid(self, server: ServerId) -> None:
        self._avoided_until.pop(server, None)
        self._avoided_until[server] = self._connections.clock.monotonic() + AVOID_SECONDS
        if len(self._avoided_until) > AVOIDED_MAX:
            del self._avoided_until[next(iter(self._avoided_until))]

    async def _ask_length(self, place: ChunkPlace | None) -> tuple[int, GfsError | None]:
        last: GfsError = DataUnavailable("no replica is alive")
        if place is None:
            return 0, None
        if place.sealed:
            return place.length_bytes, None
        doubtful: list[int] = []
        known = self._known_length(place)
        for replica in self._replica_order(place, 0):
            try:
                status = await self._connections.caller.call(
                    replica.control,
                    ChunkStatus(handle=place.handle, version=place.version, capability=place.capability),
                    ChunkStatusReply,
                    deadline_seconds=min(PATIENCE_SECONDS, self._connections.settings.call_seconds),
                )
            except GfsError as error:
                last = error
                self._avoid(replica.server)
                continue
            if not status.may_be_short and status.length_bytes >= known:
                return status.length_bytes, None
            doubtful.append(status.length_bytes)
        if not doubtful:
            return 0, last
        everybody = not place.missing and len(doubtful) == len(place.replicas)
        if max(doubtful) >= known and (everybody or known > 0):
            return max(doubtful), None  # nobody has more, or no more was ever acknowledged
        return 0, DataUnavailable("the replicas that answer may have lost bytes in a power cut")

    async def _start_over(
        self,
        place: ChunkPlace | None,
        tried: dict[ServerId, str],
        last: GfsError,
        plan: RetryPlan,
        *,
        rounds: int,
    ) -> None:
        """Forget where the chunk was and wait a little; or, when that has no hope, say why for good."""
        self._connections.places.forget(self._path)
        damaged = bool(tried) and all(
            why.startswith((ChecksumMismatch.code, CorruptState.code)) for why in tried.values()
        )
        passing = last if may_pass(last) else DataUnavailable(last.message)
        verdict = plan.after(passing, target=self._path, now=self._connections.clock.monotonic())
        if isinstance(verdict, GiveUp) or (damaged and rounds >= HOPELESS_ROUNDS):
            raise self._unavailable(place, tried, last) from last
        await self._connections.clock.sleep(verdict.wait_seconds)

    def _unavailable(
        self, place: ChunkPlace | None, tried: dict[ServerId, str], last: GfsError
    ) -> DataUnavailable:
        assert place is not None
        servers = [*(replica.server for replica in place.replicas), *place.missing]
        told = "; ".join(f"{server} ({why})" for server, why in tried.items())
        told = told or f"{', '.join(servers) or 'no server'} ({last.message})"
        return DataUnavailable(
            f"no good replica of chunk {place.index} of {self._path} "
            f"(handle {place.handle:x}, version {place.version}) can be reached: {told}",
            hint="See 'gfs chunks' for its replicas and 'gfs status' for the chunk servers that are alive.",
            details={
                "path": self._path,
                "chunk": str(place.index),
                "handle": f"{place.handle:x}",
                "version": str(place.version),
                "servers": ",".join(servers),
            },
        )


def _join(spans: list[Span], found: list[Part], buffer: memoryview) -> Part:
    """Put the spans together, up to where the file ends."""
    for span, part in zip(spans, found, strict=True):
        if part.at_end:
            return Part(span.at + part.length_bytes, at_end=True)
    return Part(len(buffer), at_end=False)


def _range_bytes(length_bytes: int) -> int:
    """How long the ranges of one read are: few and long ones cost least, but two replicas are to work."""
    return READ_LONG_RANGE_BYTES if length_bytes >= 2 * READ_LONG_RANGE_BYTES else READ_RANGE_BYTES
