"""Libraries that take gfs:// through fsspec, and how many questions each may cost the masters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest
from fsspec.asyn import sync

from gfs.integrations.fsspec_filesystem import GFSFileSystem

ROWS = 5_000
_BACKGROUND = ("FindMasters", "Ping", "Hello")  # what clients ask whether anybody wants something or not


@contextmanager
def at_most(filesystem: GFSFileSystem, questions: int) -> Iterator[Counter[str]]:
    """Fail when more than so many requests are sent meanwhile. Bytes of files go by other wires."""
    sync(filesystem.loop, filesystem.client) if filesystem.loop else None  # there is one to be counted
    asked: Counter[str] = Counter()
    callers = [made.client._connections.caller for made in filesystem._clients._made.values()]
    calls = [caller.call for caller in callers]

    def counting(call: Any) -> Any:
        def counted(address: str, request: object, *args: Any, **kwargs: Any) -> Any:
            if type(request).__name__ not in _BACKGROUND:
                asked[type(request).__name__] += 1
            return call(address, request, *args, **kwargs)

        return counted

    for caller, call in zip(callers, calls, strict=True):
        caller.call = counting(call)
    try:
        yield asked
    finally:
        for caller, call in zip(callers, calls, strict=True):
            caller.call = call
    assert asked.total() <= questions, asked
    assert asked.total() > 0, "nothing was counted"


@pytest.fixture(scope="module")
def options(masters: str) -> dict[str, Any]:
    """Attributes are remembered for longer than a test takes, so that what is counted depends on no clock."""
    return {"masters": masters, "attribute_seconds": 600.0}


@pytest.fixture(scope="module")
def filesystem(options: dict[str, Any]) -> Iterator[GFSFileSystem]:
    fsspec.register_implementation("gfs", GFSFileSystem, clobber=True)
    yield fsspec.filesystem("gfs", **options)
    GFSFileSystem.clear_instance_cache()


@pytest.fixture
def folder(filesystem: GFSFileSystem, request: pytest.FixtureRequest) -> str:
    path = f"/{request.node.name}"
    filesystem.mkdir(path)
    return path


def test_pandas_writes_and_reads_csv_json_and_parquet(
    options: dict[str, Any], filesystem: GFSFileSystem, folder: str
) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"key": range(ROWS), "word": [f"word {n % 7}" for n in range(ROWS)]})
    url = f"gfs://{folder}"
    table.to_csv(f"{url}/a.csv", index=False, storage_options=options)
    table.to_parquet(f"{url}/a.parquet", storage_options=options)
    table.to_json(f"{url}/a.json", storage_options=options)
    with at_most(filesystem, 2):
        assert pandas.read_csv(f"{url}/a.csv", storage_options=options).equals(table)
    with at_most(filesystem, 2):
        assert pandas.read_json(f"{url}/a.json", storage_options=options).equals(table)
    with at_most(filesystem, 4):
        assert pandas.read_parquet(f"{url}/a.parquet", storage_options=options).equals(table)


def test_pyarrow_reads_tables_and_hive_datasets(filesystem: GFSFileSystem, folder: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import dataset, parquet

    table = pyarrow.table({"key": list(range(ROWS)), "part": [n % 4 for n in range(ROWS)]})
    parquet.write_table(table, f"{folder}/one.parquet", filesystem=filesystem)
    with at_most(filesystem, 4):
        assert parquet.read_table(f"{folder}/one.parquet", filesystem=filesystem).equals(table)
    parquet.write_to_dataset(table, f"{folder}/many", partition_cols=["part"], filesystem=filesystem)
    with at_most(filesystem, 11):
        read = dataset.dataset(f"{folder}/many", filesystem=filesystem, partitioning="hive").to_table()
    assert sorted(read["key"].to_pylist()) == list(range(ROWS))


def test_duckdb_queries_hive_globs_and_copies_out(filesystem: GFSFileSystem, folder: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    database = duckdb.connect()
    database.register_filesystem(filesystem)
    rows = f"SELECT i AS key, i % 8 AS part FROM range({ROWS}) numbers(i)"
    database.execute(f"COPY ({rows}) TO 'gfs://{folder}/one.csv'")
    database.execute(f"COPY ({rows}) TO 'gfs://{folder}/many' (FORMAT parquet, PARTITION_BY (part))")
    with at_most(filesystem, 30):
        counted = database.execute(
            f"SELECT count(*), sum(key) FROM read_parquet('gfs://{folder}/many/*/*.parquet')"
        ).fetchone()
    assert counted == (ROWS, sum(range(ROWS)))
    assert database.execute(f"SELECT count(*) FROM read_csv('gfs://{folder}/one.csv')").fetchone() == (ROWS,)


def test_dask_writes_and_reads_partitions(
    options: dict[str, Any], filesystem: GFSFileSystem, folder: str
) -> None:
    dataframe = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"key": range(ROWS)})
    dataframe.from_pandas(table, npartitions=3).to_parquet(f"gfs://{folder}/parts", storage_options=options)
    with at_most(filesystem, 12):
        read = dataframe.read_parquet(f"gfs://{folder}/parts", storage_options=options)
        assert int(read["key"].sum().compute(scheduler="threads")) == sum(range(ROWS))


def test_zarr_stores_arrays(options: dict[str, Any], filesystem: GFSFileSystem, folder: str) -> None:
    zarr = pytest.importorskip("zarr")
    store = zarr.storage.FsspecStore.from_url(f"gfs://{folder}/array", storage_options=options)
    array = zarr.create_array(store=store, shape=(40, 40), chunks=(20, 20), dtype="i4")
    array[:] = 7
    again = zarr.open_array(store=store, mode="r")
    with at_most(store.fs, 5):  # by zarr's own loop; four chunks of the array
        assert int(again[:].sum()) == 7 * 40 * 40


def test_polars_reads_an_open_file(filesystem: GFSFileSystem, folder: str) -> None:
    polars = pytest.importorskip("polars")
    table = polars.DataFrame({"key": list(range(ROWS))})
    with filesystem.open(f"{folder}/a.parquet", "wb") as file:
        table.write_parquet(file)
    with filesystem.open(f"{folder}/a.parquet") as file:
        assert polars.read_parquet(file).equals(table)


def test_universal_paths_walk_and_write(
    options: dict[str, Any], filesystem: GFSFileSystem, folder: str
) -> None:
    upath = pytest.importorskip("upath")
    root = upath.UPath(f"gfs://{folder}", **options)
    (root / "a" / "b.txt").write_text("text")
    assert [path.name for path in root.rglob("*.txt")] == ["b.txt"]
    assert (root / "a" / "b.txt").read_text() == "text"


def test_search_of_many_directories_is_one_question(filesystem: GFSFileSystem, folder: str) -> None:
    filesystem.pipe({f"{folder}/{n}/a": b"" for n in range(20)})
    with at_most(filesystem, 1):
        assert len(filesystem.find(folder)) == 20
