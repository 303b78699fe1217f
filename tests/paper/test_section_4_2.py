"""§4.2, replica placement: where new replicas go."""

from __future__ import annotations

from random import Random

from gfs.master.core.placement import RECENT_SLACK, Candidate, RecentCreations, choose_servers
from gfs.vocabulary import ServerId
from tests.paper.boxes import keeps

GIB = 2**30


def server(name: str, rack: str = "r", *, free: float = 0.5, recent: float = 0.0) -> Candidate:
    return Candidate(ServerId(name), rack, 100 * GIB, int(free * 100 * GIB), True, recent)


def chosen(servers: list[Candidate], count: int, seed: int) -> set[str]:
    return set(choose_servers(servers, count, excluded=(), chance=Random(seed)))


@keeps("placement")
def test_new_replicas_go_to_servers_with_below_average_disk_use() -> None:
    """Over time this equalises how full the disks are."""
    servers = [server("full", free=0.2), server("fuller", free=0.1), server("a"), server("b"), server("c")]
    for seed in range(20):
        assert chosen(servers, 3, seed) == {"a", "b", "c"}


@keeps("placement")
def test_recent_creations_on_one_server_are_limited() -> None:
    """A creation is cheap, but heavy writes follow it: an empty new server must not get them all."""
    recent = RecentCreations()
    names = [ServerId(name) for name in "abcd"]
    new = ServerId("new")
    for _ in range(200):
        servers = [server(name, free=0.5, recent=recent.count(name, now=0.0)) for name in names]
        servers.append(server(new, free=1.0, recent=recent.count(new, now=0.0)))
        recent.add(choose_servers(servers, 3, excluded=(), chance=Random(1)), now=0.0)
    counts = [recent.count(name, now=0.0) for name in (*names, new)]
    assert max(counts) - sum(counts) / len(counts) <= RECENT_SLACK + 1


@keeps("placement")
def test_replicas_of_a_chunk_are_spread_over_racks() -> None:
    """So some survive, and stay reachable, when a whole rack is damaged or off line."""
    servers = [
        server(f"{rack}{n}", rack, free=0.9 if rack == "a" else 0.2) for rack in "ab" for n in range(4)
    ]
    for seed in range(20):
        assert {name[0] for name in chosen(servers, 3, seed)} == {"a", "b"}
