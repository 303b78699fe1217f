"""Each checker holds for what a correct cluster would have shown, and notices each way of spoiling it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from gfs.verification.checkers.interface import Finding
from gfs.verification.checkers.registry import CHECKERS
from gfs.verification.history import Audit, Fault, History, Json, Operation, Outcome, Phase, Sighting

SECOND = 1_000_000_000
Spoil = Callable[[History], object]


def op(
    number: int,
    function: str,
    called: int,
    returned: int,
    result: Json = None,
    outcome: Outcome = "ok",
    error: str = "",
    process: int = 1,
    **arguments: Json,
) -> Operation:
    """Times in seconds."""
    times = called * SECOND, returned * SECOND
    return Operation(number, process, "w", function, *times, outcome, "", arguments, result, error)


def saw(at: float, node: str, what: str, **values: Json) -> Sighting:
    return Sighting(int(at * SECOND), node, what, values)


def audit(what: str, **values: Json) -> Audit:
    return Audit(1000 * SECOND, "w", what, values)


def finding(checker: str, history: History) -> Finding:
    return CHECKERS[checker].check(history).finding


# --- what a correct cluster shows ---------------------------------------------------------------


def appended() -> History:
    def append(number: int, offset: int, **more: Json) -> Operation:
        about = {"path": "/log", "id": f"r{number}", "length": 10, "crc": number, "exact": True}
        return op(number, "append", number * 10, number * 10 + 5, {"offset": offset}, **(about | more))

    records = [[0, "r1", 10, 1], [10, "r2", 10, 2], [20, "r4", 10, 4]]
    history = History([append(1, 0), append(2, 10)])
    history.add(
        op(3, "append", 30, 35, None, "fail", "no_quorum", path="/log", id="r3", length=10, crc=3, exact=True)
    )
    history.add(
        op(4, "append", 40, 45, None, "info", path="/log", id="r4", length=10, crc=4, exact=True, process=2)
    )
    history.add(
        op(
            5,
            "read_records",
            50,
            51,
            {"records": [[r[0], r[1]] for r in records], "end": 30},
            path="/log",
            offset=0,
        )
    )
    for server in ("c1", "c2", "c3"):
        history.add(
            audit(
                "replica_records",
                path="/log",
                index=0,
                handle=7,
                version=1,
                server=server,
                length=30,
                records=copy.deepcopy(records),
                strange=[],
            )
        )
    history.add(audit("file_records", path="/log", records=copy.deepcopy(records)))
    return history


def written() -> History:
    """Writes 1 and 2 one after the other, 3 and 4 at the same time, all over each other."""
    history = History(
        [
            op(1, "write", 10, 15, path="/f", offset=0, length=100, tag=1, piece=1000),
            op(2, "write", 20, 25, path="/f", offset=50, length=100, tag=2, piece=1000),
            op(3, "write", 30, 40, path="/f", offset=100, length=100, tag=3, piece=1000, process=2),
            op(4, "write", 31, 41, path="/f", offset=120, length=100, tag=4, piece=1000, process=3),
            op(5, "read", 27, 29, {"spans": [[0, 50, 1], [50, 100, 2]]}, path="/f", offset=0, length=150),
        ]
    )
    spans = [[0, 50, 1], [50, 50, 2], [100, 20, 3], [120, 100, 4]]
    for server in ("c1", "c2", "c3"):
        history.add(
            audit(
                "replica_spans",
                path="/f",
                index=0,
                handle=7,
                version=3,
                server=server,
                length=220,
                crc=99,
                spans=copy.deepcopy(spans),
            )
        )
    history.add(audit("file_spans", path="/f", spans=copy.deepcopy(spans)))
    return history


def published() -> History:
    history = History(
        [
            op(1, "publish", 10, 15, path="/f", length=5, crc=1),
            op(2, "publish", 20, 25, path="/f", length=6, crc=2),
            op(3, "read_file", 30, 31, {"length": 6, "crc": 2}, path="/f"),
        ]
    )
    for number, function, path in ((4, "create", "/p/a"), (5, "create", "/p/b"), (6, "delete", "/p/b")):
        one = op(number, function, number * 10, number * 10 + 5, path=path)
        one.partition = "/p"
        history.add(one)
    history.add(audit("file", path="/f", exists=True, length=6, crc=2))
    history.add(audit("tree", partition="/p", entries=[["/p", "directory", 2], ["/p/a", "file", 3]]))
    return history


def copied() -> History:
    """Two files count together; the snapshot's call lasts from 20 s to 30 s."""
    history = History()
    for value in range(1, 5):
        for file in (1, 2):
            at = value * 10 + file
            history.add(op(at, "count", at, at + 1, path=f"/t/{file}", value=value, process=file))
    history.add(op(100, "snapshot", 20, 30, source="/t", target="/s", process=3))
    history.add(op(101, "copy", 35, 36, {"files": {"1": 2, "2": 2}}, target="/s", process=3))
    history.add(audit("copy", target="/s", files={"1": 2, "2": 2}))
    return history


