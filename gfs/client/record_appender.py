"""Record append, exactly once: the primary chooses the offset and the client is told (GFS §3.3, I9).

Any number of tasks and clients append to one file at a time. Each record has a number of its own among all
that its client appends; by it every replica recognises a repeat. A record goes to a later chunk only when it
is certain that it is not in the one before: padded or sealed, and not found there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache

from gfs.capabilities import from_text
from gfs.checksums import crc32c, piece_checksums
from gfs.client import publishing
from gfs.client.chunk_calls import ChunkCalls, FailedTries
from gfs.client.chunk_leases import ChunkLeases
from gfs.client.connections import Connections, answered_within
from gfs.client.core.retry_plan import GiveUp
from gfs.client.core.striping import chunk_start
from gfs.errors import ChunkSealed, GfsError, IsADirectory, OutcomeUnknown, RecordForgotten
from gfs.messages.chunks import ChunkLease
from gfs.messages.namespace import Entry, EntryReply, Stat
from gfs.messages.replicas import AppendRecord, AppendReply, FindRecord, FindRecordReply
from gfs.settings import INLINE_RECORD_BYTES_MAX
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ChunkVersion, InodeId, PushId

# A record's offset is not known when it is pushed: it is summed as if it went to the start of the chunk, and
# the replicas sum it again for where it goes.
PUSHED_FOR = 0
APPENDERS_KEPT = (
    256  # files one client remembers leases for, to append to them; idle ones beyond are forgotten
)
TELL_SECONDS = 1.0  # how often the master hears how far a file reaches, while records are appended
LAST_WORD_SECONDS = 1.0  # how long closing a client waits for that
ENDS_KEPT = 4  # chunks of one file
FIND_SECONDS = 1.0


@dataclass(slots=True)
class _Append:
    """One record on its way. `sent`: a try is out, or its outcome is unknown, in chunk `index`."""

    record: bytes
    sequence: int
    index: ChunkIndex
    sent: bool = False
    not_before: int = 0  # in chunk `index`
    lease: ChunkLease | None = None
    tries: FailedTries | None = None


class RecordAppender:
    """The appends of one client to one file; they share its leases, and telling the master of its end."""

    def __init__(self, connections: Connections, entry: Entry) -> None:
        self._connections = connections
        self._entry = entry
        self._leases = ChunkLeases(connections.masters, inode=entry.inode, path=entry.path, appending=True)
        self._calls = ChunkCalls(connections, self._leases)
        self._index = ChunkIndex(0)  # where the next record is tried first
        self._unsettled: dict[int, None] = {}  # numbers of the records under way, the lowest first
        self._ends: dict[ChunkIndex, int] = {}  # how far acknowledged records reach in the last chunks
        self._marking = asyncio.Lock()
        self._is_marked = False  # the master knows that records are appended
        self._reached = 0  # the end of the last record that is acknowledged
        self._told = 0  # what of that the master knows
        self._telling: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return not self._unsettled and self._telling is None

    async def append(self, record: bytes, entry: Entry) -> int:
        """Append one record; returns its offset in the file when every replica has it there.

        Exactly once; after an error or a cancellation it is there once or not at all.
        Args:
            entry: of the file as it was not long ago.
        """
        self._index = max(self._index, ChunkIndex(entry.chunk_count - 1))
        self._is_marked = self._is_marked or entry.appended
        sequence = self._connections.new_record_number()
        self._unsettled[sequence] = None
        try:
            index, first = await self._append(_Append(record, sequence, self._index))
        finally:
            del self._unsettled[sequence]
        if index >= entry.chunk_count or not entry.appended:
            self._connections.places.forget(self._entry.path)
        offset = chunk_start(index) + first
        self._reached = max(self._reached, offset + len(record))
        if not self._is_marked:
            await self._mark()
        elif self._telling is None and self._told < self._reached:
            self._telling = asyncio.get_running_loop().create_task(self._tell_later())
        return offset

    async def close(self) -> None:
        """Let the master know how far the file reaches, unless it cannot be reached itself."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        if self._is_marked and self._told < self._reached:
            last_word = asyncio.ensure_future(self._tell())
            await answered_within(self._connections.clock, last_word, LAST_WORD_SECONDS)
            last_word.cancel()
            await asyncio.gather(last_word, return_exceptions=True)
        await self._leases.close()

    # --- one record -----------------------------------------------------------------------------

    async def _append(self, work: _Append) -> tuple[ChunkIndex, int]:
        """Try until some chunk has it: (its index, the offset within it)."""
        while True:
            try:
                reply = await self._try(work)
            except ChunkSealed as sealed:
                if work.sent:
                    offset = await self._find_in_sealed(work, sealed)
                    if offset is None:
                        continue
                    if offset >= 0:
                        return work.index, offset
                self._go_on(work)
                continue
            if reply is None:
                continue
            if not reply.padded:
                end = reply.offset_bytes + len(work.record)
                self._ends[work.index] = max(self._ends.get(work.index, 0), end)
                return work.index, reply.offset_bytes
            self._go_on(work)

    async def _try(self, work: _Append) -> AppendReply | None:
        """One try in the record's chunk; None when it failed and the next one may succeed.

        Raises: ChunkSealed; what no try can mend, or the budget is spent.
        """
        lease = work.lease = await self._leases.current(work.index)
        asked = lease.primary
        try:
            is_inline = len(work.record) <= INLINE_RECORD_BYTES_MAX
            push = PushId("")
            if not is_inline:
                asked = lease.replicas[0].server
                sums = cache(lambda: piece_checksums(PUSHED_FOR, work.record))
                push = await self._calls.push(lease, memoryview(work.record), offset=PUSHED_FOR, sums=sums)
                asked = lease.primary
            if not work.sent:
                # Whatever is acknowledged by now comes before any place this try can get.
                work.not_before = self._ends.get(work.index, 0)
            request = AppendRecord(
                handle=lease.handle,
                version=lease.version,
                length_bytes=len(work.record),
                push=push,
                data=work.record if is_inline else b"",
                checksum=crc32c(work.record) if is_inline else 0,
                client=self._connections.client,
                sequence=work.sequence,
                settled_below=next(iter(self._unsettled)),
                repeated=work.sent,
                not_before=work.not_before,
                capability=lease.capability,
            )
            work.sent = True
            return await self._calls.ask_primary(lease, request, AppendReply)
        except (ChunkSealed, RecordForgotten):
            raise
        except GfsError as error:
            work.tries = work.tries or FailedTries(
                self._connections.new_plan(
                    f"append {len(work.record)} bytes to {self._entry.path}, chunk {work.index} "
                    f"(handle {lease.handle:x})"
                )
            )
            self._connections.places.forget(self._entry.path)
            await self._calls.recover(work.index, lease, asked, error, work.tries)
            return None

    def _go_on(self, work: _Append) -> None:
        """The record is certainly not in its chunk, and never will be: to the next one."""
        self._leases.forget(work.index)
        work.index = ChunkIndex(work.index + 1)
        work.sent, work.tries = False, None
        if work.index > self._index:
            self._index = work.index
            self._ends.pop(ChunkIndex(work.index - ENDS_KEPT), None)

    async def _find_in_sealed(self, work: _Append, sealed: ChunkSealed) -> int | None:
        """The record's offset in its chunk, which is sealed now; -1 when it is not there. None: the master
        may have granted the chunk anew.

        Raises: RecordForgotten; OutcomeUnknown when nobody can say within the budget.
        """
        lease = work.lease
        assert lease is not None
        plan = self._connections.new_plan(f"learn whether a record is in {self._entry.path}")
        while True:
            version = ChunkVersion(int(sealed.details.get("version", "0")))
            # After a snapshot it is a copy of the one that was tried, with what that is known to hold (§3.4).
            handle = ChunkHandle(int(sealed.details.get("handle", lease.handle)))
            named = [Address(a) for a in sealed.details.get("replicas", "").split(",") if a]
            shown = from_text(sealed.details.get("capability", ""))
            answers = await asyncio.gather(
                *(
                    self._ask_sealed(work, handle, address, version, shown)
                    for address in dict.fromkeys([*named, *(r.control for r in lease.replicas)])
                )
            )
            for answer in answers:
                if isinstance(answer, FindRecordReply) and answer.final:
                    return answer.offset_bytes
            errors = [answer for answer in answers if isinstance(answer, GfsError)]
            forgotten = next((error for error in errors if isinstance(error, RecordForgotten)), None)
            if forgotten is not None:
                raise forgotten
            told = errors[0].message if errors else "the seal has not reached them yet"
            verdict = plan.after(
                OutcomeUnknown(f"no replica of sealed chunk {work.index} can tell: {told}"),
                target=f"handle {handle:x}",
                now=self._connections.clock.monotonic(),
            )
            if isinstance(verdict, GiveUp):
                raise verdict.error
            await self._connections.clock.sleep(verdict.wait_seconds)
            self._leases.forget(work.index)
            try:
                await self._leases.current(work.index)
            except ChunkSealed as again:
                sealed = again
            else:
                return None

    async def _ask_sealed(
        self,
        work: _Append,
        handle: ChunkHandle,
        address: Address,
        version: ChunkVersion,
        capability: bytes,
    ) -> FindRecordReply | GfsError:
        request = FindRecord(
            handle=handle,
            client=self._connections.client,
            sequence=work.sequence,
            not_before=work.not_before,
            sealed_version=version,
            capability=capability,
        )
        try:
            return await self._connections.caller.call(
                address, request, FindRecordReply, deadline_seconds=FIND_SECONDS
            )
        except GfsError as error:
            return error

    # --- how far the file reaches ---------------------------------------------------------------

    async def _mark(self) -> None:
        """Before the first record is acknowledged the master knows that the file's length is in its last
        chunk only: or else a writer that closes the file at less would hide the records."""
        async with self._marking:
            if not self._is_marked:
                await self._tell()
                self._is_marked = True
                self._connections.places.forget(self._entry.path)

    async def _tell(self) -> None:
        reached = self._reached
        await publishing.tell_appended(self._connections, self._entry, reached)
        self._told = max(self._told, reached)

    async def _tell_later(self) -> None:
        try:
            await self._connections.clock.sleep(TELL_SECONDS)
            await self._tell()
        except GfsError:
            pass  # it is for listings, whose lengths are lower bounds while a file grows
        finally:
            self._telling = None


