"""A relation of a checkpoint as a stream of bytes: JSON lines, CSV, or Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal

import msgspec

from gfs.errors import InvalidArgument
from gfs.inspect.asking import ask, pieces
from gfs.inspect.checkpoint_files import CheckpointFile
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.relations import RELATIONS, Relation

Format = Literal["jsonl", "csv", "parquet"]
BATCH_ROWS = 10_000


def export(file: CheckpointFile, relation: str, form: Format) -> Iterator[bytes]:
    """Raises: InvalidArgument; as ask()."""
    found = RELATIONS.get(relation)
    if found is None:
        raise InvalidArgument(f"there is no table {relation!r}", hint=f"There are: {', '.join(RELATIONS)}.")
    if form == "parquet":
        _require_pyarrow()
    return ask(file, lambda tables: _FORMS[form](found, tables))


def _jsonl(relation: Relation, tables: CheckpointTables) -> Iterator[bytes]:
    names = tuple(relation.columns)
    encode = msgspec.json.Encoder().encode
    return pieces(encode(dict(zip(names, row, strict=True))) + b"\n" for row in relation.rows(tables))


def _csv(relation: Relation, tables: CheckpointTables) -> Iterator[bytes]:
    rows = relation.rows(tables)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(relation.columns)
    while batch := list(islice(rows, BATCH_ROWS)):
        writer.writerows(batch)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()


def _parquet(relation: Relation, tables: CheckpointTables) -> Iterator[bytes]:
    arrow, parquet = _require_pyarrow()
    kinds = {"INTEGER": arrow.int64(), "TEXT": arrow.string()}
    schema = arrow.schema([(name, kinds[kind]) for name, (kind, _) in relation.columns.items()])
    written = _Drain()
    rows = relation.rows(tables)
    with parquet.ParquetWriter(arrow.PythonFile(written, mode="w"), schema) as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            columns = [arrow.array(column, kind) for column, kind in zip(zip(*batch), schema.types)]  # noqa: B905
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
            yield written.taken()
    yield written.taken()


class _Drain(io.RawIOBase):
    """A file that is only written to, front to back, and emptied as it fills."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._length

    def write(self, piece: Any) -> int:  # Any: whatever holds bytes
        self._waiting.append(bytes(piece))
        self._length += len(self._waiting[-1])
        return len(self._waiting[-1])

    def taken(self) -> bytes:
        waiting, self._waiting = self._waiting, []
        return b"".join(waiting)


def _require_pyarrow() -> tuple[Any, Any]:  # Any: modules that need not be there
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InvalidArgument(
            "Parquet is written by pyarrow, which is not installed here",
            hint="'pip install pyarrow', or take jsonl or csv, which need nothing.",
        ) from error


_FORMS: dict[Format, Callable[[Relation, CheckpointTables], Iterator[bytes]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}
