"""`gfs bench state` on a small state: a real master starts on it, and every figure is one."""

from __future__ import annotations

import mmap
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from gfs.bench import state as program
from gfs.bench.processes import own_memory, run_measured


async def test_everything_is_measured_on_a_real_master(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MUTATION_SECONDS", 1.0)
    found = await program.measure(2000, str(tmp_path))
    assert 100 < found.bytes_per_file < 150
    assert found.differences == 20 + 5  # of a move both ends are told
    for name in ("verify_seconds", "diff_seconds", "start_seconds", "restart_seconds", "master_own_bytes"):
        assert getattr(found, name) > 0, name
    assert found.latency is not None and found.latency.quiet_samples + found.latency.during_samples == 100
    assert any("files/s" in line for line in program.in_words(found))
    assert ElementTree.fromstring(program.drawn([found])).tag.endswith("svg")


def test_memory_that_is_written_to_counts_and_a_mapped_file_does_not(tmp_path: Path) -> None:
    before = own_memory(os.getpid())
    with mmap.mmap(
        -1, 2**25, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    ) as fresh:  # not of the heap, which may have pages to spare
        fresh[:] = os.urandom(2**25)
        assert own_memory(os.getpid()) - before > 2**24
    assert own_memory(2**22 + 1) == 0, "nobody has that number"
    assert run_measured("--version").output.startswith(b"gfs")
