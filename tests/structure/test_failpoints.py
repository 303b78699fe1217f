"""Failpoints: each name is passed somewhere in gfs, each passed has a name, and none costs anything."""

from __future__ import annotations

import re
import timeit
from pathlib import Path

import pytest

from gfs import failpoints

ROOT = Path(failpoints.__file__).parent
_PASSED = re.compile(r"\bfailpoints?(?:\.hit)?\(((?:[^()]|\([^()]*\))*)\)")
_NAME = re.compile(r'"([a-z]+\.[a-z_]+)"')
UNARMED_NANOSECONDS_MAX = 2000  # about 50 on a quiet machine; a look-up of the environment would be 1000


def names_passed() -> set[str]:
    found: set[str] = set()
    for path in ROOT.rglob("*.py"):
        if path.name != "failpoints.py":
            for arguments in _PASSED.findall(path.read_text()):
                found |= set(_NAME.findall(arguments))
    return found


def test_every_failpoint_is_passed_somewhere_and_every_one_passed_has_a_name() -> None:
    assert names_passed() == failpoints.NAMES


@pytest.mark.parametrize(
    "armed",
    [
        "oplog.synce=kill",
        "oplog.synced=die",
        "oplog.synced",
        "oplog.synced=kill@soon",
        "file.written=kill,x=kill",
    ],
)
def test_arming_what_does_not_exist_is_refused_at_the_start(armed: str) -> None:
    with pytest.raises(SystemExit, match="no such failpoint"):
        failpoints._parse(armed)


def test_a_harness_in_the_process_is_told_of_every_pass_and_may_raise_there() -> None:
    passed: list[str] = []

    def told(name: str) -> None:
        passed.append(name)
        if name == "oplog.synced":
            raise OSError("here")

    failpoints.intercept(told)
    try:
        failpoints.hit("oplog.written")
        with pytest.raises(OSError, match="here"):
            failpoints.hit("oplog.synced")
        with pytest.raises(AssertionError):
            failpoints.hit("no.such_place")
    finally:
        failpoints.intercept(None)
    failpoints.hit("oplog.written")
    assert passed == ["oplog.written", "oplog.synced"]


def test_an_unarmed_failpoint_costs_next_to_nothing() -> None:
    seconds = min(timeit.repeat(lambda: failpoints.hit("oplog.synced"), number=20_000, repeat=5))
    assert seconds / 20_000 * 1e9 < UNARMED_NANOSECONDS_MAX
