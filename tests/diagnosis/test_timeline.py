"""The records of one request, from several programs, as one tree."""

from __future__ import annotations

from gfs.diagnosis.timeline import timeline
from gfs.messages.diagnosis import RpcRecord


def call(method: str, peer: str, at_ms: float, took_ms: float, **request: object) -> RpcRecord:
    return RpcRecord(
        at_us=1_000_000 + int(at_ms * 1000),
        method=method,
        trace="t",
        peer=peer,
        code="ok",
        seconds=took_ms / 1000,
        request=request,
    )


def shape(**logs: list[RpcRecord]) -> list[tuple[int, str, str]]:
    return [(step.depth, step.node, step.record.method) for step in timeline(logs)]


def test_a_call_stands_below_the_call_it_was_made_for() -> None:
    found = shape(
        m1=[call("acquire_lease", "client", 0, 50), call("stat", "client", 400, 1)],
        c1=[call("bump", "m1", 10, 5), call("write", "client", 100, 90)],
        c2=[call("bump", "m1", 11, 6), call("apply", "c1", 120, 30)],
    )
    assert found == [
        (0, "m1", "acquire_lease"),
        (1, "c1", "bump"),
        (1, "c2", "bump"),
        (0, "c1", "write"),
        (1, "c2", "apply"),
        (0, "m1", "stat"),
    ]


def test_hops_of_a_push_stand_below_each_other_although_addresses_say_nothing() -> None:
    chains: dict[str, list[str]] = {"c3": [], "c1": ["c2:1", "c3:1"], "c2": ["c3:1"]}
    logs = {
        node: [call("bulk_push", "127.0.0.1:4711", 1, 20 - len(chains[node]), push="p", chain=chain)]
        for node, chain in chains.items()
    }
    assert shape(**logs) == [(0, "c1", "bulk_push"), (1, "c2", "bulk_push"), (2, "c3", "bulk_push")]


def test_two_programs_that_call_each_other_and_clocks_that_differ_make_no_circle() -> None:
    found = shape(
        c1=[call("a", "c2", 0, 10), call("c", "c2", 1, 1)],
        c2=[call("b", "c1", 0, 10)],
    )
    assert len(found) == 3 and found[0][0] == 0


def test_a_caller_that_recorded_nothing_leaves_its_calls_at_the_top() -> None:
    assert shape(c1=[call("apply", "c9", 5, 1)]) == [(0, "c1", "apply")]
