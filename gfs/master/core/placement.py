"""Which chunk servers get the replicas of a new chunk, and which is primary (GFS §4.2). Decisions only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Protocol

from gfs.vocabulary import CHUNK_BYTES, MIB, ServerId

# A server below this cannot take a whole chunk and still have room to finish those it has begun.
PLACEMENT_FREE_BYTES_MIN = 2 * CHUNK_BYTES
RECENT_SECONDS = 30.0  # a creation's weight falls to 1/e in this time: heavy writes follow creations (§4.2)
RECENT_SLACK = 4.0  # creations a server may be ahead of the average before it is passed over
FULLNESS_SLACK = 0.05  # fraction of a disk above the average that still counts as average


class Chance(Protocol):
    """A seeded source of chance; random.Random is one."""

    def random(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk server as placement sees it. `recent` is a decayed count of replicas lately placed on it."""

    id: ServerId
    rack: str
    disk_total_bytes: int
    disk_free_bytes: int
    alive: bool
    recent: float
    leaving: bool = False  # an operator drains it

    @property
    def fullness(self) -> float:
        if self.disk_total_bytes <= 0:
            return 0.0
        return 1.0 - self.disk_free_bytes / self.disk_total_bytes


class RecentCreations:
    """A decayed count per server of what was lately placed there. Invariant: counts are >= 0."""

    def __init__(self) -> None:
        self._counts: dict[ServerId, tuple[float, float]] = {}

    def add(self, servers: Collection[ServerId], *, now: float) -> None:
        for server in servers:
            self._counts[server] = (self.count(server, now=now) + 1.0, now)

    def count(self, server: ServerId, *, now: float) -> float:
        count, at = self._counts.get(server, (0.0, now))
        return count * exp(-max(now - at, 0.0) / RECENT_SECONDS)


def choose_servers(
    candidates: Sequence[Candidate],
    count: int,
    *,
    excluded: Collection[ServerId],
    chance: Chance,
    beside: Sequence[str] = (),
) -> tuple[ServerId, ...]:
    """Choose up to `count` servers for replicas of a chunk; fewer when there are no more.

    `beside` names the rack of each replica that the chunk has already, for those in `excluded` that hold one.
    Spread over racks comes first, then the limit on recent creations, then below-average disk use;
    among equals the one with fewest recent creations, then chance. Preferences never leave a replica
    out: a server over a limit is taken when no other is left. The order of `candidates` must be fixed
    for the result to be; chance is consulted once a usable candidate.
    Source: GFS §4.2.
    """
    assert count > 0
    usable = [c for c in candidates if _why_not(c, excluded) is None]
    averages = _Averages(usable)
    draws = {candidate.id: chance.random() for candidate in usable}
    chosen: list[Candidate] = []
    while usable and len(chosen) < count:
        racks = [*beside, *(candidate.rack for candidate in chosen)]
        best = min(
            usable,
            key=lambda c: (
                racks.count(c.rack),
                averages.creates_too_much(c),
                averages.is_too_full(c),
                c.recent,
                draws[c.id],
            ),
        )
        chosen.append(best)
        usable.remove(best)
    return tuple(candidate.id for candidate in chosen)


def choose_primary(
    servers: Sequence[ServerId], leases_held: Mapping[ServerId, int], *, chance: Chance
) -> ServerId:
    """The server with the fewest leases orders the mutations; chance decides among equals."""
    assert servers
    draws = [chance.random() for _ in servers]
    return min(zip(servers, draws, strict=True), key=lambda pair: (leases_held.get(pair[0], 0), pair[1]))[0]


def order_replicas(
    servers: Sequence[ServerId], primary: ServerId, racks: dict[ServerId, str]
) -> list[ServerId]:
    """Primary first, then its rack, then rack by rack: a chain in this order crosses racks least (§3.2)."""
    assert primary in servers
    home = racks.get(primary, "")
    return sorted(
        servers, key=lambda s: (s != primary, racks.get(s, "") != home, racks.get(s, ""), servers.index(s))
    )


def lacks_room(candidate: Candidate) -> bool:
    """True when its disk is too full for a new chunk."""
    return candidate.disk_free_bytes < PLACEMENT_FREE_BYTES_MIN


def usable_count(candidates: Sequence[Candidate]) -> int:
    """How many servers could take a replica of a new chunk now."""
    return sum(_why_not(candidate, ()) is None for candidate in candidates)


def explain(candidates: Sequence[Candidate], *, excluded: Collection[ServerId]) -> dict[ServerId, str]:
    """Say for each server, to a person, what speaks for or against it now."""
    usable = [c for c in candidates if _why_not(c, excluded) is None]
    averages = _Averages(usable)
    verdicts: dict[ServerId, str] = {}
    for candidate in candidates:
        reason = _why_not(candidate, excluded)
        if reason is None and averages.creates_too_much(candidate):
            reason = (
                f"passed over when others can: {candidate.recent:.0f} recent creations, "
                f"average {averages.recent:.0f}"
            )
        elif reason is None and averages.is_too_full(candidate):
            reason = (
                f"passed over when others can: {candidate.fullness:.0%} full, average {averages.fullness:.0%}"
            )
        verdicts[candidate.id] = reason or "eligible"
    return verdicts


class _Averages:
    def __init__(self, usable: Sequence[Candidate]) -> None:
        servers = max(len(usable), 1)
        self.recent = sum(c.recent for c in usable) / servers
        self.fullness = sum(c.fullness for c in usable) / servers

    def creates_too_much(self, candidate: Candidate) -> bool:
        return candidate.recent > self.recent + RECENT_SLACK

    def is_too_full(self, candidate: Candidate) -> bool:
        return candidate.fullness > self.fullness + FULLNESS_SLACK


def _why_not(candidate: Candidate, excluded: Collection[ServerId]) -> str | None:
    if not candidate.alive:
        return "not alive: no heartbeat lately"
    if candidate.leaving:
        return "draining: an operator wants it empty"
    if candidate.id in excluded:
        return "excluded: it failed a mutation, or holds this chunk already"
    if lacks_room(candidate):
        free_mib, needed_mib = candidate.disk_free_bytes // MIB, PLACEMENT_FREE_BYTES_MIN // MIB
        return f"disk full: {free_mib} MiB free, {needed_mib} needed"
    return None
