"""Bytes of a file on chunks, pieces and replicas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs.client.core.striping import SPREAD_BYTES, locate, part_end, replica_order, split_range
from gfs.messages.chunks import Replica
from gfs.settings import READ_LONG_RANGE_BYTES, READ_RANGE_BYTES
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB, Address, ChunkHandle, ClientId, ServerId
from tests.paper.boxes import keeps

offsets = st.integers(0, 40 * CHUNK_BYTES)
part_sizes = st.sampled_from([64 * KIB, 1 * MIB, 4 * MIB, 8 * MIB, 3 * MIB + 1])


@given(offset=offsets, length=st.integers(0, 3 * CHUNK_BYTES), part_bytes=part_sizes)
def test_spans_cover_the_range_once_in_order_and_stay_within_chunk_and_part(
    offset: int, length: int, part_bytes: int
) -> None:
    spans = split_range(offset, length, part_bytes=part_bytes)
    at = 0
    for span in spans:
        assert span.at == at and span.length_bytes > 0
        assert locate(offset + at) == (span.chunk, span.first)
        assert span.first + span.length_bytes <= CHUNK_BYTES
        assert span.first // part_bytes == (span.first + span.length_bytes - 1) // part_bytes
        at += span.length_bytes
    assert at == length


@given(offset=offsets, part_bytes=part_sizes)
def test_a_part_ends_behind_its_offset_at_a_multiple_of_its_size_or_the_chunks_end(
    offset: int, part_bytes: int
) -> None:
    end = part_end(offset, part_bytes)
    assert offset < end <= offset + part_bytes
    assert end % CHUNK_BYTES == 0 or (end % CHUNK_BYTES) % part_bytes == 0


def _replicas(*hosts: str) -> list[Replica]:
    return [
        Replica(ServerId(f"cs{n}"), Address(f"{host}:1{n}"), Address(f"{host}:2{n}"))
        for n, host in enumerate(hosts)
    ]


def _order(replicas: list[Replica], *, handle: int = 7, first: int = 0, **given: object) -> list[str]:
    local_hosts = given.get("local_hosts", ())
    avoided = given.get("avoided", ())
    assert isinstance(local_hosts, tuple) and isinstance(avoided, tuple)
    found = replica_order(
        replicas,
        handle=ChunkHandle(handle),
        client=ClientId(5),
        first=first,
        local_hosts=local_hosts,
        avoided=avoided,
    )
    return [replica.server for replica in found]


@keeps("nearest-replica")
def test_the_replica_on_the_readers_host_is_tried_first() -> None:
    replicas = _replicas("a", "b", "c")
    for handle in range(20):
        assert _order(replicas, handle=handle, local_hosts=("b",))[0] == "cs1"


def test_a_replica_that_lately_failed_is_tried_last_even_on_the_same_host() -> None:
    replicas = _replicas("a", "b", "c")
    assert _order(replicas, local_hosts=("b",), avoided=("cs1",))[-1] == "cs1"


@keeps("hot-spots")
def test_reads_of_different_chunks_and_regions_spread_over_all_replicas() -> None:
    replicas = _replicas("a", "b", "c")
    by_chunk = [_order(replicas, handle=handle)[0] for handle in range(300)]
    assert all(by_chunk.count(server) > 60 for server in ("cs0", "cs1", "cs2"))
    by_region = {_order(replicas, first=first)[0] for first in range(0, CHUNK_BYTES, SPREAD_BYTES)}
    assert len(by_region) > 1


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("range_bytes", [READ_RANGE_BYTES, READ_LONG_RANGE_BYTES])
def test_ranges_of_one_reader_that_are_under_way_together_are_at_several_replicas(
    count: int, range_bytes: int
) -> None:
    replicas = _replicas("a", "b", "c", "d")[:count]
    for start in range(0, CHUNK_BYTES - 2 * range_bytes, range_bytes):
        firsts = range(start, start + 3 * range_bytes, range_bytes)
        assert len({_order(replicas, first=first)[0] for first in firsts}) >= 2


@given(first=st.integers(0, CHUNK_BYTES - 1), handle=st.integers(0, 2**63))
def test_the_order_holds_every_replica_once_and_does_not_change_between_calls(
    first: int, handle: int
) -> None:
    replicas = _replicas("a", "b", "c", "d")
    order = _order(replicas, first=first, handle=handle)
    assert sorted(order) == ["cs0", "cs1", "cs2", "cs3"]
    assert order == _order(replicas, first=first, handle=handle)
    assert _order([]) == []
