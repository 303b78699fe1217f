"""The chain of replicas on real sockets: every hop holds the bytes, or is named (GFS §3.2)."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from gfs import failpoints
from gfs.checksums import piece_checksums
from gfs.chunkserver.push_buffer import PushBuffer
from gfs.chunkserver.push_chain import PushChain
from gfs.clock import SystemClock
from gfs.errors import (
    ChecksumMismatch,
    GfsError,
    InternalFault,
    NotFound,
    Overloaded,
    PushMissing,
    StaleVersion,
)
from gfs.messages.data import PushAnswer
from gfs.transport.data_client import DataClient
from gfs.transport.data_server import DataServer
from gfs.vocabulary import (
    CHECKSUM_BLOCK_BYTES,
    KIB,
    MIB,
    Address,
    ChunkHandle,
    ChunkVersion,
    PushId,
    split_address,
)
from tests.fakes.data_handler import MemoryDataHandler
from tests.paper.boxes import keeps
from tests.waiting import until

HANDLE, VERSION = ChunkHandle(7), ChunkVersion(2)
PIECE = os.urandom(MIB + 12_345)
OFFSET = 5 * CHECKSUM_BLOCK_BYTES + 999
HOP_SECONDS = 0.3


class MemoryReplicas:
    """The replica store's reading side, in memory."""

    def __init__(self) -> None:
        self.content = os.urandom(700 * KIB)
        self.windows: list[tuple[int, int]] = []

    def committed_length(self, handle: ChunkHandle, version: ChunkVersion, *, wanted_bytes: int = 0) -> int:
        if handle != HANDLE:
            raise NotFound(f"no chunk {handle}")
        if version != VERSION:
            raise StaleVersion(f"version {VERSION} is held")
        return len(self.content)

    def read_into(self, handle: ChunkHandle, version: ChunkVersion, offset: int, buffer: memoryview) -> int:
        self.committed_length(handle, version)
        self.windows.append((offset, len(buffer)))
        piece = self.content[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def checksums(
        self, handle: ChunkHandle, version: ChunkVersion, offset: int, length: int
    ) -> list[int] | None:
        return None

    def send(self, handle: ChunkHandle, out: int, offset: int, length: int) -> int:
        return 0


class Hop:
    """A chunk server's bulk side."""

    def __init__(self, buffer_bytes: int = 32 * MIB) -> None:
        self.buffer = PushBuffer(buffer_bytes, 60.0, SystemClock())
        self.client = DataClient(congestion_control="cubic")
        self.replicas = MemoryReplicas()
        chain = PushChain(self.buffer, self.client, self.replicas, hop_seconds=HOP_SECONDS)
        self.server = DataServer(
            Address("127.0.0.1:0"), chain, connections_max=32, congestion_control="cubic"
        )
        self.server.start()

    @property
    def address(self) -> Address:
        return self.server.address

    def holds(self, push_id: str, content: bytes = PIECE) -> bool:
        try:
            piece = self.buffer.take(PushId(push_id))
        except PushMissing:
            return False
        assert bytes(piece.data) == content
        assert piece.offset == OFFSET
        assert list(piece.checksums) == piece_checksums(OFFSET, content)
        self.buffer.release(piece, used=False)
        return True

    def stop(self) -> None:
        self.client.close()
        self.server.stop()


@pytest.fixture
def hops() -> Iterator[list[Hop]]:
    made = [Hop() for _ in range(3)]
    yield made
    for hop in made:
        hop.stop()


@pytest.fixture
def client() -> Iterator[DataClient]:
    made = DataClient(congestion_control="cubic")
    yield made
    made.close()


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr(failpoints, "_armed", failpoints._parse(text))


def push(
    client: DataClient,
    first: Address,
    *chain: Address,
    name: str = "p1",
    content: bytes = PIECE,
    sums: list[int] | None = None,
) -> PushAnswer:
    return client.push(
        first,
        PushId(name),
        memoryview(content),
        offset=OFFSET,
        chain=chain,
        checksums=sums,
        deadline_seconds=20.0,
    )


def nobody() -> Address:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Address(f"127.0.0.1:{listener.getsockname()[1]}")


@pytest.fixture
def silent() -> Iterator[Address]:
    """A hop that is stopped: the kernel still takes connections, and a little data."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address(f"127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize("with_sums", [False, True])
def test_every_hop_holds_the_bytes_and_answers_with_their_sums(
    client: DataClient, hops: list[Hop], with_sums: bool
) -> None:
    sums = piece_checksums(OFFSET, PIECE)
    first, *chain = (hop.address for hop in hops)
    answer = push(client, first, *chain, sums=sums if with_sums else None)
    assert answer == PushAnswer(received_bytes=len(PIECE), checksums=sums, failed={})
    assert all(hop.holds("p1") for hop in hops)


@pytest.mark.parametrize("length", [1, 1000, CHECKSUM_BLOCK_BYTES - 999, CHECKSUM_BLOCK_BYTES, 8 * MIB])
def test_pieces_of_any_length_are_summed_along_the_blocks_of_the_chunk(
    client: DataClient, hops: list[Hop], length: int
) -> None:
    content = os.urandom(length)
    push(client, hops[0].address, hops[1].address, content=content)
    assert all(hop.holds("p1", content) for hop in hops[:2])


@keeps("data-chain")
def test_bytes_are_forwarded_while_they_are_still_being_received(hops: list[Hop]) -> None:
    seen = MemoryDataHandler()
    behind = DataServer(Address("127.0.0.1:0"), seen, connections_max=2, congestion_control="cubic")
    behind.start()
    head = f"PUT /v1/data/p1 HTTP/1.1\r\nContent-Length: {2 * MIB}\r\nGfs-Chain: {behind.address}\r\n\r\n"
    with socket.create_connection(split_address(hops[0].address), timeout=10) as sender:
        sender.sendall(head.encode() + bytes(MIB))
        assert seen.begun.acquire(timeout=10)
        assert seen.sinks[0].some_arrived.wait(10)  # and the sender has not sent the rest
        sender.sendall(bytes(MIB))
        assert sender.recv(100).startswith(b"HTTP/1.1 200 ")
    assert seen.pushed == {"p1": bytes(2 * MIB)}
    behind.stop()


def test_a_dead_hop_is_named_and_the_one_behind_it_is_served(client: DataClient, hops: list[Hop]) -> None:
    dead = nobody()
    answer = push(client, hops[0].address, dead, hops[1].address)
    assert list(answer.failed) == [dead]
    assert answer.failed[dead].startswith("unavailable: ")
    assert hops[0].holds("p1")
    assert hops[1].holds("p1")


def test_a_dead_last_hop_is_named_through_the_whole_chain(client: DataClient, hops: list[Hop]) -> None:
    dead = nobody()
    answer = push(client, hops[0].address, hops[1].address, dead)
    assert list(answer.failed) == [dead]
    assert all(hop.holds("p1") for hop in hops[:2])


def test_a_silent_hop_is_named_by_the_hop_before_it_and_blames_nobody_else(
    client: DataClient, hops: list[Hop], silent: Address
) -> None:
    answer = push(client, hops[0].address, hops[1].address, silent)
    assert list(answer.failed) == [silent]
    assert answer.failed[silent].startswith("deadline_exceeded: ")
    assert all(hop.holds("p1") for hop in hops[:2])


def test_a_silent_hop_in_the_middle_does_not_keep_the_bytes_from_the_last(
    client: DataClient, hops: list[Hop], silent: Address
) -> None:
    answer = push(client, hops[0].address, silent, hops[2].address)
    assert list(answer.failed) == [silent]
    assert hops[2].holds("p1")


def test_a_hop_that_dies_in_the_middle_of_a_push_is_named(hops: list[Hop], client: DataClient) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    dying = Address(f"127.0.0.1:{listener.getsockname()[1]}")

    def dies() -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.close()
        listener.close()

    thread = threading.Thread(target=dies)
    thread.start()
    answer = push(client, hops[0].address, dying, hops[1].address)
    thread.join()
    assert list(answer.failed) == [dying]
    assert hops[0].holds("p1")
    assert hops[1].holds("p1")


def test_a_hop_that_holds_other_bytes_is_named(client: DataClient, hops: list[Hop]) -> None:
    wrong = MemoryDataHandler()
    wrong.answers_other_checksums = True
    behind = DataServer(Address("127.0.0.1:0"), wrong, connections_max=2, congestion_control="cubic")
    behind.start()
    answer = push(client, hops[0].address, behind.address, hops[1].address)
    assert list(answer.failed) == [behind.address]
    assert answer.failed[behind.address].startswith("checksum_mismatch: ")
    assert hops[0].holds("p1")
    assert hops[1].holds("p1")
    behind.stop()


def test_a_hop_without_room_is_named_as_overloaded(client: DataClient, hops: list[Hop]) -> None:
    full = Hop(buffer_bytes=64 * KIB)
    answer = push(client, hops[0].address, full.address, hops[1].address)
    assert answer.failed[full.address].startswith("overloaded: ")
    assert hops[1].holds("p1")
    full.stop()


def test_a_first_hop_without_room_refuses(client: DataClient) -> None:
    full = Hop(buffer_bytes=64 * KIB)
    with pytest.raises(Overloaded):
        push(client, full.address)
    full.stop()


def test_bytes_that_are_not_what_the_client_summed_are_kept_by_no_hop(
    client: DataClient, hops: list[Hop]
) -> None:
    sums = piece_checksums(OFFSET, PIECE)
    sums[3] ^= 1
    first, *chain = (hop.address for hop in hops)
    with pytest.raises(ChecksumMismatch) as refusal:
        push(client, first, *chain, sums=sums)
    assert refusal.value.details == {"block": "3"}
    assert not any(hop.holds("p1") for hop in hops)
    assert hops[0].buffer.used_bytes == 0


def test_a_push_that_breaks_off_is_kept_by_no_hop(hops: list[Hop]) -> None:
    seen = MemoryDataHandler()
    behind = DataServer(Address("127.0.0.1:0"), seen, connections_max=2, congestion_control="cubic")
    behind.start()
    head = f"PUT /v1/data/p1 HTTP/1.1\r\nContent-Length: {2 * MIB}\r\nGfs-Chain: {behind.address}\r\n\r\n"
    with socket.create_connection(split_address(hops[0].address), timeout=10) as sender:
        sender.sendall(head.encode() + bytes(MIB))
        assert seen.begun.acquire(timeout=10)
    assert seen.sinks[0].abandoned.wait(10)
    behind.stop()
    assert not hops[0].holds("p1")

    async def is_empty() -> bool:  # it tells the next hop first
        return hops[0].buffer.used_bytes == 0

    asyncio.run(until(is_empty, "the first hop gives the memory back"))


def test_a_restarted_next_hop_is_found_again_over_a_stale_connection(client: DataClient) -> None:
    first, second = Hop(), Hop()
    assert not push(client, first.address, second.address, name="before").failed
    address = second.address
    second.stop()
    handler = MemoryDataHandler()
    restarted = DataServer(address, handler, connections_max=2, congestion_control="cubic")
    restarted.start()
    assert not push(client, first.address, address, name="after").failed
    assert handler.pushed["after"] == PIECE
    first.stop()
    restarted.stop()


def test_pushes_in_flight_together_do_not_mix(client: DataClient, hops: list[Hop]) -> None:
    contents = {f"p{turn}": os.urandom(300_000 + turn) for turn in range(12)}
    answers: dict[str, PushAnswer] = {}

    def run(name: str) -> None:
        turn = int(name[1:])
        order = [hops[(turn + step) % 3].address for step in range(3)]
        answers[name] = push(client, *order, name=name, content=contents[name])

    threads = [threading.Thread(target=run, args=(name,)) for name in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(answer.failed for answer in answers.values())
    assert all(hop.holds(name, content) for hop in hops for name, content in contents.items())


@pytest.mark.parametrize("name", ["push.received", "push.forwarded"])
def test_a_fault_at_a_failpoint_is_answered_and_the_next_push_goes_well(
    client: DataClient, hops: list[Hop], arm: Callable[[str], None], name: str
) -> None:
    arm(f"{name}=raise")
    with pytest.raises(InternalFault):
        push(client, hops[0].address)
    arm("")
    assert not push(client, hops[0].address).failed
    assert hops[0].holds("p1")


def test_no_space_at_a_hop_is_named(client: DataClient, hops: list[Hop], arm: Callable[[str], None]) -> None:
    arm("push.received=nospace")
    with pytest.raises(GfsError) as refusal:
        push(client, hops[0].address)
    assert refusal.value.code == "no_space"
    assert hops[0].buffer.used_bytes == 0


def test_reads_come_from_the_replica_store_in_windows_along_the_blocks(
    client: DataClient, hops: list[Hop]
) -> None:
    content = hops[0].replicas.content
    buffer = memoryview(bytearray(len(content)))
    got = client.read_into(hops[0].address, HANDLE, VERSION, 1000, buffer, deadline_seconds=10)
    assert got == (len(content) - 1000, len(content))
    assert bytes(buffer[: got[0]]) == content[1000:]
    ends = [offset + length for offset, length in hops[0].replicas.windows]
    assert all(end % CHECKSUM_BLOCK_BYTES == 0 for end in ends[:-1])


def test_reads_of_another_version_or_chunk_are_refused(client: DataClient, hops: list[Hop]) -> None:
    buffer = memoryview(bytearray(1))
    with pytest.raises(StaleVersion):
        client.read_into(hops[0].address, HANDLE, ChunkVersion(1), 0, buffer, deadline_seconds=10)
    with pytest.raises(NotFound):
        client.read_into(hops[0].address, ChunkHandle(8), VERSION, 0, buffer, deadline_seconds=10)
