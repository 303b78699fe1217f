"""`gfs checkpoint`: what it prints, how it exits, and that no file can end it with more than an error."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from gfs.errors import GfsError
from gfs.inspect.relations import RELATIONS
from tests.core.master_records import delete, mkdir
from tests.inspect import planted
from tests.inspect.planted import World, fill
from tests.inspect.shell import gfs


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A master's directory with two checkpoints."""
    directory = tmp_path_factory.mktemp("master")
    world = World(directory / "world")
    fill(world)
    world.checkpoint(directory / "checkpoints", index=41)
    world(mkdir("/later"))
    world(delete("/data/f1"))
    world.checkpoint(directory / "checkpoints", index=50)
    world.tables.close()
    return directory


def checkpoints(master: Path) -> list[Path]:
    return sorted((master / "checkpoints").glob("*.lmdb"))


def test_ls_shows_each_checkpoint_with_its_state(master: Path) -> None:
    ran = gfs("checkpoint", "ls", str(master))
    assert ran.exit_code == 0 and ran.stdout.count("whole") == 2
    rows = json.loads(gfs("-o", "json", "checkpoint", "ls", str(master)).stdout)
    assert [(row["index"], row["wholeness"], row["members"]) for row in rows] == [
        (41, "whole", ["m1"]),
        (50, "whole", ["m1"]),
    ]


def test_verify_exits_0_when_sound_and_7_with_the_findings_when_not(master: Path, tmp_path: Path) -> None:
    ran = gfs("checkpoint", "verify", *map(str, checkpoints(master)))
    assert ran.exit_code == 0 and ran.stdout.count("sound") == 2
    path = tmp_path / checkpoints(master)[0].name
    path.write_bytes(checkpoints(master)[0].read_bytes())
    planted.rewrite(path, lambda t, handles: t.put(b"surprise", b"1", db=handles[planted.Table.META]))
    ran = gfs("checkpoint", "verify", str(path))
    assert ran.exit_code == 7 and "nothing is known of a row" in ran.stdout
    (told,) = json.loads(gfs("-o", "json", "checkpoint", "verify", str(path)).stdout)
    assert told["findings"][0] == {
        "rule": "meta",
        "table": "meta",
        "key": "surprise",
        "message": "nothing is known of a row b'surprise'",
    }


def test_inspect_in_words_and_in_json(master: Path) -> None:
    text = gfs("checkpoint", "inspect", str(master)).stdout
    assert "log entry 50 of term 3" in text and "/copy" in text
    found = json.loads(gfs("-o", "json", "checkpoint", "inspect", str(master)).stdout)
    assert (found["index"], found["files"]) == (50, 12)
    path = gfs("checkpoint", "inspect", str(master), "--path", "/data/deep/long")
    assert "4 chunks" in path.stdout and "cs-b cs-c cs-d" in path.stdout
    handle = gfs("checkpoint", "inspect", str(master), "--handle", "6")
    assert "/copy/long" in handle.stdout
    with pytest.raises(GfsError, match="no chunk handle"):
        raise_of("checkpoint", "inspect", str(master), "--handle", "xyz")


def test_diff_is_a_line_for_each_difference(master: Path) -> None:
    two = [str(path) for path in checkpoints(master)]
    lines = gfs("-o", "jsonl", "checkpoint", "diff", *two).stdout.splitlines()
    found = {(one["change"], one["path"]) for one in map(json.loads, lines)}
    assert {("added", "/later"), ("deleted", "/data/f1")} <= found
    assert "no difference" in gfs("checkpoint", "diff", two[0], two[0]).stderr
    assert json.loads(gfs("-o", "json", "checkpoint", "diff", two[0], two[0]).stdout) == []


def test_query_streams_rows_and_its_help_lists_every_column(master: Path) -> None:
    ran = gfs("checkpoint", "query", str(master), "SELECT tenure FROM servers WHERE server = 'cs-d'")
    assert ran.stdout.split() == ["tenure", "draining"]
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) SELECT i FROM n"
    assert len(gfs("checkpoint", "query", str(master), many).stdout.split()) == 2501
    assert len(json.loads(gfs("-o", "json", "checkpoint", "query", str(master), many).stdout)) == 2500
    text = gfs("checkpoint", "query", "--help").stdout
    for relation in RELATIONS.values():
        assert f"  {relation.name}: " in text
        assert all(f"    {column}" in text for column in relation.columns)


