"""Pages about chunks: the matrix goal × good replicas, the chunks of a cell, one chunk with its replicas."""

from __future__ import annotations

import asyncio

import msgspec

from gfs.checksums import crc32c
from gfs.errors import GfsError
from gfs.messages.console import (
    CellChunk,
    ChunkMatrixReply,
    ChunkReply,
    ListMatrixCell,
    MatrixCellReply,
    ReplicaRow,
    ShowChunk,
    ShowChunkMatrix,
)
from gfs.messages.replicas import ChunkStatus, ChunkStatusReply
from gfs.transport.interface import RpcCaller
from gfs.vocabulary import ChunkHandle, ChunkIndex, InodeId
from gfs.web.asking import Asked, told
from gfs.web.limits import REPLICA_SECONDS
from gfs.web.page import Page, View

REPLICAS_ASKED_MAX = 16


class Chunks(View, frozen=True, kw_only=True):
    """`rows` and `columns`: the goals and the numbers of good replicas there are."""

    matrix: ChunkMatrixReply
    rows: list[int]
    columns: list[int]
    counts: dict[str, int]  # by "goal/good"


class CellView(View, frozen=True, kw_only=True):
    goal: int
    good: int
    counted: int
    chunks: list[CellChunk]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A replica: as the master sees it, and as its chunk server says right now. `sums`: one for all its
    blocks' checksums, equal where the bytes are; `length_bytes` -1 when it did not say."""

    row: ReplicaRow
    length_bytes: int = -1
    blocks: int = 0
    sums: str = ""
    sealed: bool = False
    failure: str = ""


class OneChunk(View, frozen=True, kw_only=True):
    chunk: ChunkReply
    replicas: list[Held]


def chunk_pages(rpc: RpcCaller) -> list[Page]:
    async def one(asked: Asked) -> OneChunk:
        """Raises: NotFound, InvalidArgument."""
        chunk = await asked.ask(
            ShowChunk(
                handle=ChunkHandle(asked.handle("handle")),
                inode=InodeId(asked.number("inode")),
                index=ChunkIndex(asked.number("index")),
            ),
            ChunkReply,
        )
        rows = chunk.replicas[:REPLICAS_ASKED_MAX]
        return OneChunk(
            chunk=chunk, replicas=list(await asyncio.gather(*(_ask(rpc, chunk.handle, row) for row in rows)))
        )

    return [
        Page("chunks", "Chunks", "chunks.html", _matrix, live=True, menu="Chunks"),
        Page("cell", "Chunks of a cell", "cell.html", _cell),
        Page("chunk", "Chunk", "chunk.html", one),
    ]


async def _matrix(asked: Asked) -> Chunks:
    matrix = await asked.ask(ShowChunkMatrix(), ChunkMatrixReply)
    goals = sorted({cell.goal for cell in matrix.cells})
    most = max((max(cell.goal, cell.good) for cell in matrix.cells), default=3)
    return Chunks(
        matrix=matrix,
        rows=goals,
        columns=list(range(most + 1)),
        counts={f"{cell.goal}/{cell.good}": cell.chunks for cell in matrix.cells},
    )


async def _cell(asked: Asked) -> CellView:
    goal, good = asked.number("goal"), asked.number("good")
    cell = await asked.ask(ListMatrixCell(goal=goal, good=good), MatrixCellReply)
    return CellView(goal=goal, good=good, counted=cell.counted, chunks=cell.chunks)


async def _ask(rpc: RpcCaller, handle: ChunkHandle, row: ReplicaRow) -> Held:
    if not row.control or not row.held:
        return Held(row=row)
    request = ChunkStatus(handle=handle, version=row.held, with_checksums=True, server=row.server)
    try:
        said = await rpc.call(row.control, request, ChunkStatusReply, deadline_seconds=REPLICA_SECONDS)
    except GfsError as error:
        return Held(row=row, failure=told(error))
    return Held(
        row=row,
        length_bytes=said.length_bytes,
        blocks=len(said.block_checksums),
        sums=_sum_of(said.block_checksums),
        sealed=said.sealed,
    )


def _sum_of(sums: list[int]) -> str:
    return f"{crc32c(b''.join(block.to_bytes(4, 'big') for block in sums)):08x}" if sums else ""
