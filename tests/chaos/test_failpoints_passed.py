"""Every failpoint is passed by some run in the tests: one that is never reached protects nothing."""

from __future__ import annotations

from pathlib import Path

from gfs import failpoints
from tests.chaos.planted.trials import TRIALS

RUNS = {
    "store-killed": (20, 200),
    "power-cuts": (0, 1),
    "everything-of-chunks": (0, 1, 2),
    "garbage": (0,),
    "replica-reads": (0, 1),
    "snapshots": (0,),
}

# Those that only other tests die at, by name; they are too long, or too different, to be run here again.
DIED_AT_BY_NAME = {
    "tests/backups/test_taking.py": ("backup.written", "backup.synced", "backup.renamed"),
    "tests/master/test_new_life.py": ("restore.made", "restore.set_aside", "restore.in_place"),
    "tests/raft/test_membership_faults.py": (
        "member.before_change",
        "member.changing",
        "member.changed",
        "member.caught_up",
    ),
    "tests/processes/test_replica_moves.py": ("clone.received",),
    "tests/processes/test_crashes.py": (
        "push.received",
        "push.forwarded",
        "write.ordered",
        "write.before_ack",
        "write.forwarded",
        "write.before_reply",
        "write.replied",
    ),
}
# Passed on the way by tests of what they belong to.
PASSED_BY = {
    "push.begun": "tests/processes/test_crashes.py",  # right before push.received
    "clone.piece_kept": "tests/chunkserver/test_service_clones.py",
    "clone.before_finish": "tests/chunkserver/test_service_clones.py",
    "clone.left": "tests/master/test_replica_moves.py",
    "oplog.tail_cut": "tests/raft/test_log.py",
    "quarantine.before_verdict": "tests/master/test_quarantine.py",
    "quarantine.before_end": "tests/master/test_quarantine.py",
    "seal.before_log": "tests/master/test_service_leases.py",
    "seal.logged": "tests/master/test_service_leases.py",
    "seal.told": "tests/master/test_service_leases.py",
    "move.copied": "tests/chunkserver/test_moving_stores.py",
    "move.compared": "tests/chunkserver/test_moving_stores.py",
    "move.departed": "tests/chunkserver/test_moving_stores.py",
}


def test_every_failpoint_is_passed_by_some_run() -> None:
    passed: set[str] = set()
    failpoints.intercept(passed.add)
    try:
        for trial, seeds in RUNS.items():
            for seed in seeds:
                TRIALS[trial](seed)
    finally:
        failpoints.intercept(None)
    elsewhere = {name for names in DIED_AT_BY_NAME.values() for name in names} | PASSED_BY.keys()
    assert failpoints.NAMES - passed <= elsewhere
    assert elsewhere <= failpoints.NAMES
    assert len(passed) > 80, "these runs pass most of them"


def test_tests_that_are_said_to_die_at_failpoints_name_them() -> None:
    root = Path(__file__).parents[2]
    for path, names in DIED_AT_BY_NAME.items():
        text = (root / path).read_text()
        assert all(name in text for name in names), path
    assert all((root / path).exists() for path in PASSED_BY.values())