def leased() -> History:
    history = History(
        [saw(0, "m1", "role", role="leader", term=1), saw(1, "m2", "role", role="follower", term=1)]
    )
    for version, primary, begin in ((1, "c1", 10), (2, "c2", 50)):
        about = {"chunk": 7, "version": version}
        for node in ("c1", "c2"):
            history.add(saw(begin, node, "raised", **about, primary=primary))
        history.add(saw(begin + 1, "m1", "granted", **about, primary=primary, replicas=["c1", "c2"]))
        for serial in (1, 2, 3):
            at, secondary = begin + 3 + serial, "c2" if primary == "c1" else "c1"
            until_ns = (begin + 30) * SECOND
            history.add(saw(at, primary, "ordered", **about, serial=serial, until_ns=until_ns))
            for node in ("c1", "c2"):
                history.add(saw(at + 0.5, node, "applied", **about, serial=serial))
            history.add(
                saw(
                    at + 0.6,
                    secondary,
                    "answered",
                    **about,
                    serial=serial,
                    primary=primary,
                    kind="write",
                    offset=serial * 10,
                    length=10,
                )
            )
            history.add(saw(at + 0.7, primary, "acknowledged", **about, serial=serial, replicas=["c1", "c2"]))
    return history


def deleted() -> History:
    return History(
        [
            op(1, "delete", 10, 11, path="/a", retention_seconds=60),
            op(2, "undelete", 20, 21, path="/a"),
            op(3, "delete", 30, 31, path="/b", retention_seconds=60),
            op(4, "purge", 32, 33, path="/b"),
            op(5, "undelete", 40, 41, None, "fail", "not_found", path="/b"),
            saw(5, "m1", "granted", chunk=7, version=4, primary="c1", replicas=["c1", "c2"]),
            saw(50, "c3", "deleted", chunk=7, version=4),
            saw(51, "c1", "deleted", chunk=7, version=3),
            audit("live_chunks", chunks=[[7, 4]]),
            audit("orphans", server="c1", chunks=[]),
            audit("presence", path="/a", expected="there", exists=True),
        ]
    )


def replicated() -> History:
    history = History(
        saw(at, node, "state", index=index, digest=f"d{index}")
        for at, node, index in ((1, "m1", 10), (2, "m2", 10), (3, "m3", 10), (4, "m1", 20), (5, "m2", 20))
    )
    history.add(audit("replayed", node="m1", index=20, digest="d20", from_index=5))
    history.add(audit("rows", node="m1", rows="sound"))
    masters = [["m1", "equal", "d30"], ["m2", "equal", "d30"], ["m3", "behind", ""]]
    history.add(audit("digests", index=30, digest="d30", agreed=2, voters=3, split=False, masters=masters))
    return history


def served() -> History:
    history = History([Phase(0, "calm"), Phase(20 * SECOND, "faults"), Phase(100 * SECOND, "audit")])
    history.add(Fault("cut", 20 * SECOND, 30 * SECOND, ["m1"]))
    history.operations = [
        op(at, "append", at, at + 1, {"offset": at}, "info" if 20 <= at < 30 else "ok") for at in range(1, 99)
    ]
    history.add(audit("deadline", seconds=5))
    return history


