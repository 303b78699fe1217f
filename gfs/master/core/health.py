"""What is wrong with the cluster, in sentences for the person who is woken up. Judges a view; asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gfs.master.core.incarnation import FIRST, Incarnation
from gfs.master.core.placement import PLACEMENT_FREE_BYTES_MIN
from gfs.master.core.replication_scan import ReplicationCount
from gfs.messages.cluster import ChunkServerStatus, MasterStatus
from gfs.vocabulary import MasterId, ServerId

DISK_FREE_FRACTION_LOW = 0.05
LAG_ENTRIES_HIGH = 10_000
NAMED_MAX = 3  # snapshots, servers … named in one sentence
_TAKES_NO_PART = ("refused", "out of service")


@dataclass(frozen=True, slots=True)
class RepairOutlook:
    """What the leader is at. `failed` chunks wait after a failed try, one of which failed because `why`.

    `seconds_left` until all but these have their replicas, None when nobody can say. `left`: replicas still
    on each server that is drained, -1 while they are being counted.
    """

    active: int
    waiting: int
    failed: int
    seconds_left: float | None
    why: str = ""
    left: Mapping[ServerId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What one master could find out. `leader` is empty when nobody knows one.

    `snapshots`: source and target of those under way. `repair` is known to the leader only.
    """

    masters: tuple[MasterStatus, ...]
    leader: MasterId
    chunkservers: tuple[ChunkServerStatus, ...]
    replication_goal: int
    replication: ReplicationCount | None
    damaged_replicas: int = 0
    snapshots: tuple[tuple[str, str], ...] = ()
    repair: RepairOutlook | None = None
    life: Incarnation = FIRST
    awaited: tuple[ServerId, ...] = ()  # chunk servers that have yet to say what they hold since then


def judge_health(view: ClusterView) -> tuple[str, list[str]]:
    """ok, degraded or down, and why: what stops the cluster first, then what makes it weaker.

    down: nothing can be committed, or no chunk server lives. degraded: it serves, with less to spare.
    """
    voting = replace(view, masters=tuple(master for master in view.masters if master.voter))
    down = [*_no_quorum(voting), *_no_chunkservers(view)]
    weak = [*_put_back(view), *_masters_away(voting), *_servers_away(view)]
    weak += [*_replicas_short(view), *_disks_full(view)]
    notes = [*_garbage_held(view), *_learners(view), *_fewer_servers_than_goal(view), *_work_under_way(view)]
    if down:
        return "down", [*down, *weak, *notes]
    return ("degraded" if weak else "ok"), [*weak, *notes]


def _no_quorum(view: ClusterView) -> list[str]:
    away = [master.id for master in view.masters if master.role == "unreachable"]
    useless = [master.id for master in view.masters if master.role in _TAKES_NO_PART]
    here = len(view.masters) - len(away) - len(useless)
    if 2 * here <= len(view.masters) and not useless:
        present = [master.id for master in view.masters if master.id not in away]
        told = [f"{m.id} ({m.reason})" if m.reason else m.id for m in view.masters if m.id in away]
        missing = len(view.masters) // 2 + 1 - here
        return [
            f"no quorum: {here} of {len(view.masters)} masters reachable ({', '.join(present)}), waiting for "
            f"{', '.join(told)}",
            "nothing can be written, and no read is surely the newest, until "
            f"{_count(missing, 'more master')} can be reached; reads with --consistency stale are answered "
            "meanwhile",
            f"start {', '.join(away)}; should a majority be gone for good: 'gfs backup restore', or "
            "'gfs admin recover' from a master that is left",
        ]
    if 2 * here <= len(view.masters):
        return [
            f"no quorum: {here} of {len(view.masters)} masters can take part, without "
            f"{', '.join([*away, *useless])}; nothing can be written until one more is back"
        ]
    full = _full_masters(view)
    if full and 2 * (here - len(full)) <= len(view.masters):
        return [
            f"no quorum: of {len(view.masters)} masters only {here - len(full)} can keep a mutation; "
            f"free disk space on {', '.join(full)}"
        ]
    quarantined = [master.id for master in view.masters if master.role == "quarantined"]
    if quarantined and not any(master.role == "leader" for master in view.masters):
        return [f"nothing is served: {', '.join(quarantined)} quarantined, and no other master leads"]
    stalled = [master.reason for master in view.masters if master.role == "leader" and master.reason]
    if stalled:
        return [f"{reason}; nothing can be written until they keep up" for reason in stalled]
    if not view.leader:
        return [f"no leader: {here} of {len(view.masters)} masters are reachable and are electing one"]
    return []


def _put_back(view: ClusterView) -> list[str]:
    if view.life.settled:
        return []
    waiting = f"; waiting for {', '.join(view.awaited)}" if view.awaited else ""
    return [
        "the cluster's state was put back: files from before can be listed, and are read and written as soon "
        f"as chunk servers have said what they hold{waiting}"
    ]


def _garbage_held(view: ClusterView) -> list[str]:
    if not view.life.garbage_held:
        return []
    since = " since the cluster's state was put back" if view.life.number else ""
    return [
        f"no garbage is collected and nothing deleted is reclaimed{since}: "
        "'gfs admin gc resume' when all that is wanted is there"
    ]


