"""All checkers, by the name under which a scenario or workload asks for them."""

from __future__ import annotations

from collections.abc import Mapping

from gfs.verification.checkers.append import AppendChecker
from gfs.verification.checkers.availability import AvailabilityChecker
from gfs.verification.checkers.durability import DurabilityChecker
from gfs.verification.checkers.fsck import FsckChecker
from gfs.verification.checkers.garbage import GarbageChecker
from gfs.verification.checkers.interface import Checker
from gfs.verification.checkers.leases import LeasesChecker
from gfs.verification.checkers.linearizability import LinearizabilityChecker
from gfs.verification.checkers.regions import RegionsChecker
from gfs.verification.checkers.replay import ReplayChecker
from gfs.verification.checkers.snapshot import SnapshotChecker
from gfs.verification.checkers.stale_reads import StaleReadsChecker

_ALL: tuple[Checker, ...] = (
    LinearizabilityChecker(),
    AppendChecker(),
    RegionsChecker(),
    DurabilityChecker(),
    SnapshotChecker(),
    LeasesChecker(),
    GarbageChecker(),
    StaleReadsChecker(),
    ReplayChecker(),
    AvailabilityChecker(),
    FsckChecker(),
)
CHECKERS: Mapping[str, Checker] = {checker.name: checker for checker in _ALL}
