"""`gfs bench small-files`, once through with a real cluster: every figure is there."""

from __future__ import annotations

from gfs.bench.small_files import KINDS, Load, measure


async def test_a_round_creates_writes_and_reads_and_says_what_each_file_cost_whom() -> None:
    said: list[str] = []
    (found,) = await measure(in_flight=4, rounds=1, seconds=0.3, say=said.append)
    assert len(said) == 1
    loads: list[Load] = [getattr(found, kind) for kind in KINDS]
    for load in loads:
        assert load.per_second > 0
        assert set(load.cpu_us) == {"client", "masters", "chunk servers"}