def test_export_writes_one_table(master: Path) -> None:
    ran = gfs("checkpoint", "export", str(master), "--table", "servers", "--format", "csv")
    assert ran.stdout.splitlines()[0] == "server,number,tenure" and "cs-d,4,draining" in ran.stdout


def test_what_if_tells_what_is_lost_and_exits_7_when_anything_is(master: Path, tmp_path: Path) -> None:
    ran = gfs("checkpoint", "what-if", "lose-server", str(master), "cs-a")
    assert ran.exit_code == 0 and "one failure from loss" in ran.stdout
    ran = gfs("checkpoint", "what-if", "lose-server", str(master), "cs-a", "cs-b", "cs-c")
    assert ran.exit_code == 7 and "lost" in ran.stdout and "/data/f3" in ran.stdout
    report = tmp_path / "servers.json"
    report.write_text('[{"id":"cs-b","rack":"r1"},{"id":"cs-c","rack":"r1"},{"id":"cs-d","rack":"r1"}]')
    ran = gfs("checkpoint", "what-if", "lose-rack", str(master), "r1", "--servers", str(report))
    assert ran.exit_code == 7 and "/data/deep/long" in ran.stdout
    with pytest.raises(GfsError, match="which rack"):
        raise_of("checkpoint", "what-if", "lose-rack", str(master), "r1")


def test_the_schema_names_what_each_command_answers(master: Path) -> None:
    told = json.loads(gfs("checkpoint", "schema").stdout)
    assert told["commands"]["verify"] == {"$ref": "#/$defs/Verdict"}
    for name in RELATIONS:
        (line, *_) = gfs("checkpoint", "export", str(master), "--table", name).stdout.splitlines()
        columns = told["$defs"][f"row_of_{name}"]["properties"]
        kinds = {int: "integer", str: "string"}
        assert {key: kinds[type(value)] for key, value in json.loads(line).items()} == {
            key: column["type"] for key, column in columns.items()
        }
    (row, *_) = json.loads(gfs("-o", "json", "checkpoint", "ls", str(master)).stdout)
    assert set(row) == set(told["$defs"]["CheckpointRow"]["properties"])


def raise_of(*arguments: str) -> None:
    """Raise what the command has raised."""
    ran = gfs(*arguments)
    if ran.exception is not None:
        raise ran.exception


@pytest.mark.parametrize("kind", ["a page of rubbish", "cut short", "bits flipped"])
def test_a_damaged_file_under_a_fitting_manifest_ends_no_command(
    master: Path, tmp_path: Path, kind: str
) -> None:
    """Each command answers, or says what is wrong in an error of ours; none dies, none shows a traceback."""
    chance = random.Random(kind)
    content = checkpoints(master)[0].read_bytes()
    path = tmp_path / checkpoints(master)[0].name
    other = str(checkpoints(master)[1])
    commands = [
        ("inspect", str(path)),
        ("inspect", str(path), "--path", "/data/deep/long"),
        ("inspect", str(path), "--handle", "6"),
        ("diff", str(path), other),
        ("diff", "--chunks", other, str(path)),
        ("export", str(path)),
        ("query", str(path), "SELECT count(*) FROM chunks, sessions, trash, usage"),
        ("what-if", "lose-server", str(path), "cs-a", "cs-b", "cs-c"),
        ("verify", str(path)),
        ("ls", str(tmp_path)),
    ]
    for _ in range(6):
        damaged = bytearray(content)
        if kind == "cut short":
            del damaged[chance.randrange(len(damaged)) :]
        elif kind == "bits flipped":
            for _ in range(200):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        else:
            page = chance.randrange(len(damaged) // 4096) * 4096
            damaged[page : page + 4096] = chance.randbytes(4096)
        path.write_bytes(damaged)
        planted.remake_manifest(path)
        for command in commands:
            ran = gfs("checkpoint", *command)
            assert ran.exception is None or isinstance(ran.exception, GfsError | SystemExit), (
                command,
                ran.exception,
            )
