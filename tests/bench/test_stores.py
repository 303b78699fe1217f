"""`gfs bench stores`, once through with few chunks: every figure is there, and says of which store it is."""

from __future__ import annotations

import json
from pathlib import Path

from gfs.bench.stores import report


async def test_two_stores_take_turns_and_are_told_beside_each_other(tmp_path: Path) -> None:
    said: list[str] = []
    found = json.loads(
        await report(directory=str(tmp_path), chunks=20, rounds=2, as_json=True, say=said.append)
    )
    assert len(said) == 2
    assert [one["store"] for one in found["rounds"]] == ["file", "file", "lmdb", "lmdb"]
    assert all(one["write_per_second"] > 0 and one["read_per_second"] > 0 for one in found["rounds"])
    assert [(one["store"], one["files"] >= 40) for one in found["stores"]] == [
        ("file", True),
        ("lmdb", False),
    ]
    assert found["files_ratio"] >= 5 and found["both_ratio"] > 0
    assert list(tmp_path.iterdir()) == []


async def test_the_table_has_a_line_for_each_store_and_one_for_the_ratio(tmp_path: Path) -> None:
    told = await report(directory=str(tmp_path), chunks=5, rounds=1, as_json=False, say=lambda line: None)
    lines = [line.split()[0] for line in told.splitlines()]
    assert lines[-3:] == ["file", "lmdb", "lmdb"]
