"""RiskJudge: the class a chunk is in, from what its members say (GFS §4.3)."""

from __future__ import annotations

import pytest

from gfs.master.core.chunk_risk import RiskJudge
from gfs.master.core.locations import Locations
from gfs.master.core.records import ChunkRecord
from gfs.messages.heartbeat import Heartbeat, HeldChunk
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ChunkVersion, ClusterId, ServerId

HANDLE = ChunkHandle(7)


def chunk(*members: str, held: int = 2) -> ChunkRecord:
    return ChunkRecord(
        handle=HANDLE,
        version=ChunkVersion(3),
        replicas=tuple(ServerId(member) for member in members),
        primary=ServerId(members[0]),
        held_version=ChunkVersion(held),
        sealed=False,
        length_bytes=-1,
        references=1,
    )


def cluster(**racks: str) -> Locations:
    """Servers that hold version 3; those whose name begins with x say their bytes are bad, o hold version 1,
    n hold nothing, d are dead by the time of judgement."""
    locations = Locations(dead_seconds=5.0)
    for name, rack in racks.items():
        version = ChunkVersion(1 if name.startswith("o") else 3)
        held = [] if name.startswith("n") else [HeldChunk(HANDLE, version, 0)]
        beat = Heartbeat(
            server=ServerId(name),
            cluster=ClusterId("c"),
            incarnation="i",
            control=Address(f"{name}:1"),
            data=Address(f"{name}:2"),
            rack=rack,
            report_page=0,
            report_last=True,
            report=held,
            corrupt=[HANDLE] if name.startswith("x") else [],
        )
        locations.hear(beat, now=0.0 if name.startswith("d") else 10.0)
    return locations


@pytest.mark.parametrize(
    ("servers", "members", "goal", "risk"),
    [
        ("a b c", "a b c", 3, "ok"),
        ("a b c e", "a b c e", 3, "ok"),  # one too many is no risk
        ("a b c", "a b", 3, "short"),
        ("a b", "a b", 3, "ok"),  # no more servers than that
        ("a b c", "a", 3, "last_replica"),
        ("a", "a", 3, "last_replica"),  # true however small the cluster is
        ("a b", "a", 1, "ok"),  # one was all that was wanted
        ("x1 x2 d1", "x1 x2 d1", 3, "lost"),
        ("a x1 d1", "a x1 d1", 3, "last_replica"),
        ("a b x1", "a b x1", 3, "short"),
        ("a b o1", "a b o1", 3, "short"),
        ("a b n1", "a b n1", 3, "short"),
    ],
)
def test_the_risk_follows_from_the_good_replicas(servers: str, members: str, goal: int, risk: str) -> None:
    locations = cluster(**dict.fromkeys(servers.split(), ""))
    judged = RiskJudge(locations, now=12.0).judge(chunk(*members.split()), ChunkIndex(4), goal)
    assert (judged.risk, judged.index, judged.handle) == (risk, 4, HANDLE)
    assert set(judged.good) | set(judged.bad) == set(members.split())


def test_each_bad_member_is_told_with_what_is_wrong_with_it() -> None:
    locations = cluster(a="", x1="", o1="", n1="", d1="")
    judged = RiskJudge(locations, now=12.0).judge(
        chunk("a", "x1", "o1", "n1", "d1", "gone"), ChunkIndex(0), 3
    )
    assert judged.good == ["a"]
    assert judged.bad == {"x1": "damaged", "o1": "stale", "n1": "missing", "d1": "away", "gone": "away"}


def test_a_member_that_has_not_taken_the_newest_grant_yet_is_good() -> None:
    judged = RiskJudge(cluster(a="", o1=""), now=12.0).judge(chunk("a", "o1", held=1), ChunkIndex(0), 2)
    assert (judged.risk, judged.good) == ("ok", ["a", "o1"])


def test_good_replicas_in_one_rack_of_several_are_one_rack_from_loss() -> None:
    locations = cluster(a="r1", b="r1", c="r2", x2="r2")
    judge = RiskJudge(locations, now=12.0)
    assert judge.judge(chunk("a", "b"), ChunkIndex(0), 2).risk == "one_rack"
    assert judge.judge(chunk("a", "b", "x2"), ChunkIndex(0), 2).risk == "one_rack"
    assert judge.judge(chunk("a", "c"), ChunkIndex(0), 2).risk == "ok"
    assert judge.judge(chunk("a", "c"), ChunkIndex(0), 3).risk == "short"
    one_rack = RiskJudge(cluster(a="r1", b="r1"), now=12.0)
    assert one_rack.judge(chunk("a", "b"), ChunkIndex(0), 2).risk == "ok"  # there is no other