def whole() -> History:
    return History(
        [
            audit("fsck", path="/", files=1, chunks=1, counts={}, at_risk=[], waited_seconds=3.0),
            audit(
                "verified",
                path="/f",
                index=0,
                handle=7,
                version=3,
                replicas=["c1", "c2", "c3"],
                bad_blocks={},
                unread={},
                differing=[],
            ),
            audit("leftovers", node="c1", files=[]),
        ]
    )


CORRECT: dict[str, Callable[[], History]] = {
    "append": appended,
    "regions": written,
    "durability": published,
    "snapshot": copied,
    "leases": leased,
    "garbage": deleted,
    "replay": replicated,
    "availability": served,
    "fsck": whole,
}


@pytest.mark.parametrize("checker", CORRECT)
def test_what_a_correct_cluster_shows_is_held(checker: str) -> None:
    verdict = CHECKERS[checker].check(CORRECT[checker]())
    assert verdict.finding == "held", verdict
    assert verdict.judged > 0


@pytest.mark.parametrize("make", [appended, written, published])
def test_reads_of_a_correct_cluster_are_not_stale(make: Callable[[], History]) -> None:
    verdict = CHECKERS["stale_reads"].check(make())
    assert verdict.finding == "held", verdict


@pytest.mark.parametrize("checker", CHECKERS)
def test_an_empty_history_is_idle_and_never_held(checker: str) -> None:
    assert finding(checker, History()) == "idle"


def test_what_a_rename_replaced_may_be_given_back_besides_what_was_deleted() -> None:
    history = History()
    replace = {"source": "/p/b", "destination": "/p/a", "replace": True}
    for number, function, arguments in (
        (1, "delete", {"path": "/p/a"}),
        (2, "undelete", {"path": "/p/a"}),
        (3, "rename", replace),
        (4, "rename", {"source": "/p/a", "destination": "/p/c", "replace": False}),
        (5, "undelete", {"path": "/p/a"}),
    ):
        one = op(number, function, number * 10, number * 10 + 5, **arguments)
        one.partition = "/p"
        history.add(one)
    assert finding("garbage", history) == "idle"


# --- one thing spoilt ---------------------------------------------------------------------------


def result(number: int, value: Json) -> Spoil:
    def spoil(history: History) -> None:
        next(o for o in history.operations if o.number == number).result = value

    return spoil


def refused(number: int) -> Spoil:
    def spoil(history: History) -> None:
        one = next(o for o in history.operations if o.number == number)
        one.outcome, one.error = "fail", "no_quorum"

    return spoil


def at_audit(position: int, **values: Json) -> Spoil:
    return lambda history: history.audits[position].values.update(values)


def adding(record: Sighting | Audit | Operation) -> Spoil:
    return lambda history: history.add(record)


CHUNK7 = {"chunk": 7, "version": 2}

