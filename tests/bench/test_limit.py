"""The limit tools do the work they claim to do; how fast is no test's business."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gfs.bench import limit
from gfs.checksums import crc32c
from gfs.vocabulary import CHECKSUM_BLOCK_BYTES, MIB

needs_compiler = pytest.mark.skipif(not limit.has_compiler(), reason="no C compiler here")


@needs_compiler
@pytest.mark.parametrize("start", [0, 1, 200])
def test_the_c_chain_computes_the_checksum_we_compute(tmp_path: Path, start: int) -> None:
    block = bytes((start + at) & 255 for at in range(CHECKSUM_BLOCK_BYTES))
    told = subprocess.run(
        [limit._compile(str(tmp_path)), "sum", str(start)], stdout=subprocess.PIPE, check=True
    )
    assert int(told.stdout, 16) == crc32c(block)


@pytest.mark.parametrize("engine", [pytest.param("c", marks=needs_compiler), "python"])
def test_every_replica_of_the_chain_ends_with_the_same_sum(engine: limit.Engine) -> None:
    """A hop that computes another sum than the one behind it ends with an error."""
    measured = limit.measure_write(5 * MIB + 12_345, replicas=3, engine=engine)
    assert measured.mib_per_second > 0
    assert measured.cpu_seconds_per_gib > 0


def test_the_read_limit_moves_every_byte() -> None:
    assert limit.read_limit(70 * MIB) > 0
