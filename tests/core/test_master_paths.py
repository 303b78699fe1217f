"""Bad paths: each is refused by every operation and every read that takes a path, and changes nothing."""

from __future__ import annotations

import pytest

from gfs.errors import InvalidPath
from gfs.master.core.glob import glob_page
from gfs.master.core.lookup import find_chunks, list_page, names_of, stat
from gfs.master.core.state import MasterState
from gfs.master.core.tables import MemoryTables, Table
from gfs.messages import operations as op
from tests.core.master_records import create, delete, mkdir, record, rename

BAD_PATHS = {
    "empty": "",
    "relative": "a/b",
    "dot": "/a/./b",
    "dot dot": "/a/../b",
    "dot dot at the end": "/a/..",
    "NUL": "/a\0b",
    "lone surrogate": "/a\udc80",
    "name of 256 bytes": "/" + "n" * 256,
    "name of 256 bytes in UTF-8": "/" + "ä" * 128,
    "4097 bytes": "/" + "/".join(["d" * 100] * 41)[:4096],
    "129 levels": "/d" * 129,
    "very long and relative": "x" * 100_000,
}
GOOD_PATHS = {
    "name of 255 bytes": "/" + "n" * 255,
    "name of 254 bytes in UTF-8": "/" + "ä" * 127,
    "128 levels": "/d" * 128,
    "hidden": "/.hidden",
    "three dots": "/...",
    "doubled slashes": "//a//b/",
    "line break": "/a\nb",
}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS.keys())
@pytest.mark.parametrize(
    "operation",
    [mkdir, create, delete, lambda path: rename(path, "/x"), lambda path: rename("/f", path)],
    ids=["mkdir", "create", "delete", "rename from", "rename to"],
)
def test_a_bad_path_is_refused_and_changes_nothing(path: str, operation: object) -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    state.apply(record(create("/f")))
    state.save()
    before = {table: list(tables.scan(table)) for table in Table}
    assert callable(operation)
    outcome = state.apply(record(operation(path)))
    state.save()
    assert isinstance(outcome, op.Refused)
    assert outcome.code == "invalid_path"
    assert len(outcome.message) < 1000
    assert before == {table: list(tables.scan(table)) for table in Table}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS.keys())
def test_a_bad_path_is_refused_by_every_read(path: str) -> None:
    tables = MemoryTables()
    MasterState(tables)
    with pytest.raises(InvalidPath):
        stat(tables, path)
    with pytest.raises(InvalidPath):
        list_page(tables, path)
    with pytest.raises(InvalidPath):
        find_chunks(tables, path, 0, 1)
    with pytest.raises(InvalidPath):
        glob_page(tables, path)
    if path:
        with pytest.raises(InvalidPath):
            glob_page(tables, "/*", after=path)


@pytest.mark.parametrize("path", GOOD_PATHS.values(), ids=GOOD_PATHS.keys())
def test_a_good_path_is_made_found_and_listed(path: str) -> None:
    tables = MemoryTables()
    state = MasterState(tables)
    made = state.apply(record(mkdir(path, parents=True)))
    assert isinstance(made, op.Done)
    assert stat(tables, path).inode == made.inode
    plain = "/" + "/".join(name.decode() for name in names_of(path))
    assert [entry.path for entry in list_page(tables, plain.rpartition("/")[0] or "/")[0]] == [plain]
