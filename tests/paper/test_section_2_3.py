"""§2.3, architecture: chunks, handles, replicas, and a master no file byte passes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gfs.transport import frames
from gfs.vocabulary import CHUNK_BYTES, KIB, MIB
from tests.client.real_cluster import RealCluster
from tests.paper.boxes import keeps


@keeps("chunk-handles")
async def test_a_handle_is_of_one_chunk_for_ever_and_its_replicas_are_plain_files(tmp_path: Path) -> None:
    """The master gives each chunk an immutable, globally unique 64-bit handle; servers keep local files."""
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        content = random.Random(23).randbytes(MIB)
        await client.write_bytes("/a", content)
        await client.write_bytes("/b", content * 65)
        first = [place.handle for path in ("/a", "/b") for place in await client.chunks(path)]
        assert len(set(first)) == 3 and all(0 < handle < 2**64 for handle in first)
        await client.rename("/a", "/c")
        await client.write("/c", 0, b"x")
        assert (await client.chunks("/c"))[0].handle == first[0]
        files = cluster.replica_files(first[0])
        assert len(files) == 3
        assert {file.read_bytes() for file in files} == {b"x" + content[1:]}
        await client.delete("/c")
        await client.write_bytes("/a", content)
        assert (await client.chunks("/a"))[0].handle not in first


@keeps("three-replicas")
async def test_three_replicas_unless_another_number_is_asked_for(tmp_path: Path) -> None:
    """Three by default, which users may change for parts of the namespace."""
    async with RealCluster(tmp_path, chunkservers=4) as cluster, await cluster.client() as client:
        await client.write_bytes("/three", b"abc")
        await client.create("/two", replication_goal=2)
        await client.write("/two", 0, b"abc")
        for path, number in (("/three", 3), ("/two", 2)):
            place = (await client.chunks(path))[0]
            assert len(place.replicas) == len(cluster.replica_files(place.handle)) == number


@keeps("no-data-through-master")
async def test_no_byte_of_a_file_passes_a_master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients talk to the master about metadata only; all bytes go straight to chunk servers."""
    marker = b"bytes of a file, which are no business of a master's"
    seen = bytearray()
    encode = frames._encoder.encode

    class Listening:
        def encode(self, frame: object) -> bytes:
            encoded = encode(frame)
            seen.extend(encoded)
            return encoded

    monkeypatch.setattr(frames, "_encoder", Listening())
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        content = marker * (4 * MIB // len(marker))
        await client.write_bytes("/a", content)
        assert await client.read_bytes("/a") == content
        for name in cluster.masters:
            for path in (tmp_path / name).rglob("*"):
                assert path.is_dir() or marker not in path.read_bytes(), path
    assert b"/a" in seen
    assert marker not in seen


@keeps("chunk-size")
async def test_a_chunk_takes_the_space_of_what_was_written_and_not_of_its_length(tmp_path: Path) -> None:
    """§2.5: chunks of 64 MiB, and no space lost to the part of them that is not there yet."""
    async with RealCluster(tmp_path) as cluster, await cluster.client() as client:
        await client.create("/a")
        await client.write("/a", CHUNK_BYTES - 10, b"0123456789")
        await client.write("/a", CHUNK_BYTES, b"next")
        places = await client.chunks("/a")
        assert CHUNK_BYTES == 64 * MIB and len(places) == 2
        for place in places:
            for file in cluster.replica_files(place.handle):
                assert file.stat().st_blocks * 512 < 256 * KIB
        assert await client.read("/a", CHUNK_BYTES - 11, 15) == b"\0" + b"0123456789" + b"next"
