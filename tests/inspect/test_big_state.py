"""States that are written row by row, for measuring, are those that a master would have made."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs.bench.big_state import FILES_PER_DIRECTORY, apply_operations, write_checkpoint, write_rows
from gfs.inspect.checkpoint_files import find_checkpoint
from gfs.inspect.verify import verify
from gfs.master.core.tables import Table
from gfs.master.lmdb_tables import LmdbTables


@pytest.mark.parametrize("files", [0, 1, FILES_PER_DIRECTORY + 300])
def test_rows_are_those_that_the_operations_leave(tmp_path: Path, files: int) -> None:
    written = LmdbTables(str(tmp_path / "written.lmdb"), bytes_max=2**26)
    applied = LmdbTables(str(tmp_path / "applied.lmdb"), bytes_max=2**26)
    try:
        write_rows(written, files)
        apply_operations(applied, files)
        for table in Table:
            assert list(written.scan(table)) == list(applied.scan(table)), table
    finally:
        written.close()
        applied.close()


def test_their_checkpoint_is_sound(tmp_path: Path) -> None:
    tables = LmdbTables(str(tmp_path / "state.lmdb"), bytes_max=2**26)
    write_rows(tables, 5000)
    manifest = write_checkpoint(tables, str(tmp_path / "checkpoints"), index=7)
    tables.close()
    verdict = verify(find_checkpoint(str(tmp_path)))
    assert verdict.findings == [] and verdict.index == manifest.index == 7
    assert verdict.rows["chunks"] == 5000
    assert manifest.length_bytes / 5000 < 140
