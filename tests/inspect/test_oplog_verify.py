"""Verifying an operation log: every kind of damage is found and named, and none makes the tool crash."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from gfs.errors import NotFound
from gfs.inspect.oplog_lines import Tail, select_lines
from gfs.inspect.oplog_segments import LogWalk
from gfs.inspect.oplog_stats import count_log, segment_rows
from gfs.inspect.oplog_verify import LogFinding, LogVerifier
from gfs.inspect.oplog_words import operation_in_words, paths_of
from gfs.master.replication.group_commit import encode_entry
from gfs.master.replication.log_format import HEADER, LOG_FORMAT, MAGIC, Kind, Record
from gfs.vocabulary import LogIndex, Term
from tests.core.master_records import create, record, rename
from tests.core.test_master_golden import OPERATIONS
from tests.inspect.logs import entry, flip, payload, segments, some_log, start, vote, write_log, write_segment


def verify(directory: Path) -> list[LogFinding]:
    return list(LogVerifier(str(directory)).findings())


def damage(directory: Path) -> list[str]:
    return [finding.kind for finding in verify(directory) if finding.is_damage]


def test_a_sound_log_has_no_findings_and_is_counted(tmp_path: Path) -> None:
    log = some_log(tmp_path, 20)
    assert len(segments(log)) > 3
    verifier = LogVerifier(str(tmp_path))
    assert list(verifier.findings()) == []
    summary = verifier.summary
    assert (summary.entries, summary.first_index, summary.last_index) == (20, 2, 21)
    assert summary.records == 20 and summary.segments == len(segments(log))
    assert summary.bytes == sum(path.stat().st_size for path in segments(log))


def test_the_log_may_be_named_by_its_master_or_by_itself(tmp_path: Path) -> None:
    log = some_log(tmp_path)
    assert verify(tmp_path) == verify(log) == []
    with pytest.raises(NotFound):
        LogVerifier(str(tmp_path / "elsewhere"))


def test_a_flipped_bit_at_any_byte_of_an_older_segment_is_damage(tmp_path: Path) -> None:
    log = some_log(tmp_path, 6, segment_bytes=200)
    victim = segments(log)[0]
    chance = random.Random(7)
    for byte in range(victim.stat().st_size):
        bit = chance.randrange(8)
        flip(victim, byte, bit)
        found = damage(tmp_path)
        assert found, f"byte {byte}, bit {bit}"
        assert found[0] in ("damaged_header", "foreign_segment", "newer_format", "damaged_record")
        flip(victim, byte, bit)
    assert verify(tmp_path) == []


def test_a_flipped_bit_in_the_newest_segment_is_damage_where_it_was_synced_and_a_torn_tail_else(
    tmp_path: Path,
) -> None:
    log = some_log(tmp_path, 8, segment_bytes=2**20)
    (victim,) = segments(log)
    size = victim.stat().st_size
    kinds = []
    for byte in range(size):
        flip(victim, byte)
        found = verify(tmp_path)
        assert found, f"byte {byte}"
        kinds.append(found[0].is_damage)
        flip(victim, byte)
    tail = kinds.index(False)
    assert all(kinds[:tail]) and not any(kinds[tail:])
    assert size - tail < 40, "only the last record may pass for one that was being written"


def test_a_log_cut_at_any_byte_has_a_torn_tail_and_no_damage(tmp_path: Path) -> None:
    log = some_log(tmp_path, 5, close=False, segment_bytes=2**20)
    (victim,) = segments(log)
    content = victim.read_bytes()
    sound = [HEADER.size]
    for placed in LogWalk(str(log)).records():
        sound.append(placed.end)
    for length in range(1, len(content)):
        victim.write_bytes(content[:length])
        found = verify(tmp_path)
        assert [(finding.kind, finding.is_damage) for finding in found] == (
            [] if length in sound else [("torn_tail", False)]
        ), length


def test_a_truncated_older_segment_is_damage_and_the_entries_lost_with_it_are_named(tmp_path: Path) -> None:
    log = some_log(tmp_path, 12)
    victim = segments(log)[1]
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) - 5])
    found = verify(tmp_path)
    assert [finding.kind for finding in found] == ["damaged_record", "broken_continuation"]
    assert found[0].segment == victim.name and found[1].segment == segments(log)[2].name


def test_everything_behind_damage_is_looked_at_too(tmp_path: Path) -> None:
    log = some_log(tmp_path, 30, segment_bytes=1000)
    first, second = segments(log)[:2]
    flip(first, first.stat().st_size // 2)
    flip(second, second.stat().st_size // 2)
    found = [(finding.segment, finding.kind) for finding in verify(tmp_path)]
    assert (first.name, "damaged_record") in found and (second.name, "damaged_record") in found
    assert found.count((first.name, "index_gap")) == 1  # the hole is told once, not once an entry


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    log = some_log(tmp_path)
    segments(log)[1].unlink()
    found = verify(tmp_path)
    assert [finding.kind for finding in found] == ["missing_segment", "broken_continuation"]
    assert "segment 2 is missing" in found[0].what


def test_swapped_segments_are_told_by_their_own_numbers(tmp_path: Path) -> None:
    log = some_log(tmp_path)
    one, two = segments(log)[1:3]
    spare = tmp_path / "spare"
    one.rename(spare), two.rename(one), spare.rename(two)
    found = [finding for finding in verify(tmp_path) if finding.kind == "foreign_segment"]
    assert [finding.segment for finding in found] == [one.name, two.name]
    assert "segment 3 under the name of segment 2" in found[0].what


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    log = some_log(tmp_path)
    victim = segments(log)[-1]
    newer = HEADER.pack(MAGIC, LOG_FORMAT + 1, len(segments(log)))
    victim.write_bytes(newer + b"\x99" * 60)
    (found,) = verify(tmp_path)
    assert found.kind == "newer_format" and found.is_damage
    assert f"format {LOG_FORMAT + 1}" in found.what and f"reads format {LOG_FORMAT}" in found.what
    assert [row.state for row in segment_rows(str(tmp_path))][-1] == "newer"


UNKNOWN = encode_entry([msgspec.msgpack.encode({"at_ms": 1, "operation": {"type": "teleport"}})])
NEWER_FIELD = encode_entry(
    [msgspec.msgpack.encode({"at_ms": 1, "operation": {"type": "mkdir", "path": "/", "colour": 1}})]
)


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("no_start", [entry(2)]),
        ("broken_continuation", [start(), entry(2), start(2, 1)]),
        ("index_gap", [start(), entry(2), entry(4)]),
        ("index_gap", [start(), entry(3)]),
        ("index_repeated", [start(), entry(2), entry(2)]),
        ("term_falls", [start(), entry(2, 5), entry(3, 4)]),
        ("term_falls", [start(1, 3), entry(2, 2)]),
        ("vote_term_falls", [start(), vote(4, "m1"), vote(3, "m2")]),
        ("second_vote", [start(), vote(4, "m1"), vote(4, "m2")]),
        ("undecodable_vote", [start(), vote(4, b"\xff\xfe")]),
        ("unknown_truncation", [start(), entry(2), Record(Kind.TRUNCATE, LogIndex(7), Term(1), b"")]),
        ("undecodable_entry", [start(), entry(2, content=b"\x00Znonsense")]),
        ("undecodable_entry", [start(), entry(2, content=b"")]),
        ("undecodable_entry", [start(), entry(2, content=b"\x00B\xc1")]),
        ("undecodable_entry", [start(), entry(2, content=b"\x00Dxx")]),
        ("undecodable_entry", [start(), entry(2, content=encode_entry([b"\xc1"]))]),
        ("undecodable_entry", [start(), entry(2, content=encode_entry([b""]))]),
        ("undecodable_entry", [start(), entry(2, content=UNKNOWN)]),
        ("undecodable_entry", [start(), entry(2, content=NEWER_FIELD)]),
    ],
)
def test_records_that_contradict_each_other_are_named(
    tmp_path: Path, kind: str, records: list[Record]
) -> None:
    write_segment(tmp_path, 1, records)
    found = verify(tmp_path)
    assert [finding.kind for finding in found] == [kind], found
    assert found[0].is_damage and found[0].record > 0 and found[0].what
    assert list(select_lines(LogWalk(str(tmp_path))))  # and it can be looked at all the same
    count_log(str(tmp_path))


@pytest.mark.parametrize(
    "records",
    [
        [start(), vote(1, ""), vote(1, "m1"), entry(2), vote(2, "m2"), entry(3, 2)],
        [start(), entry(2), entry(3), Record(Kind.TRUNCATE, LogIndex(2), Term(1), b""), entry(3, 2)],
        [start(), entry(2), Record(Kind.RESET, LogIndex(90), Term(7), b""), entry(91, 7)],
        [start(50, 3), Record(Kind.TRUNCATE, LogIndex(40), Term(2), b""), entry(41, 4)],
        [start(), entry(2, content=b"\x01"), Record(Kind.CLOSED, LogIndex(0), Term(0), b""), entry(3)],
    ],
)
def test_what_an_ordinary_life_leaves_is_no_damage(tmp_path: Path, records: list[Record]) -> None:
    write_segment(tmp_path, 1, records)
    assert verify(tmp_path) == []


def test_a_segment_that_does_not_continue_the_one_before_is_named(tmp_path: Path) -> None:
    write_segment(tmp_path, 1, [start(), entry(2), entry(3)])
    write_segment(tmp_path, 2, [start(2, 1), entry(3)])
    assert damage(tmp_path) == ["broken_continuation"]


def test_a_stray_file_is_mentioned_and_is_no_damage(tmp_path: Path) -> None:
    log = some_log(tmp_path)
    (log / "notes.txt").write_text("who put this here?")
    (log / "identity.json").write_text("{}")
    assert [(found.kind, found.segment, found.is_damage) for found in verify(tmp_path)] == [
        ("stray_file", "notes.txt", False)
    ]


def test_random_rubbish_in_any_place_never_crashes_anything(tmp_path: Path) -> None:
    log = some_log(tmp_path, 12)
    paths = segments(log)
    originals = {path: path.read_bytes() for path in paths}
    for seed in range(150):
        chance = random.Random(seed)
        victim = chance.choice(paths)
        content = bytearray(originals[victim])
        first = chance.randrange(len(content))
        rubbish = chance.randbytes(chance.randrange(1, 60))
        content[first : first + len(rubbish)] = rubbish
        victim.write_bytes(bytes(content[: chance.randrange(first + 1, len(content) + 1)]))
        findings = verify(tmp_path)
        assert findings or victim.read_bytes() == originals[victim] or victim == paths[-1], seed
        list(segment_rows(str(tmp_path)))
        list(select_lines(LogWalk(str(tmp_path)), path="/"))
        Tail(str(tmp_path)).last_lines(5)
        count_log(str(tmp_path))
        victim.write_bytes(originals[victim])


def test_nothing_is_changed_by_looking(tmp_path: Path) -> None:
    log = some_log(tmp_path, 8, close=False)
    newest = segments(log)[-1]
    newest.write_bytes(newest.read_bytes()[:-3])  # a starting master would cut this
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in log.iterdir()}
    verify(tmp_path)
    list(segment_rows(str(tmp_path)))
    list(select_lines(LogWalk(str(tmp_path))))
    count_log(str(tmp_path))
    Tail(str(tmp_path)).last_lines(100)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in log.iterdir()} == before


def test_segments_are_listed_with_what_they_hold(tmp_path: Path) -> None:
    log = some_log(tmp_path, 12, close=False)
    rows = list(segment_rows(str(tmp_path)))
    assert sum(row.entries for row in rows) == 12
    assert [row.first_index for row in rows[1:]] == [row.last_index + 1 for row in rows[:-1]]
    assert {row.state for row in rows[:-1]} == {"continued"} and rows[-1].state == "open"
    newest = segments(log)[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    flip(segments(log)[0], 60)
    states = [row.state for row in segment_rows(str(tmp_path))]
    assert states[0] == "damaged" and states[-1] == "torn"


def test_lines_are_chosen_by_index_and_by_path(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        [
            payload(record(create("/a/one")), record(create("/b"))),
            payload(record(rename("/a", "/c"))),
            payload(record(create("/a-not-below"))),
            b"\x01",
        ],
    )

    def words(**chosen: object) -> list[str]:
        return [line.words for line in select_lines(LogWalk(str(tmp_path)), **chosen)]  # type: ignore[arg-type]

    assert [line.split()[0] for line in words(first=2, last=2)] == ["create", "create"]
    assert words(first=5) == ["a leader of term 1 begins"]
    assert words(path="/a/one") == ["create /a/one with 3 replicas", "rename /a to /c"]
    assert words(path="/a") == words(path="/a/one")
    assert any("stopped in order" in line for line in words())


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_told_in_words(name: str) -> None:
    words = operation_in_words(OPERATIONS[name])
    assert words and "\n" not in words and "Struct" not in words
    assert all(path in words for path in paths_of(OPERATIONS[name]))


def test_a_tail_shows_the_last_records_and_then_what_is_added(tmp_path: Path) -> None:
    log = some_log(tmp_path, 20, close=False)
    everything = Tail(str(tmp_path)).last_lines(1000)
    assert [line.index for line in everything if line.kind == "operation"] == list(range(2, 22))
    tail = Tail(str(tmp_path))
    assert tail.last_lines(7) == everything[-7:]
    assert list(tail.new_lines()) == []
    number = len(segments(log)) + 1
    path = write_segment(log, number, [start(21, 1), entry(22), entry(23)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])  # a batch half written
    assert [line.index for line in tail.new_lines() if line.kind == "operation"] == [22]
    path.write_bytes(whole)
    assert [line.index for line in tail.new_lines()] == [23]
    assert list(tail.new_lines()) == []


def test_operations_are_counted_by_kind_and_by_client(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        [
            payload(record(create("/a"), sequence=1, client=5, at_ms=1000), record(create("/b"), at_ms=3000)),
            payload(record(rename("/a", "/c"), sequence=2, client=5, at_ms=2000)),
            b"\x01",
        ],
    )
    found, walk = count_log(str(tmp_path))
    assert not walk.is_damaged
    assert {kind.kind: kind.count for kind in found.kinds} == {"create": 2, "rename": 1}
    assert [(client.client, client.count) for client in found.busiest_clients] == [("5", 2)]
    assert (found.entries, found.operations, found.elections, found.operations_of_no_client) == (3, 3, 1, 1)
    assert found.seconds == 2.0
