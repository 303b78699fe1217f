"""Real masters all lose their power and nothing acknowledged. More: `python -m tests.processes.power_cut`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paper.boxes import keeps
from tests.processes import power_cut

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(power_cut.why_not()), reason=f"real power cuts: {power_cut.why_not()}"),
]


@keeps("namespace-atomic")
async def test_real_masters_that_all_lose_power_under_load_keep_everything_acknowledged(
    tmp_path: Path,
) -> None:
    load = await power_cut.survive(tmp_path, cuts=2, seed=7)
    assert len(load.there) > 50
