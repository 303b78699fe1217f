"""The guard says what is dearer than at the baseline, and that only."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gfs.bench import guard
from gfs.bench.machine import Machine
from gfs.errors import ConfigInvalid, NotFound

MACHINE = Machine(2, "a processor", "6", "3.11", "uvloop", "0", 0.0)


def baseline(**costs: float) -> guard.Baseline:
    return guard.Baseline(MACHINE, costs)


def test_dearer_than_allowed_is_no_longer_held() -> None:
    before = baseline(create=10.0, read=1.0)
    assert guard.compare(baseline(create=12.4, read=0.2), before).held
    found = guard.compare(baseline(create=12.6, read=0.2), before)
    assert not found.held
    assert [one.work for one in found.compared if one.is_dearer] == ["create"]
    assert "create" in guard.in_words(found) and "dearer by more than 25 %" in guard.in_words(found)
    assert guard.compare(baseline(create=12.6), before, tolerance_percent=30).held


def test_work_that_the_baseline_has_not_is_told_and_not_judged() -> None:
    found = guard.compare(baseline(create=10.0, rename=99.0), baseline(create=10.0))
    assert found.held and "the baseline has none" in guard.in_words(found)


def test_baseline_is_read_back_and_one_that_is_missing_or_torn_is_told(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(NotFound, match=r"baseline\.json"):
        guard.read(path)
    guard.write(baseline(create=10.0), path)
    assert guard.read(path) == baseline(create=10.0)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ConfigInvalid):
        guard.read(path)


def test_the_baseline_that_gfs_comes_with_has_all_kinds_of_work() -> None:
    assert set(guard.read().costs) == {*guard.CALLS, "write", "read"}


@pytest.mark.timeout(180)
async def test_all_kinds_of_work_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "FILE_BYTES", 8 * 2**20)
    monkeypatch.setattr(guard, "CALLS", dict.fromkeys(guard.CALLS, 20))
    monkeypatch.setattr(guard, "ECHOES", 2000)
    found = await guard.measure(rounds=1, say=lambda _: None)
    assert set(found.costs) == set(guard.read().costs)
    assert msgspec.json.decode(msgspec.json.encode(found), type=guard.Baseline) == found
