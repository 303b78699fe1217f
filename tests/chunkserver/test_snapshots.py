"""The chunk server's part in snapshots: leases taken back for good, and copies on the same disk (§3.4)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from gfs.checksums import piece_checksums
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.errors import (
    ChecksumMismatch,
    GfsError,
    InvalidArgument,
    LeaseExpired,
    NoSpace,
    NotFound,
    ReplicaFailed,
    StaleVersion,
    Superseded,
)
from gfs.messages.replicas import AppendedRecord
from gfs.messages.snapshots import CopyReplica, CopyReply, RevokeLeases, RevokeReply
from gfs.vocabulary import ChunkHandle, ChunkVersion, ClientId, Term
from tests.chunkserver.replicas import (
    BLOCK,
    ONE,
    T1,
    T2,
    TWO,
    V1,
    V2,
    V3,
    Machine,
    chunk_path,
    content,
    create,
)
from tests.chunkserver.rig import CLUSTER, HANDLE, Rig
from tests.fakes.clock import settle

COPY = ChunkHandle(HANDLE + 1)


async def revoke(rig: Rig, name: str, version: int = 1, handle: ChunkHandle = HANDLE) -> list[ChunkHandle]:
    """The chunks of which the replica is not certainly what the others are."""
    request = RevokeLeases(cluster=CLUSTER, handles=[handle], versions=[ChunkVersion(version)])
    reply: RevokeReply = await rig.ask(name, request, RevokeReply)
    missing = [handle] if reply.lengths == [-1] else []
    assert missing or reply.lengths == [len(rig.nodes[name].content(ChunkVersion(version), handle))]
    return reply.unsettled + [found for found in missing if found not in reply.unsettled]


async def copy(
    rig: Rig, name: str, version: int = 1, *, oldest: int = 1, handle: ChunkHandle = COPY
) -> CopyReply:
    request = CopyReplica(
        cluster=CLUSTER,
        master_term=Term(1),
        handle=HANDLE,
        oldest_version=ChunkVersion(oldest),
        version=ChunkVersion(version),
        copy=handle,
    )
    reply: CopyReply = await rig.ask(name, request, CopyReply)
    return reply


# --- leases -------------------------------------------------------------------------------------


async def test_a_revoked_version_takes_no_mutation_any_more_and_a_newer_one_does(rig: Rig) -> None:
    await rig.three()
    await rig.put(b"before")
    for name in "abc":
        assert await revoke(rig, name) == []
    with pytest.raises(LeaseExpired):
        await rig.put(b"after", 6)
    assert {node.content(V1) for node in rig.nodes.values()} == {b"before"}
    await rig.grant(2, "a", "b", "c")
    await rig.put(b"later", 6, version=2)
    assert {node.content(V2) for node in rig.nodes.values()} == {b"beforelater"}


async def test_a_repeat_of_the_old_grant_brings_no_revoked_lease_back(rig: Rig) -> None:
    await rig.three()
    for name in "abc":
        await revoke(rig, name)
    await rig.grant(1, "a", "b", "c")
    with pytest.raises(LeaseExpired):
        await rig.put(b"after")


async def test_one_revoked_secondary_keeps_anything_from_being_acknowledged(rig: Rig) -> None:
    await rig.three()
    await rig.put(b"before")
    await revoke(rig, "c")
    with pytest.raises(ReplicaFailed):
        await rig.put(b"after", 6)
    # The primary has noticed, and says that its replica may differ from the others.
    assert await revoke(rig, "a") == [HANDLE]


async def test_a_mutation_under_way_is_cut_short_and_its_chunk_named_as_unsettled(rig: Rig) -> None:
    _, b, _ = await rig.three()
    b.workers.is_held = True
    writing = rig.begin(rig.put(b"x" * 10))
    await settle()
    revoked = [rig.begin(revoke(rig, name)) for name in "abc"]
    await settle()
    b.workers.release()
    assert HANDLE in await revoked[0]
    await asyncio.wait({writing})
    assert isinstance(writing.exception(), GfsError)
    before = {name: node.content(V1) for name, node in rig.nodes.items()}
    await settle()
    assert before == {name: node.content(V1) for name, node in rig.nodes.items()}


async def test_a_replica_that_missed_the_grant_or_has_nothing_is_unsettled(rig: Rig) -> None:
    await rig.three()
    rig.start("d")
    assert await revoke(rig, "d") == [HANDLE]
    assert await revoke(rig, "a", version=2) == [HANDLE]
    await rig.restart("b")
    assert await revoke(rig, "b") == []
    assert await revoke(rig, "b", version=2) == [HANDLE]
    with pytest.raises(InvalidArgument):
        await rig.ask("a", RevokeLeases(cluster=CLUSTER, handles=[HANDLE], versions=[]), RevokeReply)


# --- copies -------------------------------------------------------------------------------------


async def test_a_chunk_and_its_copy_go_their_own_ways(rig: Rig) -> None:
    nodes = await rig.three()
    data = random.Random(3).randbytes(3 * BLOCK + 17)
    await rig.put(data)
    for name in "abc":
        await revoke(rig, name)
        reply = await copy(rig, name)
        assert (reply.length_bytes, reply.may_be_short) == (len(data), False)
        assert (await copy(rig, name)).length_bytes == len(data)  # again
    await rig.grant(2, "a", "b", "c")
    await rig.put(b"new", 5, version=2)
    for node in nodes:
        assert node.content(V1, COPY) == data
        assert node.content(V2) == data[:5] + b"new" + data[8:]


async def test_a_copy_of_what_is_not_there_or_not_of_that_version_is_refused(rig: Rig) -> None:
    await rig.three()
    rig.start("d")
    with pytest.raises(NotFound):
        await copy(rig, "d")
    with pytest.raises(StaleVersion):
        await copy(rig, "a", version=3, oldest=2)
    with pytest.raises(InvalidArgument):
        await copy(rig, "a", handle=HANDLE)
    assert (await copy(rig, "a", version=3)).length_bytes == 0  # a grant that was cut short, twice


# --- the store ----------------------------------------------------------------------------------


def filled(tmp_path: Path, data: bytes) -> tuple[Machine, ReplicaStore]:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    if data:
        store.write(ONE, V1, 0, data, piece_checksums(0, data))
    return machine, store


def test_a_copy_is_on_the_disk_with_its_checksums_when_it_is_answered(tmp_path: Path) -> None:
    data = random.Random(4).randbytes(2 * BLOCK + 9)
    machine, store = filled(tmp_path, data)
    status = store.versions.copy_replica(ONE, TWO, V2, oldest_version=V1, master_term=T1)
    assert (status.version, status.length_bytes) == (V2, len(data))
    assert [held.handle for held in store.reports.changes_since(0).changed] == [ONE, TWO]
    store = machine.open_after_power_cut(store)
    assert content(store, TWO, V2) == data
    sums = store.status(TWO, V2, with_checksums=True).block_checksums
    assert list(sums) == piece_checksums(0, data)
    store.close()


def test_a_copy_takes_only_what_is_committed_and_can_be_written_on(tmp_path: Path) -> None:
    data = b"a" * (BLOCK + 5)
    machine, store = filled(tmp_path, data)
    file = machine.disk.open(chunk_path())
    file.pwrite(b"never committed", len(data))
    store.versions.copy_replica(ONE, TWO, V1, oldest_version=V1, master_term=T1)
    store.versions.bump(TWO, V2, oldest_version=V1, create=False, master_term=T1)
    store.write(TWO, V2, len(data) + 4, b"tail")
    assert content(store, TWO, V2) == data + bytes(4) + b"tail"
    assert content(store) == data
    store.close()


def test_a_copy_knows_the_records_it_holds_also_after_a_restart(tmp_path: Path) -> None:
    machine, store = filled(tmp_path, b"")
    record = AppendedRecord(ClientId(9), 4, 1, 6)
    store.write(ONE, V1, 0, b"record", records=[record])
    store.versions.copy_replica(ONE, TWO, V1, oldest_version=V1, master_term=T1)
    store = machine.open_after_kill(store)
    assert store.append_window(TWO, V1).find(ClientId(9), 4, repeated=True) == (0, 6)
    store.close()


def test_rot_comes_along_in_a_copy_and_is_found_there_too(tmp_path: Path) -> None:
    machine, store = filled(tmp_path, b"a" * (BLOCK + 5))
    machine.disk.flip_bit(chunk_path(), 7)
    store.versions.copy_replica(ONE, TWO, V1, oldest_version=V1, master_term=T1)
    with pytest.raises(ChecksumMismatch):
        content(store, TWO)
    with pytest.raises(ChecksumMismatch):
        content(store)
    with pytest.raises(ChecksumMismatch):  # by now it is known
        store.versions.copy_replica(ONE, ChunkHandle(3), V1, oldest_version=V1, master_term=T1)
    store.close()


def test_an_old_master_and_a_full_disk_get_no_copy(tmp_path: Path) -> None:
    machine, store = filled(tmp_path, b"a" * BLOCK)
    store.versions.bump(ONE, V3, oldest_version=V1, create=False, master_term=T2)
    with pytest.raises(Superseded):
        store.versions.copy_replica(ONE, TWO, V3, oldest_version=V3, master_term=T1)
    store.flush()
    machine.free_bytes = 1
    store.flush()
    with pytest.raises(NoSpace):
        store.versions.copy_replica(ONE, TWO, V3, oldest_version=V3, master_term=T2)
    assert store.chunk_count == 1
    store.close()


def test_a_copy_or_a_new_chunk_that_a_full_disk_cuts_short_leaves_no_bytes_behind(tmp_path: Path) -> None:
    machine, store = filled(tmp_path, b"a" * BLOCK)
    store.flush()

    def files() -> set[str]:
        return set(machine.disk.files_below("/chunks"))

    assert files()
    before, copied, made = files(), 0, 0
    for space in range(0, BLOCK + 4096, 64):
        for number, do in enumerate(
            (
                lambda handle: store.versions.copy_replica(
                    ONE, handle, V1, oldest_version=V1, master_term=T1
                ),
                lambda handle: store.versions.bump(
                    handle, V1, oldest_version=V1, create=True, master_term=T1
                ),
            )
        ):
            machine.disk.space_bytes_left = space
            handle = ChunkHandle(1000 + 2 * space + number)
            try:
                do(handle)
            except NoSpace:
                assert files() == before, (space, number)
            else:
                copied, made = copied + (number == 0), made + (number == 1)
                machine.disk.space_bytes_left = None
                before = files()
    assert copied and made
    machine.disk.space_bytes_left = None
    store.close()


@pytest.mark.parametrize("torn", [False, True])
def test_a_copy_cut_short_at_any_step_is_whole_or_not_there(tmp_path: Path, torn: bool) -> None:
    data = random.Random(5).randbytes(BLOCK + 100)
    for step in range(100):
        (tmp_path / str(step)).mkdir()
        machine, store = filled(tmp_path / str(step), data)
        store.flush()
        machine.disk.cut_power_after(step, torn=torn)
        try:
            store.versions.copy_replica(ONE, TWO, V1, oldest_version=V1, master_term=T1)
            done = True
        except GfsError:
            done = False
        store = machine.open_after_power_cut(store, torn=torn)
        assert content(store) == data
        try:
            assert content(store, TWO) == data
        except NotFound:
            assert not done
            assert store.versions.copy_replica(
                ONE, TWO, V1, oldest_version=V1, master_term=T1
            ).length_bytes == len(data)
            assert content(store, TWO) == data
        store.close()
        if done:
            return
    raise AssertionError("it never came to its end")
