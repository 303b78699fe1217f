"""What a workload is: seeded clients that write down what they did, and an audit of what is left."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject


class Workload(Protocol):
    """Made anew for each run, with the directory it may use (which it makes) and chance of its own."""

    name: str
    checkers: tuple[str, ...]  # those that judge it
    floor_per_second: (
        float  # acknowledged operations a second, without faults, below which a run says nothing
    )

    def __init__(self, directory: str, chance: random.Random) -> None: ...

    async def set_up(self, subject: Subject, recorder: Recorder) -> None:
        """Make what it needs. Called once, before any fault. Raises: GfsError."""
        ...

    async def run(self, subject: Subject, recorder: Recorder, ended: Callable[[], bool]) -> None:
        """Do it until `ended()`. What the cluster refuses or loses is recorded, and never raised."""
        ...

    async def audit(self, subject: Subject, recorder: Recorder) -> None:
        """After the last fault, the cluster settled: write down as Audit records what there is now.

        Raises: GfsError, when the cluster does not answer although it should.
        """
        ...
