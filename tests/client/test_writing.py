"""The streaming writer: pieces side by side, ordered in sequence, over failures (GFS §3.1-3.2)."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from gfs.errors import (
    AlreadyExists,
    GfsError,
    InvalidArgument,
    IsADirectory,
    LeaseExpired,
    NoSpace,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    PushMissing,
    ReplicaFailed,
)
from gfs.messages.namespace import SetLengthHint
from gfs.messages.replicas import WriteChunk
from gfs.settings import INLINE_WRITE_BYTES_MAX, ClientSettings
from gfs.vocabulary import CHUNK_BYTES, MIB, ServerId
from tests.client.mini_cluster import PIECE_BYTES, MiniCluster, eventually, lost
from tests.fakes.clock import settle
from tests.paper.boxes import keeps


def _bytes(length: int, seed: int = 1) -> bytes:
    pattern = bytes((n * 31 + seed * 7 + n // 251) % 256 for n in range(65_521))
    return (pattern * (length // len(pattern) + 1))[:length]


async def test_what_was_written_is_on_every_replica_and_read_back_equal() -> None:
    cluster = MiniCluster()
    data = _bytes(5 * PIECE_BYTES + 123)
    async with cluster.client() as client:
        await client.write_bytes("/a", data)
        assert cluster.contents("/a") == [data]
        assert await client.read_bytes("/a") == data
        entry = await client.stat("/a")
        assert (entry.length_bytes, entry.length_exact) == (len(data), True)


async def test_small_writes_are_gathered_into_pieces_that_end_at_the_same_places_as_large_ones() -> None:
    cluster = MiniCluster()
    data = _bytes(2 * PIECE_BYTES + 100_000)
    async with cluster.client() as client:
        async with await client.open("/a", "wb") as file:
            at = 0
            for length in (1, 7, 100_000, 3, len(data)):
                assert await file.write(bytearray(data[at : at + length])) == len(data[at : at + length])
                at += length
            assert file.tell() == len(data)
        assert cluster.contents("/a") == [data]
    assert sorted(cluster.bulk.pushed_offsets) == [0, PIECE_BYTES, 2 * PIECE_BYTES]


async def test_a_short_piece_comes_with_its_order_and_a_longer_one_is_pushed_first() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        for length in (1, 4096, INLINE_WRITE_BYTES_MAX):
            await client.write_bytes(f"/{length}", _bytes(length))
            assert cluster.contents(f"/{length}") == [_bytes(length)]
        assert cluster.bulk.pushed_offsets == []
        await client.write_bytes("/long", _bytes(INLINE_WRITE_BYTES_MAX + 1))
        assert cluster.bulk.pushed_offsets == [0]
        await client.write_bytes("/rest", _bytes(PIECE_BYTES + 5))
        assert cluster.bulk.pushed_offsets == [0, 0], "the rest of a long file is short"
        assert cluster.contents("/rest") == [_bytes(PIECE_BYTES + 5)]


async def test_a_short_piece_is_pushed_when_the_primary_does_not_take_it_with_its_order() -> None:
    """A primary of an earlier version skips the bytes that came along, and looks for a push."""
    cluster = MiniCluster()
    cluster.servers["cs1"].refusals = [PushMissing("not here")]
    async with cluster.client() as client:
        await client.write_bytes("/a", b"abc")
        assert cluster.contents("/a") == [b"abc"]
    assert cluster.bulk.pushed_offsets == [0]


async def test_a_buffer_may_be_changed_as_soon_as_write_has_returned() -> None:
    cluster = MiniCluster()
    cluster.bulk.gates = {0: threading.Event()}
    buffer = bytearray(_bytes(PIECE_BYTES))
    wanted = bytes(buffer)
    async with cluster.client() as client:
        async with await client.open("/a", "wb") as file:
            await file.write(buffer)
            buffer[:] = bytes(len(buffer))
            cluster.bulk.gates[0].set()
        assert cluster.contents("/a") == [wanted]


@keeps("bandwidth-over-latency")
async def test_pieces_are_pushed_side_by_side_but_ordered_one_after_another() -> None:
    cluster = MiniCluster()
    cluster.bulk.gates = {0: threading.Event()}
    data = _bytes(3 * PIECE_BYTES)
    async with cluster.client() as client:
        writing = asyncio.create_task(client.write_bytes("/a", data))
        await eventually(lambda: sorted(cluster.bulk.pushed_offsets) == [0, PIECE_BYTES, 2 * PIECE_BYTES])
        await settle()
        assert cluster.seen(WriteChunk) == []  # later pieces have arrived, and wait for the first one
        cluster.bulk.gates[0].set()
        await writing
        assert cluster.contents("/a") == [data]
    assert cluster.servers["cs1"].offsets_ordered == [0, PIECE_BYTES, 2 * PIECE_BYTES]


async def test_no_more_pieces_are_on_their_way_than_the_settings_allow() -> None:
    cluster = MiniCluster()
    cluster.bulk.gates = {0: threading.Event()}
    settings = ClientSettings(piece_bytes=PIECE_BYTES, pieces_in_flight=2)
    async with cluster.client(settings) as client:
        writing = asyncio.create_task(client.write_bytes("/a", _bytes(5 * PIECE_BYTES)))
        await eventually(lambda: len(cluster.bulk.pushed_offsets) == 2)
        await settle()
        assert len(cluster.bulk.pushed_offsets) == 2
        cluster.bulk.gates[0].set()
        await writing


async def test_a_write_over_a_chunk_boundary_has_the_next_lease_before_the_chunk_is_full() -> None:
    cluster = MiniCluster(servers=3)
    settings = ClientSettings(piece_bytes=8 * MIB)
    gate = cluster.bulk.gates.setdefault(CHUNK_BYTES - 8 * MIB, threading.Event())
    data = _bytes(CHUNK_BYTES + 5)
    async with cluster.client(settings) as client:
        writing = asyncio.create_task(client.write_bytes("/a", data))
        await eventually(lambda: len(cluster.leases_asked) >= 2)
        assert len(cluster.nodes["/a"].chunks) == 2  # while the first chunk's last piece is still on its way
        gate.set()
        await writing
        assert cluster.contents("/a") == [data]
        assert await client.read_bytes("/a") == data


async def test_a_replica_lost_in_the_middle_of_a_write_is_left_out_and_no_byte_is_lost() -> None:
    for victim in ("cs1", "cs2", "cs3"):
        cluster = MiniCluster()
        gate = cluster.bulk.gates.setdefault(2 * PIECE_BYTES, threading.Event())
        data = _bytes(6 * PIECE_BYTES)
        async with cluster.client() as client:
            writing = asyncio.create_task(client.write_bytes("/a", data))
            await eventually(lambda cluster=cluster: 2 * PIECE_BYTES in cluster.bulk.pushed_offsets)  # type: ignore[misc]
            await cluster.kill_server(victim)
            gate.set()
            await writing
            handle = cluster.nodes["/a"].chunks[0]
            assert cluster.grants[handle].servers == [f"cs{n}" for n in (1, 2, 3) if f"cs{n}" != victim]
            assert cluster.contents("/a") == [data]
            assert await client.read_bytes("/a") == data
        assert [request.suspects for request in cluster.leases_asked if request.failed_version] == [[victim]]


@pytest.mark.parametrize(
    ("error", "suspects"),
    [
        (ReplicaFailed("cs2 failed", details={"servers": "cs2"}), ["cs2"]),
        (NoSpace("disk full"), ["cs1"]),
        (PushMissing("dropped"), []),
        (lost(), ["cs1"]),
    ],
)
async def test_a_refused_piece_is_repeated_at_its_offset_under_a_new_version(
    error: GfsError, suspects: list[str]
) -> None:
    cluster = MiniCluster()
    cluster.servers["cs1"].refusals = [error]
    data = _bytes(3 * PIECE_BYTES)
    async with cluster.client() as client:
        await client.write_bytes("/a", data)
        assert cluster.contents("/a") == [data]
    failed = [request for request in cluster.leases_asked if request.failed_version]
    assert [(request.failed_version, request.suspects) for request in failed] == [(1, suspects)]


def full(*servers: str) -> NoSpace:
    return NoSpace("no space is left", details={"servers": ",".join(servers)})


async def test_full_disks_under_a_chunk_with_bytes_in_it_end_the_write_soon_and_for_certain() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.write_bytes("/a", b"abc")
        asked = len(cluster.leases_asked)
        for server in cluster.servers.values():
            server.refusals = [full(*cluster.servers) for _ in range(5)]
        with pytest.raises(NoSpace):
            await client.write("/a", 0, b"x")
        assert len(cluster.leases_asked) - asked <= 2  # no version more is spent on it
        for server in cluster.servers.values():
            server.refusals = []
        assert cluster.contents("/a") == [b"abc"]


async def test_full_disks_after_a_try_nobody_knows_the_end_of_leave_the_outcome_unknown() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.write_bytes("/a", b"abc")
        for server in cluster.servers.values():
            server.refusals = [ReplicaFailed("half of it"), *(full(*cluster.servers) for _ in range(5))]
        with pytest.raises(OutcomeUnknown, match="no space"):
            await client.write("/a", 0, b"x")


async def test_a_write_that_is_refused_for_certain_after_a_part_of_it_was_written_is_not_said_undone() -> (
    None
):
    cluster = MiniCluster()
    settings = ClientSettings(piece_bytes=PIECE_BYTES, retry_seconds=0.2)
    async with cluster.client(settings) as client:
        await client.write_bytes("/a", b"a" * 2 * PIECE_BYTES)
        for server in cluster.servers.values():
            server.refusals = [None, *(full(*cluster.servers) for _ in range(20))]
        with pytest.raises(OutcomeUnknown, match="some of the bytes may be written") as raised:
            await client.write("/a", 0, b"b" * 2 * PIECE_BYTES)
        assert isinstance(raised.value.__cause__, NoSpace)
        assert cluster.contents("/a")[0].startswith(b"b")


async def test_a_write_refused_for_certain_after_a_try_nobody_knows_the_end_of_is_not_said_undone() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.write_bytes("/a", b"abc")
        for server in cluster.servers.values():
            server.refusals = [
                ReplicaFailed("half of it"),
                *(PermissionDenied("not yours") for _ in range(5)),
            ]
        with pytest.raises(OutcomeUnknown, match="some of the bytes may be written"):
            await client.write("/a", 0, b"x")


async def test_a_lease_that_ran_out_is_asked_for_again_without_accusing_anybody() -> None:
    cluster = MiniCluster()
    cluster.servers["cs1"].refusals = [LeaseExpired("over")]
    async with cluster.client() as client:
        await client.write_bytes("/a", b"abc")
    assert [(request.failed_version, request.suspects) for request in cluster.leases_asked] == [
        (0, []),
        (0, []),
    ]


async def test_a_lease_that_the_master_believes_in_and_the_primary_does_not_is_replaced() -> None:
    cluster = MiniCluster()
    cluster.servers["cs1"].refusals = [LeaseExpired("over") for _ in range(3)]
    async with cluster.client() as client:
        await client.write_bytes("/a", b"abc")
        assert cluster.contents("/a") == [b"abc"]
    assert cluster.leases_asked[-1].failed_version == 1


async def test_an_overloaded_chunk_server_is_asked_again_under_the_same_lease() -> None:
    cluster = MiniCluster()
    cluster.servers["cs1"].refusals = [Overloaded("busy") for _ in range(3)]
    async with cluster.client() as client:
        await client.write_bytes("/a", b"abc")
    assert len(cluster.leases_asked) == 1


async def test_bytes_lost_from_the_push_buffers_are_pushed_again() -> None:
    cluster = MiniCluster()
    cluster.bulk.lose_pushes = 1
    data = _bytes(INLINE_WRITE_BYTES_MAX + 1)
    async with cluster.client() as client:
        await client.write_bytes("/a", data)
        assert cluster.contents("/a") == [data]
    assert cluster.bulk.pushed_offsets == [0, 0]


async def test_a_lease_grant_during_a_change_of_leader_only_delays_the_writer() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        async with await client.open("/a", "wb") as file:
            cluster.leader = "m2:9500"
            await cluster.kill_master("m1:9500")
            await file.write(_bytes(2 * PIECE_BYTES))
        assert cluster.contents("/a") == [_bytes(2 * PIECE_BYTES)]


async def test_when_no_replica_is_left_the_error_tells_file_chunk_and_what_was_tried() -> None:
    cluster = MiniCluster(servers=3)
    settings = ClientSettings(piece_bytes=PIECE_BYTES, retry_seconds=0.2)
    async with cluster.client(settings) as client:
        file = await client.open("/a", "wb")
        await file.write(_bytes(PIECE_BYTES))
        await file.flush()
        for name in ("cs1", "cs2", "cs3"):
            await cluster.kill_server(name)
        await file.write(_bytes(PIECE_BYTES))
        with pytest.raises(GfsError, match=r"write /a, .*chunk 0") as raised:
            await file.close()
        assert "not_enough_chunkservers" in str(raised.value) or "cs1,cs2,cs3" in str(raised.value)


async def test_after_a_failure_nothing_more_is_accepted_and_close_does_not_claim_success() -> None:
    cluster = MiniCluster(servers=3)
    settings = ClientSettings(piece_bytes=PIECE_BYTES, retry_seconds=0.1)
    async with cluster.client(settings) as client:
        file = await client.open("/a", "wb")
        for name in ("cs1", "cs2", "cs3"):
            await cluster.kill_server(name)
        with pytest.raises(GfsError):
            await file.write(_bytes(20 * PIECE_BYTES))
        with pytest.raises(GfsError):
            await file.write(b"more")
        with pytest.raises(GfsError):
            await file.close()
        assert file.closed
    assert cluster.seen(SetLengthHint) == []


async def test_writing_to_a_file_that_was_deleted_meanwhile_fails_at_once() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        file = await client.open("/a", "wb")
        await client.delete("/a")
        with pytest.raises(NotFound):
            await file.write(_bytes(5 * PIECE_BYTES))
            await file.close()
        await file.discard()


async def test_bytes_in_the_middle_of_a_file_can_be_overwritten() -> None:
    cluster = MiniCluster()
    data = _bytes(3 * PIECE_BYTES)
    async with cluster.client() as client:
        await client.write_bytes("/a", data)
        await client.write("/a", PIECE_BYTES - 5, b"0123456789")
        wanted = data[: PIECE_BYTES - 5] + b"0123456789" + data[PIECE_BYTES + 5 :]
        assert await client.read_bytes("/a") == wanted
        assert cluster.contents("/a") == [wanted]


async def test_an_empty_file_has_no_chunk_and_length_zero() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.write_bytes("/a", b"")
        assert await client.read_bytes("/a") == b""
        assert (await client.stat("/a")).length_exact
    assert cluster.nodes["/a"].chunks == []


# --- publishing ---------------------------------------------------------------------------------


async def test_an_atomic_file_is_under_its_name_only_when_it_is_whole() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.mkdir("/d")
        await client.write_bytes("/d/a", b"old")
        async with await client.open("/d/a", "wb", atomic=True) as file:
            await file.write(b"new")
            await file.flush()
            assert await client.read_bytes("/d/a") == b"old"
        assert await client.read_bytes("/d/a") == b"new"
        assert await client.listdir("/d") == ["a"]


async def test_an_atomic_file_left_by_an_exception_never_appears_and_leaves_nothing_behind() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.mkdir("/d")
        with pytest.raises(ZeroDivisionError):
            async with await client.open("/d/a", "wb", atomic=True) as file:
                await file.write(b"half")
                raise ZeroDivisionError
        assert await client.listdir("/d") == []


async def test_what_an_atomic_write_may_not_replace_is_refused_before_any_byte_is_sent() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.mkdir("/d")
        await client.write_bytes("/a", b"old")
        with pytest.raises(IsADirectory):
            await client.open("/d", "wb", atomic=True)
        with pytest.raises(AlreadyExists):
            await client.open("/a", "xb", atomic=True)
        with pytest.raises(IsADirectory):
            await client.open("/", "wb", atomic=True)
        assert await client.listdir("/") == ["a", "d"]


async def test_two_atomic_writers_that_want_no_file_to_exist_cannot_both_succeed() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        first = await client.open("/a", "xb", atomic=True)
        second = await client.open("/a", "xb", atomic=True)
        await first.write(b"first")
        await second.write(b"second")
        await first.close()
        with pytest.raises(AlreadyExists):
            await second.close()
        assert await client.read_bytes("/a") == b"first"
        assert await client.listdir("/") == ["a"]


async def test_an_exclusive_open_of_a_file_that_exists_is_refused_and_an_unknown_mode_too() -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        await client.create("/a")
        with pytest.raises(AlreadyExists):
            await client.open("/a", "xb")
        for mode in ("r", "a", "w+", ""):
            with pytest.raises(InvalidArgument):
                await client.open("/a", mode)


# --- local files --------------------------------------------------------------------------------


async def test_a_local_file_goes_in_and_comes_out_equal_and_progress_tells_every_byte(tmp_path: Path) -> None:
    cluster = MiniCluster()
    data = _bytes(9 * MIB + 77)
    (tmp_path / "in").write_bytes(data)
    put: list[int] = []
    got: list[int] = []
    async with cluster.client(ClientSettings(piece_bytes=MIB)) as client:
        stored = await client.put_file(str(tmp_path / "in"), "/a", progress=put.append)
        fetched = await client.get_file("/a", str(tmp_path / "out"), progress=got.append)
    assert stored == fetched == sum(put) == sum(got) == len(data)
    assert (tmp_path / "out").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


async def test_an_empty_local_file_goes_in_and_comes_out(tmp_path: Path) -> None:
    cluster = MiniCluster()
    (tmp_path / "in").touch()
    async with cluster.client() as client:
        await client.put_file(str(tmp_path / "in"), "/a")
        await client.get_file("/a", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == b""


async def test_a_fetch_that_fails_leaves_the_local_file_as_it_was(tmp_path: Path) -> None:
    cluster = MiniCluster(servers=3)
    (tmp_path / "out").write_bytes(b"old")
    async with cluster.client(ClientSettings(piece_bytes=MIB, retry_seconds=0.1)) as client:
        await client.write_bytes("/a", _bytes(9 * MIB))
        for name in ("cs1", "cs2", "cs3"):
            await cluster.kill_server(name)
        with pytest.raises(GfsError):
            await client.get_file("/a", str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


async def test_a_local_file_that_cannot_be_read_is_an_error_and_no_file_appears(tmp_path: Path) -> None:
    cluster = MiniCluster()
    async with cluster.client() as client:
        with pytest.raises(FileNotFoundError):
            await client.put_file(str(tmp_path / "missing"), "/a")
        assert await client.listdir("/") == []


async def test_a_chunk_server_that_falls_silent_is_left_out_without_waiting_for_its_deadline() -> None:
    cluster = MiniCluster()
    data = _bytes(2 * PIECE_BYTES)
    async with cluster.client(ClientSettings(piece_bytes=PIECE_BYTES, data_seconds=600.0)) as client:
        cluster.servers["cs1"].hung = go_on = threading.Event()
        cluster.network.drop("client", "cs1:1", requests=100)
        file = await client.open("/a", "wb")
        await file.write(data)
        await file.close()
        assert cluster.contents("/a") == [data]
        go_on.set()
    suspects = [request.suspects for request in cluster.leases_asked if request.failed_version]
    assert suspects == [[ServerId("cs1")]]


@pytest.mark.parametrize("length", [0, 10, PIECE_BYTES, 2 * PIECE_BYTES + 17])
async def test_a_file_opened_at_its_end_goes_on_there(length: int) -> None:
    cluster = MiniCluster()
    async with cluster.client(ClientSettings(piece_bytes=PIECE_BYTES)) as client:
        head, tail = _bytes(length), _bytes(PIECE_BYTES + 5)
        await client.write_bytes("/f", head)
        for n, part in enumerate((tail, b"", b"more")):
            async with await client.open("/f", "ab") as file:
                assert file.tell() == length + (len(tail) if n else 0)
                await file.write(part)
        assert await client.read_bytes("/f") == head + tail + b"more"
        assert (await client.stat("/f")).length_bytes == length + len(tail) + 4


async def test_a_file_opened_at_its_end_is_made_when_it_is_not_there_and_never_atomic() -> None:
    cluster = MiniCluster()
    async with cluster.client(ClientSettings(piece_bytes=PIECE_BYTES)) as client:
        async with await client.open("/new", "ab") as file:
            await file.write(b"one")
        assert await client.read_bytes("/new") == b"one"
        with pytest.raises(InvalidArgument, match="atomic"):
            await client.open("/new", "ab", atomic=True)
        await client.mkdir("/d")
        with pytest.raises(IsADirectory):
            await client.open("/d", "ab")
        with pytest.raises(InvalidArgument, match="'r\\+b'") as refused:
            await client.open("/new", "r+b")
        assert "record_append" in refused.value.hint
