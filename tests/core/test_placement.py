"""Placement: disk use, recent creations, racks (GFS §4.2)."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gfs.master.core.placement import (
    PLACEMENT_FREE_BYTES_MIN,
    RECENT_SECONDS,
    Candidate,
    RecentCreations,
    choose_primary,
    choose_servers,
    explain,
    order_replicas,
)
from gfs.vocabulary import ServerId
from tests.paper.boxes import keeps

GIB = 2**30


def server(
    name: str, rack: str = "", free: float = 0.5, alive: bool = True, recent: float = 0.0
) -> Candidate:
    return Candidate(ServerId(name), rack, 100 * GIB, int(free * 100 * GIB), alive, recent)


@keeps("placement")
def test_replicas_are_spread_over_racks_before_anything_else() -> None:
    candidates = [
        server("a1", "a", 0.9),
        server("a2", "a", 0.9),
        server("b1", "b", 0.2),
        server("c1", "c", 0.1),
    ]
    for seed in range(20):
        chosen = choose_servers(candidates, 3, excluded=(), chance=Random(seed))
        assert {name[0] for name in chosen} == {"a", "b", "c"}


@keeps("placement")
def test_servers_fuller_than_average_are_left_alone_while_others_can() -> None:
    candidates = [server("full", free=0.1), server("x"), server("y"), server("z")]
    for seed in range(20):
        assert "full" not in choose_servers(candidates, 3, excluded=(), chance=Random(seed))
    assert "full" in choose_servers(candidates, 4, excluded=(), chance=Random(1))


@keeps("placement")
def test_new_empty_server_is_not_flooded_with_creations() -> None:
    candidates = [server("new", free=1.0, recent=40.0), server("x"), server("y"), server("z")]
    assert "new" not in choose_servers(candidates, 3, excluded=(), chance=Random(1))


def test_dead_full_and_excluded_servers_are_never_chosen() -> None:
    candidates = [
        server("dead", alive=False),
        Candidate(ServerId("packed"), "", 100 * GIB, PLACEMENT_FREE_BYTES_MIN - 1, True, 0.0),
        server("suspect"),
        server("good"),
    ]
    assert choose_servers(candidates, 3, excluded={ServerId("suspect")}, chance=Random(1)) == ("good",)


def test_explain_names_the_reason_for_each_server() -> None:
    candidates = [
        server("dead", alive=False),
        server("busy", recent=30.0),
        server("full", free=0.05),
        server("suspect"),
        *(server(f"good{n}") for n in range(6)),
    ]
    verdicts = explain(candidates, excluded={ServerId("suspect")})
    assert "no heartbeat" in verdicts[ServerId("dead")]
    assert "30 recent creations" in verdicts[ServerId("busy")]
    assert "95% full" in verdicts[ServerId("full")]
    assert "failed" in verdicts[ServerId("suspect")]
    assert verdicts[ServerId("good0")] == "eligible"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1), st.booleans(), st.floats(0, 20)), max_size=8),
    st.integers(1, 5),
    st.integers(0, 1000),
)
def test_choice_is_distinct_usable_complete_and_repeatable(
    rows: list[tuple[str, float, bool, float]], count: int, seed: int
) -> None:
    candidates = [server(f"s{n}", *row) for n, row in enumerate(rows)]
    chosen = choose_servers(candidates, count, excluded=(), chance=Random(seed))
    usable = {c.id for c in candidates if c.alive and c.disk_free_bytes >= PLACEMENT_FREE_BYTES_MIN}
    assert len(set(chosen)) == len(chosen) == min(count, len(usable))
    assert set(chosen) <= usable
    assert chosen == choose_servers(candidates, count, excluded=(), chance=Random(seed))


def test_creations_are_evenly_spread_over_equal_servers() -> None:
    recent, chance = RecentCreations(), Random(7)
    counts = dict.fromkeys((ServerId(f"s{n}") for n in range(5)), 0)
    for _ in range(100):
        candidates = [server(name, recent=recent.count(name, now=1.0)) for name in counts]
        chosen = choose_servers(candidates, 3, excluded=(), chance=chance)
        recent.add(chosen, now=1.0)
        for name in chosen:
            counts[name] += 1
    assert max(counts.values()) - min(counts.values()) <= 1


def test_recent_creations_fade() -> None:
    recent = RecentCreations()
    recent.add([ServerId("a")], now=0.0)
    assert recent.count(ServerId("a"), now=0.0) == 1.0
    assert recent.count(ServerId("a"), now=10 * RECENT_SECONDS) < 0.001


def test_primary_is_the_replica_with_fewest_leases() -> None:
    a, b = ServerId("a"), ServerId("b")
    assert choose_primary([a, b], {a: 3, b: 1}, chance=Random(1)) == b
    assert {choose_primary([a, b], {}, chance=Random(seed)) for seed in range(20)} == {a, b}


@keeps("data-chain")
def test_replicas_are_ordered_so_that_a_chain_crosses_racks_least() -> None:
    names = [ServerId(n) for n in ("a", "b", "c", "d", "e")]
    racks = dict(zip(names, ("r1", "r2", "r1", "r3", "r2"), strict=True))
    assert order_replicas(names, ServerId("b"), racks) == ["b", "e", "a", "c", "d"]
