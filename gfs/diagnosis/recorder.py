"""Takes records from a program's threads and puts them in a ring, beside the work. Never in anybody's way.

Who records hands over bytes that are encoded already, for a thread that encoded would keep the event loop
from running while it does. A thread of the recorder's own writes them; when it falls behind, records are
dropped and counted. The newest are in memory too.
Measured with an empty handler at 16 calls in flight: 3 µs of CPU for a call that is recorded. Keeping all of
27,000 lookups a second took an eighth of the lookups away, hence the limit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from gfs.diagnosis.ring import Ring, file_numbers, records_of_file

PENDING_MAX = 2048  # records that wait to be written, which makes 10,000 a second; more are dropped
FLUSH_SECONDS = 0.2
BATCH_RECORDS = 64  # framed in one go: some 50 µs in which the loop may have to wait
BREATH_SECONDS = 0.0005  # between two batches
RECENT_RECORDS = 1024  # kept in memory, for who follows the ring and when the disk does not take it
RING_FILES = 8
READ_RECORDS_PER_BREATH = 200
UNENCODABLE = (ValueError, TypeError, OverflowError, msgspec.MsgspecError)  # lone surrogates, huge integers …
PAGE_BYTES_MAX = 2 * 2**20


class Page(NamedTuple):
    """Payloads in order of their writing. `next_after`: position to read on behind."""

    payloads: list[bytes]
    next_after: int
    more: bool


class Recorder:
    """`note()` from any thread; everything else is the recorder's thread's or a reader's.

    Invariant: positions given to records only grow, also over restarts.
    """

    def __init__(self, directory: str, *, bytes_max: int) -> None:
        """`bytes_max`: of the ring on disk; 0 keeps the newest records in memory only, without a thread."""
        self.dropped = 0
        self._directory = directory
        self._pending: deque[bytes] = deque()
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=RECENT_RECORDS)
        self._ring = Ring(directory, bytes_max=bytes_max, files_max=RING_FILES) if bytes_max else None
        self._memory_position = 0
        self._lock = threading.Lock()  # held while the ring and the recent ones change, or are read together
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if self._ring is not None:
            self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
            self._thread.start()

    def has_room(self) -> bool:
        """False when the next record would be dropped: it is counted as such, and need not be encoded."""
        if len(self._pending) < PENDING_MAX:
            return True
        self.dropped += 1
        return False

    def note(self, payload: bytes) -> None:
        """Record something, or count it as dropped when too much waits already. Never waits."""
        if self._ring is None:
            with self._lock:
                self._keep([payload])
        elif len(self._pending) < PENDING_MAX:
            self._pending.append(payload)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        if self._ring is not None:
            self._ring.close()

    # --- writing -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Take in what was noted so far."""
        left = len(self._pending)  # what comes meanwhile waits for the next time
        while left > 0:
            with self._lock:
                count = min(left, len(self._pending), BATCH_RECORDS)
                if payloads := [self._pending.popleft() for _ in range(count)]:
                    self._keep(payloads)
            left -= BATCH_RECORDS
            if left > 0:
                time.sleep(BREATH_SECONDS)

    def _keep(self, payloads: list[bytes]) -> None:
        positions: list[int] = []
        if self._ring is not None:
            try:
                positions = self._ring.append(payloads)
            except OSError:
                self.dropped += len(payloads)  # a full disk must not be made fuller; memory has them
        if not positions:
            base = max(self._memory_position, self._recent[-1][0] if self._recent else 0)
            positions = list(range(base + 1, base + 1 + len(payloads)))
        self._memory_position = positions[-1]
        self._recent.extend(zip(positions, payloads, strict=True))

    # --- reading -----------------------------------------------------------------------------------

    def page(self, *, after: int, newest: bool, limit: int, wanted: Callable[[bytes], bool]) -> Page:
        """Up to `limit` records that are `wanted`: the newest of all, or the first behind `after`.

        Blocking: reads files. What was noted before the call is in it.
        """
        assert limit > 0
        self.flush()
        with self._lock:
            recent = list(self._recent)
        if newest:
            return self._newest(recent, limit, wanted)
        found: list[bytes] = []
        size = 0
        for position, payload in self._behind(after, recent):
            after = position
            if wanted(payload):
                found.append(payload)
                size += len(payload)
                if len(found) >= limit or size >= PAGE_BYTES_MAX:
                    return Page(found, after, more=True)
        return Page(found, after, more=False)

    def _behind(self, after: int, recent: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        if self._ring is None or (recent and after >= recent[0][0]):
            yield from (record for record in recent if record[0] > after)
            return
        yield from read_ring(self._directory, after)

    def _newest(self, recent: list[tuple[int, bytes]], limit: int, wanted: Callable[[bytes], bool]) -> Page:
        last = recent[-1][0] if recent else 0
        found = [payload for _, payload in recent if wanted(payload)]
        if len(found) < limit and self._ring is not None:
            first_in_memory = recent[0][0] if recent else 1 << 62
            return newest_of_ring(self._directory, found, first_in_memory, last, limit, wanted)
        return _cut(found, last, limit)


def read_ring(directory: str, after: int) -> Iterator[tuple[int, bytes]]:
    """Every record of the files in `directory` behind position `after`, oldest first."""
    count = 0
    for number in file_numbers(directory):
        if number < after >> 32:
            continue
        for record in records_of_file(directory, number, after=after):
            count += 1
            if count % READ_RECORDS_PER_BREATH == 0:
                time.sleep(0)  # lets the event loop have its turn
            yield record


def newest_of_ring(
    directory: str, found: list[bytes], before: int, last: int, limit: int, wanted: Callable[[bytes], bool]
) -> Page:
    """The newest `limit` wanted records: `found`, and what files hold ahead of position `before`."""
    for number in reversed(file_numbers(directory)):
        older = []
        for position, payload in records_of_file(directory, number):
            if position >= before:
                break
            last = max(last, position)
            if wanted(payload):
                older.append(payload)
        found = older + found
        if len(found) >= limit:
            break
    return _cut(found, last, limit)


def _cut(found: list[bytes], last: int, limit: int) -> Page:
    kept: list[bytes] = []
    size = 0
    for payload in reversed(found):
        size += len(payload)
        if len(kept) >= limit or size > PAGE_BYTES_MAX:
            break
        kept.append(payload)
    return Page(kept[::-1], last, more=False)


def plain(value: Any) -> Any:  # Any: a log field may be of any type
    """A log field as something msgpack can carry."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return repr(value)
