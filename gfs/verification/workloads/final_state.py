"""What is looked at after every workload, whatever it did: how safe the files are, that every replica
verifies, and whether the masters have one state.

Writes down
  audit `fsck`: {path, files, chunks, counts, at_risk, waited_seconds}: as the leader judges what is below
    `path`, once nothing is at risk any more, or after REPAIRED_SECONDS_MAX. `counts`: chunks by risk (see
    messages/check); `at_risk`: [[path, risk], …], the first AT_RISK_KEPT.
  audit `verified`: {path, index, handle, version, replicas, bad_blocks, unread, differing}: each chunk, each
    replica of which was read and compared, all once more while damage was found, for REPAIRED_SECONDS_MAX.
    `bad_blocks`: {server: [block, …]}; `unread`: {server: why}; `differing`: servers whose bytes verify, but
    are not those of most replicas (allowed after failed writes).
  audit `live_chunks` {path, chunks}: [[handle, version], …] of all files below `path`, and of those deleted
    from there that the trash still has;
  audit `deadline` {seconds}: how long an operation may take: CALLS_PER_OPERATION_MAX times a client's
    patience;
  audit `digests`: {index, digest, agreed, voters, split, masters}: all masters' digests at one index of the
    log; `masters`: [[id, verdict, digest], …], verdicts as in messages/cluster.
"""

from __future__ import annotations

from collections import Counter

from gfs.client.checking import VerifiedChunk
from gfs.client.client import AsyncClient
from gfs.errors import NotFound
from gfs.messages.check import CheckFilesReply
from gfs.messages.chunks import ChunkPlace
from gfs.verification.history import Json
from gfs.verification.recorder import Recorder
from gfs.verification.subject import Subject

REPAIRED_SECONDS_MAX = 60.0
LOOK_SECONDS = 1.0
AT_RISK_KEPT = 50
CALLS_PER_OPERATION_MAX = 3  # a file is opened, written and published; each of them has the patience
COMPARED_TIMES_MAX = 10  # a master that has just come back is behind for a moment


async def look_at_cluster(
    client: AsyncClient, subject: Subject, recorder: Recorder, workload: str, path: str
) -> None:
    """Raises: GfsError, when the cluster does not answer."""
    recorder.audit(workload, "deadline", seconds=CALLS_PER_OPERATION_MAX * client.settings.retry_seconds)
    await _wait_for_repair(client, subject, recorder, workload, path)
    await _verify_replicas(client, subject, recorder, workload, path)
    await _live_chunks(client, recorder, workload, path)
    await _compare_masters(client, subject, recorder, workload)


async def _wait_for_repair(
    client: AsyncClient, subject: Subject, recorder: Recorder, workload: str, path: str
) -> None:
    began_ns = subject.now_ns()
    while True:
        pages = [page async for page in client.check(path)]
        counts = _counts(pages)
        waited_seconds = (subject.now_ns() - began_ns) / 1e9
        if sum(counts.values()) == counts["ok"] or waited_seconds > REPAIRED_SECONDS_MAX:
            break
        await subject.sleep(LOOK_SECONDS)
    recorder.audit(
        workload,
        "fsck",
        path=path,
        files=sum(page.files for page in pages),
        chunks=sum(counts.values()),
        counts=dict(counts),
        at_risk=[[file.path, file.risk] for page in pages for file in page.at_risk][:AT_RISK_KEPT],
        waited_seconds=round(waited_seconds, 3),
    )


def _counts(pages: list[CheckFilesReply]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for page in pages:
        counts.update({str(risk): count for risk, count in page.counts.items()})
    return counts


async def _verify_replicas(
    client: AsyncClient, subject: Subject, recorder: Recorder, workload: str, path: str
) -> None:
    """What is damaged is repaired once it has been found: the last look counts."""
    began_ns = subject.now_ns()
    while True:
        is_well, facts = True, list[dict[str, Json]]()
        async for page in client.check(path, with_places=True):
            for file in page.places:
                for place in file.chunks:
                    found = await client.verify_chunk(place)
                    is_well = is_well and not found.bad_blocks and not found.unread
                    facts.append(_facts_of(file.path, place, found))
        if is_well or (subject.now_ns() - began_ns) / 1e9 > REPAIRED_SECONDS_MAX:
            break
        await subject.sleep(LOOK_SECONDS)
    for one in facts:
        recorder.audit(workload, "verified", **one)


def _facts_of(path: str, place: ChunkPlace, found: VerifiedChunk) -> dict[str, Json]:
    return {
        "path": path,
        "index": place.index,
        "handle": place.handle,
        "version": place.version,
        "replicas": [replica.server for replica in place.replicas],
        "bad_blocks": dict(found.bad_blocks),
        "unread": dict(found.unread),
        "differing": list(found.differing),
    }


async def _live_chunks(client: AsyncClient, recorder: Recorder, workload: str, path: str) -> None:
    trees = [path, *[deleted.entry.path async for deleted in client.trash(path)]]
    chunks: list[list[int]] = []
    for tree in trees:
        try:
            async for page in client.check(tree, with_places=True):
                chunks += [[place.handle, place.version] for file in page.places for place in file.chunks]
        except NotFound:
            continue  # reclaimed since the trash was listed
    recorder.audit(workload, "live_chunks", path=path, chunks=chunks)


async def _compare_masters(client: AsyncClient, subject: Subject, recorder: Recorder, workload: str) -> None:
    for _ in range(COMPARED_TIMES_MAX):
        found = await client.operator.compare_states()
        if all(master.verdict == "equal" for master in found.masters) or found.split:
            break
        await subject.sleep(LOOK_SECONDS)
    recorder.audit(
        workload,
        "digests",
        index=found.index,
        digest=found.digest,
        agreed=found.agreed,
        voters=found.voters,
        split=found.split,
        masters=[[master.id, master.verdict, master.digest] for master in found.masters],
    )
