"""Numbers in order, with memory that does not grow: sorted runs in temporary files, then merged."""

from __future__ import annotations

import heapq
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import IO

RUN_NUMBERS = 2**20
READ_NUMBERS = 2**13


class DiskSorter:
    """Implements Sorter. Numbers of 0 up to 2**64 - 1."""

    def __init__(self, run_numbers: int = RUN_NUMBERS) -> None:
        self._run_numbers = run_numbers
        self._waiting = array("Q")
        self._runs: list[IO[bytes]] = []

    def add(self, numbers: Iterable[int]) -> None:
        self._waiting.extend(numbers)
        if len(self._waiting) >= self._run_numbers:
            self._spill()

    def in_order(self) -> Iterator[int]:
        if not self._runs:
            return iter(sorted(self._waiting))
        self._spill()
        return heapq.merge(*map(_numbers_of, self._runs))

    def _spill(self) -> None:
        run = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the merge reads it
        array("Q", sorted(self._waiting)).tofile(run)
        run.seek(0)
        self._runs.append(run)
        self._waiting = array("Q")


def _numbers_of(run: IO[bytes]) -> Iterator[int]:
    while piece := run.read(READ_NUMBERS * 8):
        yield from memoryview(piece).cast("Q")
    run.close()
