"""Leases that the pieces of one file share: who reports a failure when, and what is asked for then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gfs.client.chunk_leases import ChunkLeases
from gfs.messages.chunks import ChunkLease, Replica
from gfs.vocabulary import Address, ChunkHandle, ChunkIndex, ChunkVersion, InodeId, ServerId
from tests.fakes.clock import settle

FIRST = ChunkIndex(0)


def lease(version: int) -> ChunkLease:
    replica = Replica(ServerId("cs1"), Address("cs1:1"), Address("cs1:2"))
    return ChunkLease(
        handle=ChunkHandle(1),
        version=ChunkVersion(version),
        index=FIRST,
        primary=ServerId("cs1"),
        replicas=[replica],
        lease_seconds=60.0,
    )


class Masters:
    """A master session that answers when the test does."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[ChunkLease]] = []

    async def ask_leader(self, *_: Any, **__: Any) -> ChunkLease:  # Any: as MasterSession has them
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


@pytest.mark.timeout(20)
async def test_a_failure_reported_in_the_turn_in_which_a_lease_comes_keeps_nobody_waiting() -> None:
    masters = Masters()
    leases = ChunkLeases(masters, inode=InodeId(2), path="/f")  # type: ignore[arg-type]  # all it asks of one
    asking = asyncio.create_task(leases.current(FIRST))
    await settle()
    masters.answers[0].set_result(lease(2))
    reporting = asyncio.create_task(leases.renew(FIRST, lease(1), failed=True))
    await reporting
    assert (await asking).version == 2
    assert len(masters.answers) == 1, "the newer lease was there"