SPOILT: list[tuple[str, str, Callable[[], History], Spoil]] = [
    ("append", "a replica lacks a record", appended, lambda h: h.audits[1].values["records"].pop(1)),
    ("append", "a reader lacks a record", appended, lambda h: h.audits[3].values["records"].pop(0)),
    (
        "append",
        "a record lies elsewhere",
        appended,
        lambda h: h.audits[2].values["records"][1].__setitem__(0, 11),
    ),
    (
        "append",
        "a refused record is there",
        appended,
        lambda h: h.audits[0].values["records"].append([30, "r3", 10, 3]),
    ),
    (
        "append",
        "a record of nobody",
        appended,
        lambda h: h.audits[0].values["records"].append([30, "r9", 10, 3]),
    ),
    ("append", "other bytes", appended, lambda h: h.audits[0].values["records"][0].__setitem__(3, 77)),
    ("append", "a record twice", appended, lambda h: h.audits[0].values["records"].append([30, "r1", 10, 1])),
    ("append", "offsets go back", appended, result(2, {"offset": 0})),
    ("append", "no replica of its chunk", appended, result(2, {"offset": 2**26})),
    ("stale_reads", "a record not found", appended, result(5, {"records": [[0, "r1"]], "end": 10})),
    (
        "stale_reads",
        "a record found that was refused",
        appended,
        result(5, {"records": [[0, "r1"], [10, "r2"], [30, "r3"]], "end": 40}),
    ),
    ("regions", "replicas differ", written, at_audit(1, spans=[[0, 50, 1], [50, 70, 2], [120, 100, 4]])),
    ("regions", "sums differ", written, at_audit(1, crc=98)),
    ("regions", "versions differ", written, at_audit(1, version=2)),
    (
        "regions",
        "a write lost",
        written,
        at_audit(3, spans=[[0, 50, 0], [50, 50, 2], [100, 20, 3], [120, 100, 4]]),
    ),
    (
        "regions",
        "bytes of nobody",
        written,
        at_audit(3, spans=[[0, 50, 1], [50, 50, 2], [100, 20, -1], [120, 100, 4]]),
    ),
    (
        "regions",
        "an older write shows",
        written,
        at_audit(3, spans=[[0, 100, 1], [100, 20, 3], [120, 100, 4]]),
    ),
    (
        "regions",
        "bytes in the wrong place",
        written,
        at_audit(3, spans=[[0, 50, 1], [50, 70, 2], [120, 50, 4], [170, 50, 2]]),
    ),
    (
        "regions",
        "mixed within pieces",
        written,
        at_audit(3, spans=[[0, 50, 1], [50, 50, 2], [100, 40, 3], [140, 20, 4], [160, 40, 3], [200, 20, 4]]),
    ),
    ("regions", "a refused write shows", written, refused(4)),
    ("regions", "the file is short", written, at_audit(3, spans=[[0, 50, 1], [50, 50, 2]])),
    ("stale_reads", "an older write is read", written, result(5, {"spans": [[0, 100, 1], [100, 50, 2]]})),
    ("stale_reads", "nothing is read", written, result(5, {"spans": []})),
    (
        "stale_reads",
        "a later write is read",
        written,
        result(5, {"spans": [[0, 50, 1], [50, 70, 2], [120, 30, 4]]}),
    ),
    ("stale_reads", "bytes of nobody are read", written, result(5, {"spans": [[0, 50, -1], [50, 100, 2]]})),
    ("stale_reads", "an older file is read", published, result(3, {"length": 5, "crc": 1})),
    ("stale_reads", "a file of nobody is read", published, result(3, {"length": 5, "crc": 9})),
    ("durability", "a published file is gone", published, at_audit(0, exists=False)),
    ("durability", "it is an older one", published, at_audit(0, length=5, crc=1)),
    ("durability", "it cannot be read", published, at_audit(0, error="data_unavailable")),
    ("durability", "a created file is gone", published, lambda h: h.audits[1].values["entries"].pop()),
    (
        "durability",
        "a deleted file is there",
        published,
        lambda h: h.audits[1].values["entries"].append(["/p/b", "file", 4]),
    ),
    (
        "durability",
        "a file nobody made",
        published,
        lambda h: h.audits[1].values["entries"].append(["/p/c", "file", 4]),
    ),
    (
        "snapshot",
        "a file of another moment",
        copied,
        lambda h: (result(101, {"files": {"1": 4, "2": 1}})(h), h.audits.clear()),
    ),
    (
        "snapshot",
        "an acknowledged value missing",
        copied,
        lambda h: (result(101, {"files": {"1": 0, "2": 0}})(h), h.audits.clear()),
    ),
    (
        "snapshot",
        "a later value shows",
        copied,
        lambda h: (result(101, {"files": {"1": 3, "2": 3}})(h), h.audits.clear()),
    ),
    (
        "snapshot",
        "values missing between",
        copied,
        lambda h: (result(101, {"files": {"1": -1, "2": 2}})(h), h.audits.clear()),
    ),
    ("snapshot", "the copy changes", copied, at_audit(0, files={"1": 3, "2": 2})),
    ("leases", "two leaders in a term", leased, adding(saw(5, "m2", "role", role="leader", term=1))),
    (
        "leases",
        "two primaries of a version",
        leased,
        adding(saw(56, "m1", "granted", **CHUNK7, primary="c1", replicas=[])),
    ),
    (
        "leases",
        "an older version granted",
        leased,
        adding(saw(90, "m1", "granted", chunk=7, version=1, primary="c1", replicas=[])),
    ),
    ("leases", "two order", leased, adding(saw(58, "c1", "ordered", **CHUNK7, serial=4))),
    ("leases", "a serial left out", leased, adding(saw(58, "c2", "ordered", **CHUNK7, serial=5))),
    (
        "leases",
        "order after the lease",
        leased,
        adding(saw(90, "c2", "ordered", **CHUNK7, serial=4, until_ns=80 * SECOND)),
    ),
    (
        "leases",
        "acknowledged before the last replica",
        leased,
        lambda h: h.sightings.remove(saw(56.5, "c1", "applied", **CHUNK7, serial=3)),
    ),
    (
        "leases",
        "acknowledged for a smaller set",
        leased,
        adding(saw(58, "c2", "acknowledged", **CHUNK7, serial=3, replicas=["c2"])),
    ),
    ("leases", "a gap applied over", leased, adding(saw(58, "c1", "applied", **CHUNK7, serial=5))),
    (
        "leases",
        "applied under an old version",
        leased,
        adding(saw(58, "c1", "applied", chunk=7, version=1, serial=4)),
    ),
    (
        "leases",
        "another mutation of the serial",
        leased,
        adding(saw(58, "c1", "answered", **CHUNK7, serial=3, primary="c2", kind="write", offset=0, length=1)),
    ),
    ("leases", "another primary obeyed", leased, adding(saw(58, "c1", "raised", **CHUNK7, primary="c3"))),
    (
        "garbage",
        "not given back in time",
        deleted,
        lambda h: (
            setattr(h.operations[1], "outcome", "fail"),
            setattr(h.operations[1], "error", "not_found"),
        ),
    ),
    (
        "garbage",
        "given back after a purge",
        deleted,
        lambda h: (setattr(h.operations[4], "outcome", "ok"), setattr(h.operations[4], "error", "")),
    ),
    ("garbage", "a live replica deleted", deleted, adding(saw(60, "c2", "deleted", chunk=7, version=4))),
    ("garbage", "orphans left", deleted, at_audit(1, chunks=[[9, 1]])),
    ("garbage", "a file gone", deleted, at_audit(2, exists=False)),
    ("replay", "states differ", replicated, adding(saw(9, "m3", "state", index=20, digest="other"))),
    ("replay", "the replayed state differs", replicated, at_audit(0, digest="other")),
    ("replay", "rows are not the digest's", replicated, at_audit(1, rows="unsound")),
    ("replay", "a master is another", replicated, at_audit(2, masters=[["m2", "differs", "x"]])),
    (
        "availability",
        "no return after a heal",
        served,
        lambda h: setattr(
            h,
            "operations",
            [
                o
                for o in h.operations
                if o.called_ns < 29 * SECOND
                or o.called_ns > 90 * SECOND
                or setattr(o, "outcome", "info") is None
            ],
        ),
    ),
    ("availability", "a call hangs", served, adding(op(200, "append", 40, 80, {"offset": 1}))),
    ("fsck", "chunks at risk", whole, at_audit(0, at_risk=[["/f", "low"]])),
    ("fsck", "damage", whole, at_audit(1, bad_blocks={"c1": [3]})),
    ("fsck", "unread", whole, at_audit(1, unread={"c1": "not_found"})),
    ("fsck", "replicas differ", whole, at_audit(1, differing=["c2"])),
    ("fsck", "one server twice", whole, at_audit(1, replicas=["c1", "c1"])),
    ("fsck", "no replica", whole, at_audit(1, replicas=[])),
    ("fsck", "rests", whole, at_audit(2, files=["x.tmp"])),
]


@pytest.mark.parametrize(
    ("checker", "how", "make", "spoil"), SPOILT, ids=[f"{c}: {h}" for c, h, _, _ in SPOILT]
)
def test_one_thing_spoilt_is_noticed(
    checker: str, how: str, make: Callable[[], History], spoil: Spoil
) -> None:
    history = make()
    spoil(history)
    verdict = CHECKERS[checker].check(history)
    assert verdict.finding == "violated", (how, verdict)
    assert all(violation.says for violation in verdict.violations)
