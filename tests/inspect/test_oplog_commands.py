"""`gfs oplog`: what it prints and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfs.errors import NotFound
from tests.core.master_records import create, rename
from tests.inspect.lived_master import LivedMaster
from tests.inspect.logs import flip, segments, some_log
from tests.inspect.shell import gfs


def test_a_sound_log_verifies_with_status_zero(tmp_path: Path) -> None:
    some_log(tmp_path, 20)
    ran = gfs("oplog", "verify", str(tmp_path))
    assert ran.exit_code == 0, ran.output
    assert "20 entries (2 to 21), 20 operations: sound" in ran.stdout


def test_damage_is_told_with_segment_and_byte_and_exits_with_7(tmp_path: Path) -> None:
    log = some_log(tmp_path, 20)
    victim = segments(log)[1]
    flip(victim, 70)
    ran = gfs("oplog", "verify", str(tmp_path))
    assert ran.exit_code == 7
    assert f"DAMAGE  {victim.name}  damaged record" in ran.stdout and "at byte" in ran.stdout
    assert "admin members readmit" in ran.stderr
    told = json.loads(gfs("-o", "json", "oplog", "verify", str(tmp_path)).stdout)
    assert told["summary"]["damage"] == len([f for f in told["findings"] if f["is_damage"]]) > 0
    assert gfs("oplog", "ls", str(tmp_path)).exit_code == 7
    assert gfs("oplog", "inspect", str(tmp_path)).exit_code == 7
    assert gfs("oplog", "stats", str(tmp_path)).exit_code == 7


def test_a_torn_tail_is_a_note_and_no_failure(tmp_path: Path) -> None:
    log = some_log(tmp_path, 4, close=False)
    newest = segments(log)[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    ran = gfs("oplog", "verify", str(tmp_path))
    assert ran.exit_code == 0 and "note  " in ran.stdout and "torn tail" in ran.stdout


def test_each_record_is_a_line_in_words_and_in_json(tmp_path: Path) -> None:
    some_log(tmp_path, 5)
    text = gfs("oplog", "inspect", "--from", "3", "--to", "4", str(tmp_path)).stdout.splitlines()
    assert len(text) == 2 and "create /f1 with 3 replicas (request 7/1)" in text[0]
    lines = gfs("-o", "jsonl", "oplog", "inspect", "--path", "/f2", str(tmp_path)).stdout.splitlines()
    (found,) = map(json.loads, lines)
    assert found["index"] == 4 and found["record"]["operation"] == {
        "type": "create",
        "path": "/f2",
        "replication_goal": 3,
    }
    assert len(json.loads(gfs("-o", "json", "oplog", "inspect", str(tmp_path)).stdout)) > 5


def test_segments_tail_and_statistics_are_shown(tmp_path: Path) -> None:
    log = some_log(tmp_path, 20)
    assert len(gfs("oplog", "ls", str(tmp_path)).stdout.splitlines()) == len(segments(log)) + 1
    assert "stopped in order" in gfs("oplog", "tail", "-n", "3", str(tmp_path)).stdout.splitlines()[-1]
    text = gfs("oplog", "stats", str(tmp_path)).stdout
    assert "20 entries, 20 operations" in text and "create" in text


def test_blame_and_replay_work_on_a_masters_directory(tmp_path: Path) -> None:
    master = LivedMaster(tmp_path / "m1")
    master.do(create("/a"))
    master.do(rename("/a", "/b"))
    master.close()
    ran = gfs("oplog", "blame", str(tmp_path / "m1"), "/b")
    assert ran.exit_code == 0 and "rename /a to /b" in ran.stdout
    told = json.loads(gfs("-o", "json", "oplog", "blame", str(tmp_path / "m1"), "/b").stdout)
    assert [line["effect"] for line in told["lines"]] == ["made", "moved"]
    out = tmp_path / "at2.lmdb"
    ran = gfs("oplog", "replay", str(tmp_path / "m1"), "--to", "2", "--out", str(out))
    assert ran.exit_code == 0 and "the state at entry 2 of term 1" in ran.stdout
    assert out.exists() and (tmp_path / "at2.manifest").exists()


@pytest.mark.parametrize("group", ["oplog", "chunk"])
def test_the_schema_names_what_each_command_answers(group: str) -> None:
    told = json.loads(gfs(group, "schema").stdout)
    assert {"verify -o json", "verify -o jsonl"} < set(told["commands"])
    for reference in told["commands"].values():
        assert reference["$ref"].removeprefix("#/$defs/") in told["$defs"]


def test_a_directory_without_a_log_is_not_found(tmp_path: Path) -> None:
    assert isinstance(gfs("oplog", "verify", str(tmp_path)).exception, NotFound)
