"""`gfs bench gateways`, once through with a small file: every way moves all its bytes, and is told of."""

from __future__ import annotations

import json

import pytest

from gfs.bench import gateways
from gfs.vocabulary import MIB


@pytest.mark.processes
@pytest.mark.timeout(120)
async def test_every_gateway_is_told_beside_the_sdk() -> None:
    said: list[str] = []
    found = json.loads(await gateways.report(file_bytes=MIB, rounds=2, as_json=True, say=said.append))
    assert len(said) == 2
    assert [side["side"] for side in found["sides"]] == ["sdk", "http", "webhdfs", "s3"]
    assert len(found["rounds"]) == 8
    for side in found["sides"]:
        assert side["read_mib_per_second"] > 0 and side["write_mib_per_second"] > 0
    assert found["sides"][0]["read_ratio"] == found["sides"][0]["write_ratio"] == 1.0
