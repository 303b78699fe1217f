"""The walk over all chunks counts each once, however small its steps."""

from __future__ import annotations

import pytest

from gfs.master.core.locations import Locations
from gfs.master.core.replication_scan import ReplicationScan
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables
from gfs.messages import operations as op
from tests.core.master_records import A, B, add_chunk, create, record


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_every_chunk_of_every_file_is_counted_once(step: int) -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    for number, chunks in enumerate((1, 0, 3, 1, 0)):
        made = state.apply(record(create(f"/f{number}")))
        assert isinstance(made, op.Done)
        for index in range(chunks):
            state.apply(record(add_chunk(made.inode, index, A, B)))
    scan = ReplicationScan()
    locations = Locations(dead_seconds=5.0)
    for _ in range(2):
        while not scan.step(tables, locations, now=0.0, chunks_max=step):
            pass
        assert scan.result is not None
        assert (scan.result.chunks, scan.result.lost) == (5, 5), "no server has reported a replica"
