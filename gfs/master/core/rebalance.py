"""Levelling out disks and load (GFS §4.3): which replica of a chunk had better be elsewhere. Decisions only.

Two things are levelled, in this order: how full disks are, and how many replicas a server has for its size.
Many small files weigh nothing on a disk, and a server that shares its disk with others cannot differ from
them. A move must not undo the other: by number it goes only where the disk is no fuller. As a move brings the
two servers nearer and never past each other, moves come to an end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gfs.master.core.placement import Candidate, lacks_room
from gfs.master.core.replica_survey import Survey
from gfs.vocabulary import CHUNK_BYTES, ServerId

OUTLOOK_MOVES_MAX = 500  # looked ahead
OUTLOOK_PAIRS_MAX = 100_000  # pairs of servers compared for that: about 50 ms
BETTER_SPREAD = 10.0  # more than any gain from levelling
FULLNESS_NOISE = 0.01  # a disk no more than this fuller than another is as full


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What is level enough: `fullness`, a difference in the fraction of disks used; `replicas`, a difference
    in number as a fraction of the average, but `replicas_min` at least."""

    fullness: float
    replicas: float
    replicas_min: float


BY_ITSELF = Tolerance(fullness=0.10, replicas=0.25, replicas_min=8.0)
WHEN_ASKED = Tolerance(fullness=0.02, replicas=0.0, replicas_min=2.0)


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """One server that may give or receive; `excess` is how many replicas it has beyond its fair share."""

    id: ServerId
    rack: str
    fullness: float
    replica_bytes: float
    capacity_bytes: int
    excess: float
    has_room: bool


class Levels:
    """The servers as they will be when what is under way has ended. Invariant: the excesses add up to 0."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        replicas: Callable[[ServerId], int],
        shift: Callable[[ServerId], int],
        tolerance: Tolerance,
    ) -> None:
        """`replicas`: how many a server has, with what is on its way to it and without what leaves it;
        `shift`: how many of these its disk does not show yet."""
        usable = [c for c in candidates if c.alive and not c.leaving]
        total = sum(replicas(c.id) for c in usable)
        capacity = sum(c.disk_total_bytes for c in usable)
        average = total / max(len(usable), 1)
        self._tolerance = tolerance
        self._count_slack = max(tolerance.replicas * average, tolerance.replicas_min)
        self.servers: dict[ServerId, ServerLoad] = {}
        for c in usable:
            count = replicas(c.id)
            share = total * c.disk_total_bytes / capacity if capacity else average
            # What one replica weighs on this disk: a guess, as the disk holds other things too.
            each = min(CHUNK_BYTES, (c.disk_total_bytes - c.disk_free_bytes) / max(count, 1))
            used = c.disk_total_bytes - c.disk_free_bytes + shift(c.id) * each
            self.servers[c.id] = ServerLoad(
                id=c.id,
                rack=c.rack,
                fullness=used / c.disk_total_bytes if c.disk_total_bytes else 0.0,
                replica_bytes=each,
                capacity_bytes=max(c.disk_total_bytes, 1),
                excess=count - share,
                has_room=not lacks_room(c),
            )

    def gain(self, giver: ServerLoad, receiver: ServerLoad) -> float:
        """How much good moving one replica does; 0 when it should stay where it is."""
        if not receiver.has_room:
            return 0.0
        gap = giver.fullness - receiver.fullness
        step = giver.replica_bytes / giver.capacity_bytes + giver.replica_bytes / receiver.capacity_bytes
        if gap > self._tolerance.fullness and gap > step:
            return 1.0 + gap
        surplus = giver.excess - receiver.excess
        if surplus >= 2 and surplus > self._count_slack and gap >= -FULLNESS_NOISE:
            return surplus / (1.0 + surplus)
        return 0.0

    def choose_move(
        self, survey: Survey, *, holds: Callable[[ServerId], bool]
    ) -> tuple[ServerId, ServerId] | None:
        """Which good replica of a chunk should move, and where to; None when it is well placed.

        Never to a server that `holds` some replica already, nor to fewer racks than before. To a further rack
        when there are too few, else from the fullest giver to the emptiest receiver: what is removed is
        removed where space is short.
        Source: GFS §4.3.
        """
        if len(survey.good) != len(survey.members) or survey.distance > 0 or survey.leaving:
            return None
        racks = {s: self.servers[s].rack for s in survey.members if s in self.servers}
        if len(racks) < len(survey.members):
            return None
        best: tuple[float, ServerId, ServerId] | None = None
        used = len(set(racks.values()))
        spread_wanted = used < min(survey.racks, len({server.rack for server in self.servers.values()}))
        for giver in survey.members:
            staying = [rack for server, rack in racks.items() if server != giver]
            for receiver in self.servers.values():
                if receiver.id in survey.members or holds(receiver.id):
                    continue
                spread = len({*staying, receiver.rack})
                if spread < used:
                    continue
                gain = self.gain(self.servers[giver], receiver)
                if spread_wanted and spread > used and receiver.has_room:
                    gain += BETTER_SPREAD
                if gain > 0 and (best is None or gain > best[0]):
                    best = gain, giver, receiver.id
        return None if best is None else (best[1], best[2])

    def apply(self, giver: ServerId, receiver: ServerId) -> None:
        """One replica is on its way."""
        gives, gets = self.servers[giver], self.servers[receiver]
        self.servers[giver] = _moved(gives, -1, gives.replica_bytes)
        self.servers[receiver] = _moved(gets, +1, gives.replica_bytes)

    def outlook(self) -> list[tuple[ServerId, ServerId, int]]:
        """About how many replicas would move from whom to whom until all is level, racks aside."""
        moves: dict[tuple[ServerId, ServerId], int] = {}
        before = dict(self.servers)
        servers = self.servers
        for _ in range(min(OUTLOOK_MOVES_MAX, OUTLOOK_PAIRS_MAX // max(len(servers), 1) ** 2)):
            pairs = (
                (self.gain(a, b), a, b) for a in servers.values() for b in servers.values() if a is not b
            )
            gain, giver, receiver = max(pairs, key=lambda pair: pair[0], default=(0.0, None, None))
            if gain <= 0 or giver is None or receiver is None:
                break
            moves[giver.id, receiver.id] = moves.get((giver.id, receiver.id), 0) + 1
            self.apply(giver.id, receiver.id)
        self.servers = before
        return [(giver, receiver, count) for (giver, receiver), count in moves.items()]


def _moved(server: ServerLoad, sign: int, replica_bytes: float) -> ServerLoad:
    return ServerLoad(
        id=server.id,
        rack=server.rack,
        fullness=server.fullness + sign * replica_bytes / server.capacity_bytes,
        replica_bytes=server.replica_bytes,
        capacity_bytes=server.capacity_bytes,
        excess=server.excess + sign,
        has_room=server.has_room,
    )
