"""Runs for hours, in slices that can be gone on with: which seed is next, and what came of all so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from chaos.plan import Plan
from chaos.report import RunReport
from chaos.sweep import Tally
from gfs.errors import CorruptState

FILE = "soak.json"


class _Kept(msgspec.Struct):
    next_seed: int = 0
    outcomes: dict[str, int] = {}
    faults: dict[str, int] = {}
    operations: dict[str, int] = {}
    run_seconds: float = 0.0
    real_seconds: float = 0.0
    not_held: list[str] = []


class Soak:
    """Kept in `soak.json` after every run, so that a slice may end at any moment."""

    def __init__(self, directory: Path, kept: _Kept) -> None:
        self._path, self._kept = directory / FILE, kept

    @classmethod
    def begun(cls, directory: Path) -> Soak:
        return cls(directory, _Kept())

    @classmethod
    def resumed(cls, directory: Path) -> Soak:
        """As begun, where there is nothing to go on with. Raises: CorruptState."""
        path = directory / FILE
        if not path.exists():
            return cls.begun(directory)
        try:
            return cls(directory, msgspec.json.decode(path.read_bytes(), type=_Kept))
        except msgspec.DecodeError as error:
            raise CorruptState(f"{path} is not what a soak keeps: {error}") from error

    def seeds(self, hours: float) -> Iterator[int]:
        """One after the other, until this slice's time is over."""
        end, seed = time.monotonic() + hours * 3600, self._kept.next_seed
        while time.monotonic() < end:
            yield seed
            seed += 1

    def add(self, plan: Plan, result: RunReport) -> None:
        tally = self.tally()
        tally.add(plan, result)
        self._kept = _Kept(
            # Side by side, runs end in any order: the seeds between are played again rather than left out.
            next_seed=max(self._kept.next_seed, plan.seed + 1),
            outcomes=dict(tally.outcomes),
            faults=dict(tally.faults),
            operations=dict(tally.operations),
            run_seconds=tally.run_seconds,
            real_seconds=tally.real_seconds,
            not_held=tally.not_held,
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(self._kept), indent=2) + b"\n")
        new.replace(self._path)

    def tally(self) -> Tally:
        kept = self._kept
        return Tally(
            outcomes=Counter(kept.outcomes),
            faults=Counter(kept.faults),
            operations=Counter(kept.operations),
            run_seconds=kept.run_seconds,
            real_seconds=kept.real_seconds,
            not_held=list(kept.not_held),
        )