def _masters_away(view: ClusterView) -> list[str]:
    away = [master.id for master in view.masters if master.role == "unreachable"]
    reasons = []
    if away and 2 * len(away) < len(view.masters):
        spare = (len(view.masters) - 1) // 2 - len(away)
        rest = "no further master may be lost" if spare <= 0 else f"{spare} more may be lost"
        reasons.append(f"{_count(len(away), 'master')} cannot be reached: {', '.join(away)}; {rest}")
    for master in view.masters:
        if master.role in ("out of service", "quarantined"):
            why = master.reason or f"see the log of {master.id}"
            reasons.append(f"master {master.id} is {master.role}: {why}")
        elif master.role == "refused":
            reasons.append(f"master {master.id} is kept out by the others: {master.reason}")
    full = _full_masters(view)
    if full and not _no_quorum(view):
        reasons.append(f"keeping no new mutations until there is disk space: {', '.join(full)}")
    behind = [m for m in view.masters if m.lag_entries > LAG_ENTRIES_HIGH and m.role != "unreachable"]
    reasons += [f"master {m.id} is {m.lag_entries} log entries behind" for m in behind]
    return reasons


def _learners(view: ClusterView) -> list[str]:
    return [
        f"master {master.id} is a learner, {_count(master.lag_entries, 'log record')} behind: "
        "it counts in no quorum yet"
        for master in view.masters
        if master.role == "learner"
    ]


def _full_masters(view: ClusterView) -> list[MasterId]:
    return [master.id for master in view.masters if master.role == "disk full"]


def _no_chunkservers(view: ClusterView) -> list[str]:
    if any(server.alive for server in view.chunkservers):
        return []
    if not view.chunkservers:
        return ["no chunk server has been heard of: no file can be read or written"]
    known = _count(len(view.chunkservers), "chunk server")
    return [f"none of {known} is alive: no file can be read or written"]


def _servers_away(view: ClusterView) -> list[str]:
    dead = [server for server in view.chunkservers if not server.alive]
    alive = len(view.chunkservers) - len(dead)
    reasons = []
    if dead and alive:
        named = ", ".join(f"{s.id} (silent for {s.last_heartbeat_seconds:.0f} s)" for s in dead)
        reasons.append(f"{_count(len(dead), 'chunk server')} dead: {named}")
    if dead and 0 < alive < view.replication_goal:
        reasons.append(
            f"{_count(alive, 'chunk server')} alive: new chunks get {_count(alive, 'replica')} "
            f"instead of {view.replication_goal}"
        )
    return reasons


def _fewer_servers_than_goal(view: ClusterView) -> list[str]:
    """How the cluster was built is no fault, but worth saying."""
    known = len(view.chunkservers)
    if not 0 < known < view.replication_goal:
        return []
    return [
        f"the replication goal is {view.replication_goal}, but there is no more than "
        f"{_count(known, 'chunk server')}: a chunk gets {_count(known, 'replica')} at most"
    ]


def _replicas_short(view: ClusterView) -> list[str]:
    count = view.replication
    if count is None or count.short == 0:
        return []
    reasons = []
    if count.lost:
        reasons.append(
            f"{_count(count.lost, 'chunk')} of {count.chunks} cannot be read: all their servers are away"
        )
    if count.lonely:
        reasons.append(f"{_count(count.lonely, 'chunk')} of {count.chunks} down to the last living replica")
    rest = count.short - count.lost - count.lonely
    if rest:
        reasons.append(f"{_count(rest, 'chunk')} of {count.chunks} with a replica missing")
    return reasons


def _work_under_way(view: ClusterView) -> list[str]:
    """What the cluster is doing about it, or was told to do: no fault, but what a person wants to know."""
    return [*_damage(view), *_repairs(view), *_draining(view), *_snapshots(view)]


def _damage(view: ClusterView) -> list[str]:
    if not view.damaged_replicas:
        return []
    count = _count(view.damaged_replicas, "damaged replica")
    return [f"{count} found: not read from, and deleted once the chunk has a good copy in its place"]


def _repairs(view: ClusterView) -> list[str]:
    work = view.repair
    if work is None:
        return []
    reasons = []
    if work.active or work.waiting:
        text = f"replicas are being made or moved: {work.active} under way, {work.waiting} waiting"
        reasons.append(
            text + ("" if work.seconds_left is None else f", done in about {work.seconds_left:.0f} s")
        )
    if work.failed:
        reasons.append(
            f"{_count(work.failed, 'chunk')} cannot be given a replica for now: {work.why}; "
            "see 'gfs admin replication queue'"
        )
    return reasons


def _draining(view: ClusterView) -> list[str]:
    reasons = []
    for server in view.chunkservers:
        if server.tenure != "draining":
            continue
        left = -1 if view.repair is None else view.repair.left.get(server.id, -1)
        if left == 0:
            state = f"is empty: let it go with 'gfs admin chunkservers remove {server.id}'"
        else:
            state = "is being emptied" + (f", {_count(left, 'replica')} left" if left > 0 else "")
        reasons.append(f"chunk server {server.id} {state}")
    return reasons


def _snapshots(view: ClusterView) -> list[str]:
    reasons = [
        f"a snapshot of {source} is being made at {target}; until then neither can be changed"
        for source, target in view.snapshots[:NAMED_MAX]
    ]
    more = len(view.snapshots) - len(reasons)
    return reasons + ([f"{_count(more, 'more snapshot')} under way"] if more > 0 else [])


def _disks_full(view: ClusterView) -> list[str]:
    return [
        f"the disk of chunk server {server.id} is nearly full: {server.disk_free_bytes // 2**20} MiB free"
        + ("; it gets no new chunks" if server.disk_free_bytes < PLACEMENT_FREE_BYTES_MIN else "")
        for server in view.chunkservers
        if server.alive
        and server.disk_total_bytes > 0
        and server.disk_free_bytes
        < max(DISK_FREE_FRACTION_LOW * server.disk_total_bytes, PLACEMENT_FREE_BYTES_MIN)
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
