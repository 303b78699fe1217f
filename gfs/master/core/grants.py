"""How a grant of a chunk version is judged (GFS §3.1, §4.5). Decisions only; granting.py carries them out.

Why it is safe. S(v) is the logged replica set of version v. Facts, each held by one place:

 F1  Versions come from the log, one set each, before any replica hears of them (apply of GrantLease and
     ChangeReplicas). [I1]
 F2  S(v+1) is a non-empty subset of S(v), unless the grant is `fresh`, or a stranger joins by F7.
                                                                                    (checked by apply)
 F3  A replica accepts mutations of exactly the version it holds, never goes back to a lower one, and
     persists a bump before it answers.                                                 (chunk server)
 F4  A primary acknowledges a mutation of v only when every member of S(v) has applied it.  (chunk server)
 F5  A client is told of v only by the leader that proposed v, after *every* member of S(v) answered the
     bump and was aligned; or by a later leader that saw a primary report mutations under v, which proves
     the same.                                                                          (lease_service)
 F6  A `fresh` grant from v is made only by the call that proposed v, while it has told nobody of v, and
     only when the chunk is empty: that call also proposed version 1, or a member of S(v) answered the
     bump to v with length 0 and none with more. As acknowledged bytes are on every member (the claim
     below) there are none; and as that member now holds v, none can be acknowledged under less (F3).

 F7  A stranger joins S(v+1) only when v is *quiet*: made by ChangeReplicas (checked by apply), hence told to
     no client by any leader, hence nothing was or will be acknowledged under it. The leader that proposed v
     has had every member of S(v) answer the bump and be cut to one length, has then had the stranger put a
     copy equal to a member's, whole and synced, on its disk, and grants from v. The copy is of version v and
     counts as holding it; it is let into no set that asks for more (`held_version` is v). (quiet_grants,
     replica_moves, chunkserver/guests)

Claim: each member of S(v) holds every mutation acknowledged under any version u <= v, *whichever version
it holds at the moment*. For a mutation acknowledged under u was applied, at version u, by every member of
S(u) (F4), and S(v) is a subset of S(u) (F2; nothing is acknowledged from before a fresh grant, by F6) but for
strangers, each of which had by F7 all that a member of a version between u and v had, when nothing could
change any more.
So the next grant may take any non-empty subset of S(v) [I2], and a bump to v may find any lower
version: a member that still holds w < u proves by F3 and F4 that nothing was acknowledged under u. This is
how a grant cut short by a crash resolves itself.

What the claim leans on is that disks do not go back in time. So we ask for as much as is known:
`oldest_version` of a bump is the highest version of which the log says that all members held it
(`held_version`), and a member below it is left out: it is a restored or exchanged disk. Only while nothing
is known (`held_version` = 0) may a bump create the replica; one created just then is empty, and counts
as a member only if every other answer is empty too: acknowledged bytes are on all members.

Lengths. Each member's committed length covers every acknowledged byte, so the minimum does. What lies beyond
was never acknowledged; it is cut before any client is told of the version, so that all replicas of a
set start equal in length. A replica whose machine lost power may be short of acknowledged bytes (durability
`flush`): it says so, and is left out rather than the others cut. Nor is a set ever narrowed to such replicas
while a member that may be complete is merely out of reach: it could never come back into a later set (F2).

Fencing. Once a single member of S(v) holds v+1, nothing can be acknowledged under v any more (F3, F4). So
no grant waits for the lease of an unreachable primary to run out, which GFS §3.1 has to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gfs.vocabulary import ChunkVersion, ServerId


@dataclass(frozen=True, slots=True)
class BumpAnswer:
    """What one replica said to a bump; see BumpReply."""

    replaced_version: ChunkVersion
    length_bytes: int
    may_be_short: bool = False


@dataclass(frozen=True, slots=True)
class GrantJudgement:
    """`members` may form the set (in the order given); `align_to_bytes` is the length all of them hold.

    `longer` are those to be cut back to it, and those that were in doubt, whose length is settled with it.
    `empty`: no byte of the chunk was ever acknowledged (F6). `doubtful`: each member may lack acknowledged
    bytes, and one that did not answer may have them.
    """

    members: tuple[ServerId, ...]
    align_to_bytes: int
    longer: tuple[ServerId, ...]
    empty: bool
    doubtful: bool


def judge_answers(
    asked: Sequence[ServerId], answers: Mapping[ServerId, BumpAnswer], *, acknowledged_bytes: int = 0
) -> GrantJudgement:
    """Decide which of the replicas asked may form the set of the version they were bumped to.

    Args:
        asked: the set as logged, in its order.
        answers: what those replied that accepted the bump.
        acknowledged_bytes: a length this chunk is known to have reached in acknowledged mutations, 0 when
            unknown; a replica shorter than that has gone back in time. If all are, nothing is better.
    """
    lengths = {server: answers[server].length_bytes for server in asked if server in answers}
    empty = bool(lengths) and not any(lengths.values())
    if any(lengths.values()):
        # Made by this very bump beside replicas with bytes: it missed them.
        lengths = {s: n for s, n in lengths.items() if answers[s].replaced_version > 0}
    # A replica that lost power may have lost acknowledged bytes with it: it sets no length for others. If
    # all did, the longest lost least.
    steady = [n for s, n in lengths.items() if not answers[s].may_be_short]
    floor = max(min(steady) if steady else max(lengths.values(), default=0), 0)
    if any(n >= acknowledged_bytes for n in lengths.values()):
        floor = max(floor, acknowledged_bytes)
    lengths = {s: n for s, n in lengths.items() if n >= floor}
    align_to = min(lengths.values(), default=0)
    return GrantJudgement(
        members=tuple(lengths),
        align_to_bytes=align_to,
        longer=tuple(s for s, n in lengths.items() if n > align_to or answers[s].may_be_short),
        empty=empty and acknowledged_bytes == 0 and not any(a.may_be_short for a in answers.values()),
        doubtful=(
            bool(lengths)
            and len(answers) < len(asked)
            and all(answers[server].may_be_short for server in lengths)
            and not 0 < acknowledged_bytes <= align_to
        ),
    )


def replicas_needed(*, goal: int, known_servers: int) -> int:
    """How many replicas a new chunk must have at least before it may be used.

    Two, so that one lost disk loses nothing; one only where the goal or the cluster is one. The goal
    itself is aimed at, not insisted on: what is missing is made good by re-replication (§4.3).
    """
    assert goal > 0
    return max(1, min(2, goal, known_servers))