class RecordAppenders:
    """One RecordAppender for each file this client appends to."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._known: OrderedDict[InodeId, RecordAppender] = OrderedDict()  # least recently used first

    async def append(self, path: str, record: bytes) -> int:
        """As RecordAppender.append, to the file at `path`: looked up once in `metadata_cache_seconds`, so for
        so long records follow a file that somebody else renames or replaces. Raises: NotFound, IsADirectory.
        """
        places = self._connections.places
        now = self._connections.clock.monotonic()
        entry = places.entry(path, now=now)
        if entry is None:
            found = await self._connections.masters.ask_leader(
                Stat(path=path), EntryReply, f"append to {path}"
            )
            entry = found.entry
            if entry.kind == "directory":
                raise IsADirectory(f"{path} is a directory")
            places.store(path, entry, (), now=now)
        appender = self._known.get(entry.inode)
        if appender is None:
            appender = self._known[entry.inode] = RecordAppender(self._connections, entry)
        self._known.move_to_end(entry.inode)
        try:
            return await appender.append(record, entry)
        finally:
            self._forget_idle()

    async def close(self) -> None:
        known, self._known = self._known, OrderedDict()
        await asyncio.gather(*(appender.close() for appender in known.values()))

    def _forget_idle(self) -> None:
        excess = len(self._known) - APPENDERS_KEPT
        if excess > 0:
            for inode, appender in list(self._known.items())[:excess]:
                if appender.is_idle:
                    del self._known[inode]
