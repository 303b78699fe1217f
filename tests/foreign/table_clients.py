"""Libraries that write and read tables at gfs:// through fsspec, each with its own calls and defaults."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow
import pytest
from pyarrow import parquet

from gfs.client.blocking import Client
from gfs.integrations.fsspec_filesystem import GFSFileSystem

FEW_ROWS, MANY_ROWS = 1_000, 1_000_000  # of random numbers: eight megabytes that no codec makes smaller
SPREAD = 2**62


class TableVerbs(NamedTuple):
    """`write` stores numbers at a path; `read` gives them back, in their order."""

    write: Callable[[str, Any], object]  # Any: an array of numpy
    read: Callable[[str], Any]
    stored: Callable[[Client, str], Any]  # what the SDK finds there


TableClient = Callable[[GFSFileSystem, dict[str, Any]], TableVerbs]
COLUMN = "numbers"


class TablesWork:
    def __init__(self, verbs: TableVerbs, filesystem: GFSFileSystem, folder: str) -> None:
        self._numpy = pytest.importorskip("numpy")
        self._verbs, self._filesystem, self._folder = verbs, filesystem, folder
        self._written: dict[str, Any] = {}

    def step(self, name: str, *, big: bool) -> None:
        chance = self._numpy.random.default_rng(zlib.crc32(name.encode()))
        numbers = chance.integers(SPREAD, size=MANY_ROWS if big else FEW_ROWS)
        path = f"/{self._folder}/{name}"
        self._verbs.write(path, numbers)
        self._written[name] = numbers
        assert self._numpy.array_equal(self._verbs.read(path), numbers)
        assert path in self._filesystem.ls(f"/{self._folder}", detail=False)

    def compare(self, client: Client, name: str) -> None:
        found = self._verbs.stored(client, f"/{self._folder}/{name}")
        assert self._numpy.array_equal(found, self._written[name])


def of_parquet(client: Client, path: str) -> Any:
    """The numbers of one file, or of all parts of a directory."""
    directory = client.stat(path).kind == "directory"
    paths = sorted(entry.path for entry in client.glob(f"{path}/*.parquet")) if directory else [path]
    tables = [parquet.read_table(pyarrow.BufferReader(client.read_bytes(one))) for one in paths]
    return pyarrow.concat_tables(tables)[COLUMN].to_numpy()


def pyarrow_fsspec(filesystem: GFSFileSystem, _: dict[str, Any]) -> TableVerbs:
    def write(path: str, numbers: Any) -> None:
        parquet.write_table(pyarrow.table({COLUMN: numbers}), path, filesystem=filesystem)

    def read(path: str) -> Any:
        return parquet.read_table(path, filesystem=filesystem)[COLUMN].to_numpy()

    return TableVerbs(write, read, of_parquet)


def pandas(_: GFSFileSystem, options: dict[str, Any]) -> TableVerbs:
    pandas = pytest.importorskip("pandas")

    def write(path: str, numbers: Any) -> None:
        pandas.DataFrame({COLUMN: numbers}).to_parquet(f"gfs://{path}", storage_options=options)

    def read(path: str) -> Any:
        return pandas.read_parquet(f"gfs://{path}", storage_options=options)[COLUMN].to_numpy()

    return TableVerbs(write, read, of_parquet)


def duckdb(filesystem: GFSFileSystem, _: dict[str, Any]) -> TableVerbs:
    database = pytest.importorskip("duckdb").connect()
    database.register_filesystem(filesystem)

    def write(path: str, numbers: Any) -> None:
        cursor = database.cursor()  # a connection serves one thread
        cursor.register("given", pyarrow.table({COLUMN: numbers}))
        cursor.execute(f"COPY given TO 'gfs://{path}' (FORMAT parquet)")

    def read(path: str) -> Any:
        found = database.cursor().execute(f"SELECT {COLUMN} FROM read_parquet('gfs://{path}')")
        return found.fetchnumpy()[COLUMN]

    return TableVerbs(write, read, of_parquet)


def dask(_: GFSFileSystem, options: dict[str, Any]) -> TableVerbs:
    dataframe = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")

    def write(path: str, numbers: Any) -> None:
        table = dataframe.from_pandas(pandas.DataFrame({COLUMN: numbers}), npartitions=3)
        table.to_parquet(f"gfs://{path}", storage_options=options)

    def read(path: str) -> Any:
        return dataframe.read_parquet(f"gfs://{path}", storage_options=options)[COLUMN].compute().to_numpy()

    return TableVerbs(write, read, of_parquet)


def polars(filesystem: GFSFileSystem, _: dict[str, Any]) -> TableVerbs:
    polars = pytest.importorskip("polars")

    def write(path: str, numbers: Any) -> None:
        with filesystem.open(path, "wb") as file:
            polars.DataFrame({COLUMN: numbers}).write_parquet(file)

    def read(path: str) -> Any:
        with filesystem.open(path) as file:
            return polars.read_parquet(file)[COLUMN].to_numpy()

    return TableVerbs(write, read, of_parquet)


def zarr(_: GFSFileSystem, options: dict[str, Any]) -> TableVerbs:
    zarr = pytest.importorskip("zarr")
    numpy = pytest.importorskip("numpy")

    def at(path: str) -> Any:
        return zarr.storage.FsspecStore.from_url(f"gfs://{path}", storage_options=options)

    def write(path: str, numbers: Any) -> None:
        shape, part = numbers.shape, (len(numbers) // 4,)
        array = zarr.create_array(store=at(path), shape=shape, chunks=part, dtype="<i8", compressors=None)
        array[:] = numbers

    def stored(client: Client, path: str) -> Any:
        parts = (client.read_bytes(f"{path}/c/{number}") for number in range(4))
        return numpy.frombuffer(b"".join(parts), "<i8")

    return TableVerbs(write, lambda path: zarr.open_array(store=at(path), mode="r")[:], stored)


TABLE_CLIENTS: dict[str, TableClient] = {
    "pyarrow": pyarrow_fsspec,
    "pandas": pandas,
    "duckdb": duckdb,
    "dask": dask,
    "polars": polars,
    "zarr": zarr,
}
