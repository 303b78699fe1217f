"""CheckFiles and RepairFiles: how safe files are, and their repair before others. Repairs nothing itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from gfs.clock import Clock
from gfs.errors import GfsError, InvalidArgument
from gfs.master.chunk_service import place_of
from gfs.master.commit import Commits
from gfs.master.core.check_walk import WalkedFile, walk_page
from gfs.master.core.chunk_risk import RiskJudge
from gfs.master.core.locations import Locations
from gfs.master.core.lookup import chunk_of, find, inode_record, names_of
from gfs.master.core.policies import InheritedPolicies
from gfs.master.core.tables import ReadTables
from gfs.master.damage_duty import Urge
from gfs.master.reads import Reads
from gfs.messages.base import Reply, Request
from gfs.messages.check import (
    RISKS,
    CheckedChunk,
    CheckedFile,
    CheckFiles,
    CheckFilesReply,
    ChunkRisk,
    FilePlaces,
    RepairFiles,
    RepairFilesReply,
)
from gfs.settings import CHECK_PAGE_CHUNKS, REPAIR_FILES_MAX
from gfs.transport.interface import CallContext, Handlers
from gfs.vocabulary import ChunkIndex, InodeId

WORST_NAMED_MAX = 3  # chunks named of one file
REPAIR_LOOKS_MAX = 1000  # chunks looked at for one RepairFiles: some 10 ms


class CheckService:
    """Answered by the leader, who alone repairs, and knows what has just been repaired."""

    def __init__(
        self, *, commits: Commits, reads: Reads, locations: Locations, clock: Clock, urge: Urge
    ) -> None:
        self._commits = commits
        self._reads = reads
        self._locations = locations
        self._clock = clock
        self._urge = urge

    def handlers(self) -> Handlers:
        return {CheckFiles: self.check_files, RepairFiles: self.repair_files}

    async def check_files(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader; InvalidPath, NotFound, NotADirectory."""
        assert isinstance(request, CheckFiles)
        if request.first_chunk < 0:
            raise InvalidArgument(f"there is no chunk {request.first_chunk}")
        tables = await self._reads.linearizable()
        page = walk_page(
            tables,
            request.path,
            after=request.after,
            first_chunk=request.first_chunk,
            limit=CHECK_PAGE_CHUNKS,
        )
        judge = RiskJudge(self._locations, now=self._clock.monotonic())
        counts: dict[ChunkRisk, int] = dict.fromkeys(RISKS, 0)
        at_risk: list[CheckedFile] = []
        policies = InheritedPolicies(tables)
        for file in page.files:
            judged = _judged(file, judge, policies.goal_of(file.record))
            for chunk in judged:
                counts[chunk.risk] += 1
            if any(chunk.risk != "ok" for chunk in judged):
                at_risk.append(_summary(file, judged))
        return CheckFilesReply(
            files=sum(file.first == 0 for file in page.files),
            counts=counts,
            at_risk=at_risk,
            places=[self._places(file) for file in page.files] if request.with_places else [],
            next_after=page.next_after,
            next_chunk=page.next_chunk,
        )

    async def repair_files(self, request: Request, _context: CallContext) -> Reply:
        """Raises: NotLeader, InvalidArgument. Files that have gone meanwhile are passed over."""
        assert isinstance(request, RepairFiles)
        if len(request.paths) > REPAIR_FILES_MAX:
            raise InvalidArgument(f"{len(request.paths)} paths at once: {REPAIR_FILES_MAX} at most")
        self._commits.leading()
        tables = await self._reads.linearizable()
        judge = RiskJudge(self._locations, now=self._clock.monotonic())
        at_risk = itertools.islice(_chunks_at_risk(tables, request.paths, judge), CHECK_PAGE_CHUNKS)
        urged = 0
        for inode, index in at_risk:
            self._urge(inode, index)
            urged += 1
        return RepairFilesReply(chunks=urged)

    def _places(self, file: WalkedFile) -> FilePlaces:
        now = self._clock.monotonic()
        return FilePlaces(
            path=file.path,
            chunks=[
                place_of(self._locations, chunk, ChunkIndex(file.first + position), now=now)
                for position, chunk in enumerate(file.chunks)
            ],
        )


def _chunks_at_risk(
    tables: ReadTables, paths: Iterable[str], judge: RiskJudge
) -> Iterator[tuple[InodeId, ChunkIndex]]:
    looked_at = 0
    policies = InheritedPolicies(tables)
    for path in paths:
        try:
            inode, is_directory = find(tables, names_of(path))
        except GfsError:
            continue
        record = inode_record(tables, inode)
        if is_directory or record is None:
            continue
        for index in range(record.chunk_count):
            looked_at += 1
            if looked_at > REPAIR_LOOKS_MAX:
                return
            chunk = chunk_of(tables, inode, index)
            if chunk is not None:
                judged = judge.judge(chunk, ChunkIndex(index), policies.goal_of(record))
                if judged.risk != "ok":
                    yield inode, ChunkIndex(index)


def _judged(file: WalkedFile, judge: RiskJudge, goal: int) -> list[CheckedChunk]:
    return [
        judge.judge(chunk, ChunkIndex(file.first + position), goal)
        for position, chunk in enumerate(file.chunks)
    ]


def _summary(file: WalkedFile, judged: list[CheckedChunk]) -> CheckedFile:
    counts: dict[ChunkRisk, int] = {}
    for chunk in judged:
        counts[chunk.risk] = counts.get(chunk.risk, 0) + 1
    worst = sorted((chunk for chunk in judged if chunk.risk != "ok"), key=lambda c: RISKS.index(c.risk))
    return CheckedFile(
        path=file.path,
        inode=file.inode,
        risk=worst[0].risk,
        counts=counts,
        worst=worst[:WORST_NAMED_MAX],
    )
