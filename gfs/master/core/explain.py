"""Why a chunk's replicas are where they are, and what becomes of it, for a person. Decides nothing.

Each sentence comes from the very functions that decide: placement, repair and the queue of clones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gfs.master.core.placement import Candidate, explain
from gfs.master.core.repair import LAST_COPY, priority_of, why_no_target
from gfs.master.core.repair_queue import RepairQueue
from gfs.master.core.repair_scan import Sighting
from gfs.master.core.replica_survey import LAST_COPY_PATIENCE, MemberState
from gfs.vocabulary import ServerId

_STATES: Mapping[MemberState, str] = {
    "good": "good",
    "away": "its server is silent; it may come back",
    "late": "its server is silent for long",
    "lost": "lost: its server is gone",
    "absent": "lost: its server does not hold it",
    "stale": "stale: it missed mutations and is not used",
    "corrupt": "corrupt: its bytes do not match their checksums",
}


def explain_chunk(
    sighting: Sighting,
    candidates: Sequence[Candidate],
    queue: RepairQueue,
    *,
    patience_seconds: float,
    complete: bool,
    now: float,
) -> list[str]:
    """`complete`: all chunks have been looked at since the servers last changed."""
    survey = sighting.survey
    sentences = [_summary(sighting)]
    sentences += [_member(sighting, server, candidates) for server in survey.members]
    sentences.append(_spread(sighting, candidates))
    waits = survey.those("away", "late")
    if waits and survey.missing < survey.distance:
        patience = patience_seconds * (LAST_COPY_PATIENCE if len(survey.good) == 1 else 1)
        sentences.append(
            f"{', '.join(waits)} may come back: it is replaced {patience:.0f} s after it counts as dead."
        )
    sentences += _work(sighting, candidates, queue, complete=complete, now=now)
    return sentences


def _summary(sighting: Sighting) -> str:
    survey, chunk = sighting.survey, sighting.chunk
    kind = f"sealed at {chunk.length_bytes} bytes" if chunk.sealed else "open for writing"
    shared = f", shared by {chunk.references} files" if chunk.references > 1 else ""
    trash = ", in the trash" if sighting.deleted else ""
    good = len(survey.good)
    return (
        f"{good} good {'replica' if good == 1 else 'replicas'} of {survey.goal} wanted; "
        f"version {chunk.version}, {kind}{shared}{trash}."
    )


def _member(sighting: Sighting, server: ServerId, candidates: Sequence[Candidate]) -> str:
    survey = sighting.survey
    known = next((c for c in candidates if c.id == server), None)
    rack = f" in rack {known.rack}" if known is not None and known.rack else ""
    text = f"{server}{rack}: {_STATES[survey.members[server]]}"
    if server == sighting.chunk.primary and survey.members[server] == "good":
        text += ", primary of the last grant"
    if server in survey.leaving:
        text += "; it is to leave, as its server is drained or removed"
    return text + "."


def _spread(sighting: Sighting, candidates: Sequence[Candidate]) -> str:
    racks = {c.id: c.rack for c in candidates}
    used = {racks[s] for s in sighting.survey.good if s in racks}
    there = {c.rack for c in candidates if c.alive and not c.leaving}
    if len(there) <= 1:
        place = "All living servers are in one rack"
    elif len(used) > 1:
        place = f"Its good replicas are in {len(used)} of {len(there)} racks"
    else:
        place = f"All its good replicas are in one of {len(there)} racks"
    verdicts = explain(candidates, excluded=sighting.survey.members)
    others = [f"{s}: {why}" for s, why in verdicts.items() if s not in sighting.survey.members]
    return f"{place}; as for the other servers, {'; '.join(others) if others else 'there are none'}."


def _work(
    sighting: Sighting,
    candidates: Sequence[Candidate],
    queue: RepairQueue,
    *,
    complete: bool,
    now: float,
) -> list[str]:
    survey = sighting.survey
    active = next((a for a in queue.active if a.task.handle == survey.handle), None)
    if active is not None:
        task = active.task
        leaves = f", and then {task.drop} leaves its set" if task.drop else ""
        return [
            f"It is being copied to {task.target} since {now - active.began_at:.1f} s "
            f"({task.reason}){leaves}."
        ]
    if not survey.good:
        servers = ", ".join(survey.members)
        return [f"No good replica can be reached: start one of {servers}; nothing can be copied until then."]
    priority = priority_of(survey, deleted=sighting.deleted, blocks_client=False)
    if priority is None:
        return ["Nothing is to be done." if survey.distance == 0 else "Nothing is to be done yet."]
    sentences = []
    failure = queue.failure(survey.handle)
    if failure is not None:
        wait = max(0.0, failure.again_at - now)
        sentences.append(
            f"The last of {failure.tries} tries failed: {failure.message}. The next is due in {wait:.0f} s."
        )
    elif not complete and priority < LAST_COPY:
        sentences.append("It waits until all chunks have been looked at: those with one replica go first.")
    position = queue.position(survey.handle)
    if position is None:
        sentences.append("It is about to be queued for a copy.")
    else:
        ahead = position + len(queue.active)
        left = queue.seconds_left(ahead + 1, now=now)
        when = f"about {left:.0f} s at the present rate" if left is not None else "rate not known yet"
        sentences.append(f"It waits for a copy behind {ahead} others ({when}).")
    if failure is None and not any(c.id not in survey.members for c in candidates if c.alive):
        sentences.append(f"Blocked: {why_no_target(survey, candidates)}.")
    return sentences
