"""GFS §4.3, re-replication: how a replica is made. Which chunk comes first is said elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gfs.messages.cluster import DiskStatus, DiskStatusReply
from gfs.vocabulary import MIB, ChunkVersion
from tests.chunkserver.rig import HANDLE, Rig
from tests.chunkserver.test_service_clones import SOME, clone, join
from tests.fakes.clock import settle
from tests.paper.boxes import keeps


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Servers a, b, c hold version 1 of a chunk with SOME in it; d holds nothing."""
    here = Rig(tmp_path)
    await here.three()
    await here.put(SOME)
    here.start("d")
    yield here
    await here.stop()


@keeps("re-replication")
async def test_master_has_a_chunk_server_copy_the_data_straight_from_a_valid_replica(rig: Rig) -> None:
    """The master clones a chunk by instructing some chunk server to fetch it from an existing replica."""
    await clone(rig)
    assert sum(length for _, length in rig.pieces_read) == len(SOME)  # on the bulk port of a, from d
    await join(rig)
    assert rig.nodes["d"].content(ChunkVersion(3)) == SOME


@keeps("re-replication")
async def test_server_limits_the_bandwidth_of_each_clone_by_holding_back_its_reads(rig: Rig) -> None:
    """So that clones do not drown the traffic of clients, a server throttles its reads of a source."""
    copying = asyncio.ensure_future(clone(rig, bytes_per_second=MIB))
    await settle()
    read = sum(length for _, length in rig.pieces_read)
    assert read <= MIB < len(SOME)
    status = await rig.ask("d", DiskStatus(), DiskStatusReply)
    assert [progress.handle for progress in status.clones] == [HANDLE]
    await rig.put(b"a client's", 0)  # goes through meanwhile
    await rig.clock.advance(0.5)
    assert not copying.done()
    await rig.clock.advance(2.0)
    await copying
