"""Re-replication of one chunk (GFS §4.3): is there something to do, how urgent is it, where to. Decides only.

Order of urgency: chunks with one good replica left before all others; then those a client waits for; then
by distance from the goal; among equals, files before what is in the trash; then moves off draining servers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gfs.master.core.clone_task import CloneReason, CloneTask
from gfs.master.core.placement import Candidate, Chance, choose_servers, explain
from gfs.master.core.replica_survey import Survey
from gfs.vocabulary import REPLICATION_GOAL_MAX, ChunkIndex, InodeId, ServerId

LAST_COPY = 1000  # added to the priority of a chunk that one more loss would destroy
BLOCKS_CLIENT = 500
PER_MISSING = 10
IN_USE = 5  # not in the trash
DRAIN_PRIORITY = 1
REBALANCE_PRIORITY = 0
assert DRAIN_PRIORITY < IN_USE < PER_MISSING
assert PER_MISSING * REPLICATION_GOAL_MAX + IN_USE < BLOCKS_CLIENT
assert PER_MISSING * REPLICATION_GOAL_MAX + IN_USE + BLOCKS_CLIENT < LAST_COPY


def priority_of(survey: Survey, *, deleted: bool, blocks_client: bool) -> int | None:
    """How urgent a clone of this chunk is; None when there is nothing to do, or nothing to copy from.

    Source: GFS §4.3.
    """
    if not survey.good:
        return None
    if survey.missing == 0:
        return DRAIN_PRIORITY if survey.to_move and len(survey.good) <= survey.goal else None
    return (
        LAST_COPY * (len(survey.good) == 1)
        + BLOCKS_CLIENT * blocks_client
        + PER_MISSING * survey.distance
        + IN_USE * (not deleted)
    )


def reason_of(survey: Survey, *, was_more: bool) -> CloneReason:
    """Why a replica is to be made. `was_more`: a server outside the set still holds an old replica."""
    if survey.missing == 0:
        return "drain"
    if survey.those("corrupt"):
        return "corrupt replica"
    if survey.those("lost", "absent", "late", "stale") or was_more:
        return "lost replica"
    return "goal raised"


def leaves_set(survey: Survey) -> ServerId | None:
    """Who makes room for the new replica: a useless member if there is one, the first of those to move."""
    useless = survey.those("corrupt", "stale", "absent", "lost", "late")
    if survey.missing > 0:
        return useless[0] if useless else None
    return survey.to_move[0] if survey.to_move else None


def choose_target(
    survey: Survey,
    candidates: Sequence[Candidate],
    *,
    holds_old: Callable[[ServerId], bool],
    busy: Callable[[ServerId], bool],
    chance: Chance,
) -> ServerId | None:
    """The server for one more replica, as placement chooses; None when none can take it (now).

    The last resort is a living member whose replica is useless: it has to leave the set first.
    A server with an old, useless replica of the chunk is taken only when there is no other, or none in
    another rack: what it holds has to be replaced. `busy`: it receives or gives as many clones as it may.
    Source: GFS §4.2, §4.3.
    """
    leaving = leaves_set(survey)
    staying = [server for server in survey.members if server != leaving]
    beside = [c.rack for c in candidates if c.id in staying and survey.members[c.id] == "good"]
    open_to = [c for c in candidates if c.id not in survey.members and not busy(c.id)]
    useless = survey.those("corrupt", "stale", "absent")
    anyone = choose_servers(open_to, 1, excluded=(), chance=chance, beside=beside)
    empty = [c for c in open_to if not holds_old(c.id)]
    clean = choose_servers(empty, 1, excluded=(), chance=chance, beside=beside)
    racks = {c.id: c.rack for c in open_to}
    if anyone and (not clean or (racks[anyone[0]] not in beside and racks[clean[0]] in beside)):
        return anyone[0]
    if clean:
        return clean[0]
    again = [c for c in candidates if c.id in useless and not busy(c.id)]
    return next(iter(choose_servers(again, 1, excluded=(), chance=chance, beside=beside)), None)


def choose_needless(survey: Survey, candidates: Sequence[Candidate]) -> ServerId | None:
    """The replica to give up when there are more than the goal; None while there are not.

    One whose server is to become empty; else, of those whose rack has another, the one on the fullest disk:
    space is won where it is short.
    Source: GFS §4.3.
    """
    if len(survey.good) <= survey.goal:
        return None
    if survey.to_move:
        return survey.to_move[0]
    servers = [c for c in candidates if c.id in survey.good]
    racks = [c.rack for c in servers]
    best = max(servers, key=lambda c: (racks.count(c.rack) > 1, c.fullness, c.id), default=None)
    return None if best is None else best.id


def choose_source(survey: Survey, load: Callable[[ServerId], int]) -> ServerId | None:
    """Of the good members the one that gives or receives the fewest clones."""
    return min(survey.good, key=load, default=None)


def make_task(
    survey: Survey,
    inode: InodeId,
    index: ChunkIndex,
    *,
    target: ServerId,
    source: ServerId,
    priority: int,
    was_more: bool,
) -> CloneTask:
    return CloneTask(
        inode=inode,
        index=index,
        handle=survey.handle,
        target=target,
        drop=None if target in survey.members else leaves_set(survey),
        reason=reason_of(survey, was_more=was_more),
        priority=priority,
        source=source,
    )


def why_no_target(survey: Survey, candidates: Sequence[Candidate]) -> str:
    """Say to a person what speaks against every server that is no member."""
    others = [c for c in candidates if c.id not in survey.members]
    if not others:
        return f"all {len(candidates)} known chunk servers are members of its set already: one more is needed"
    verdicts = explain(candidates, excluded=survey.members)
    return "no chunk server can take a replica: " + "; ".join(f"{c.id}: {verdicts[c.id]}" for c in others)
