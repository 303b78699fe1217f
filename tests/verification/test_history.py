"""What a run leaves behind: written and read back, refused when it is no history; how outcomes are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gfs.errors import ConnectionLost, CorruptState, NotFound
from gfs.verification.history import (
    FORMAT_VERSION,
    Audit,
    Fault,
    Header,
    History,
    Operation,
    Phase,
    Sighting,
    load,
)
from gfs.verification.recorder import Recorder

RECORDS = [
    Header(layer="sim", scenario="kill-one-master", seed=7),
    Phase(0, "calm"),
    Fault("cut", 5, 9, ["m1", "m2"], {"both": True}),
    Operation(1, 1, "namespace", "create", 2, 3, "ok", "/t1", {"path": "/t1/a"}, 17),
    Sighting(4, "m1", "role", {"role": "leader", "term": 3}),
    Audit(99, "append", "records", {"path": "/a", "ids": [[1, 2]]}),
]


def test_a_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    history = History(RECORDS)
    history.save(tmp_path / "history.jsonl")
    read = load(tmp_path / "history.jsonl")
    assert sorted(map(repr, read.records())) == sorted(map(repr, RECORDS))
    assert read.operations == history.operations and read.header == history.header


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"kind":"header"}\n{"kind":"op","number":', "line 2"),
        (f'{{"kind":"header","version":{FORMAT_VERSION + 1}}}\n', "reads up to"),
        ('{"kind":"phase","at_ns":1,"name":"calm"}\n', "does not begin with a header"),
        ('{"kind":"header","version":1,"colour":"red"}\n', "line 1"),
        ("\x00\x01", "line 1"),
        ("", "empty"),
    ],
)
def test_what_is_no_history_is_refused_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(text)
    with pytest.raises(CorruptState, match=says):
        load(path)


def test_a_record_of_a_file_says_which_value_it_lacks(tmp_path: Path) -> None:
    operation = Operation(1, 1, "append", "append", 2, 3, "ok", arguments={"path": "/a"}, result={"end": 3})
    History([Header(), operation, Audit(4, "append", "file", {"path": "/a"})]).save(tmp_path / "h.jsonl")
    read = load(tmp_path / "h.jsonl")
    assert read.operations[0].arguments["path"] == "/a"
    with pytest.raises(CorruptState, match="line 2, operation append holds no 'id'"):
        read.operations[0].arguments["id"]
    with pytest.raises(CorruptState, match="line 2, the result of append holds no 'offset'"):
        read.operations[0].result["offset"]
    with pytest.raises(CorruptState, match="line 3, file holds no 'crc'"):
        read.audits[0].values["crc"]


class Ticking:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        self.ns += 10
        return self.ns


async def answer(what: int | BaseException) -> int:
    if isinstance(what, BaseException):
        raise what
    return what


async def test_an_outcome_is_told_by_whether_it_is_definite_and_an_unknown_one_ends_its_process() -> None:
    history = History()
    recorder = Recorder(history, Ticking())
    client, other = recorder.process("namespace"), recorder.process("namespace")
    assert (
        await client.run("stat", {"path": "/a"}, answer(5), partition="/a", result=lambda found: found + 1)
        == 5
    )
    for error in (NotFound("no /a"), ConnectionLost("gone"), asyncio.CancelledError(), ZeroDivisionError()):
        with pytest.raises(type(error)):
            await client.run("delete", {}, answer(error))
    await client.run("stat", {}, answer(0))
    await other.run("stat", {}, answer(0))
    told = [(op.process, op.outcome, op.error) for op in history.operations]
    assert told == [
        (1, "ok", ""),
        (1, "fail", "not_found"),
        (1, "info", "connection_lost"),
        (3, "info", "CancelledError"),
        (4, "info", "ZeroDivisionError"),
        (5, "ok", ""),
        (2, "ok", ""),
    ]
    first = history.operations[0]
    assert (first.number, first.called_ns, first.returned_ns, first.result) == (1, 10, 20, 6)
    assert len({operation.number for operation in history.operations}) == 7
