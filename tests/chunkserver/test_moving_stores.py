"""Chunks move to another store while they are written: no kill and no power cut at any step loses a byte."""

from __future__ import annotations

import errno
import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs import failpoints, settings
from gfs.checksums import piece_checksums
from gfs.chunkserver.replica_store import Durability, ReplicaStore
from gfs.chunkserver.stores.file import FileStore
from gfs.chunkserver.stores.interface import StoreUsage
from gfs.chunkserver.stores.lmdb_packed import LmdbPackedStore
from gfs.chunkserver.stores.memory import MemoryStore
from gfs.chunkserver.stores.moving import MovingStore
from gfs.chunkserver.stores.plugin import StoreSite
from gfs.chunkserver.stores.store_moves import StoreMoves
from gfs.disk import SystemDisk
from gfs.errors import ChecksumMismatch, ConfigInvalid, GfsError, InvalidArgument, NoSpace
from gfs.inspect.chunk_verify import ChunkVerifier
from gfs.testing.chunk_store_contract import content as store_content
from gfs.vocabulary import MIB, ChunkHandle
from tests.chunkserver.replicas import BLOCK, ONE, TWO, V1, Machine, content, create
from tests.chunkserver.test_replica_store_crashes import Killed, KillingDisk, Run, Step

GFS_TOML = """
[chunkserver.store_options.lmdb]
packed_bytes_max = 3000
map_bytes_max = '64MiB'
[chunkservers.cs1]
control = '127.0.0.1:1001'
data = '127.0.0.1:1002'
store = '{store}'
"""


class MovingMachine(Machine):
    """A chunk server's stores as its process has them. LMDB's own file is a real one, which loses nothing."""

    def __init__(
        self, path: Path, disk: ForgetfulDisk | None = None, *, store: str = "file", durability: Durability
    ) -> None:
        super().__init__(path, disk, durability=durability)
        config = path / "gfs.toml"
        config.write_text(GFS_TOML.format(store=store))
        self.settings = settings.load(str(config), environment={})
        self.moves = StoreMoves(self.settings, "cs1", StoreSite(self.disk, self.directory))

    def let_go(self) -> None:
        """Of what a start that was cut short has opened."""
        if self.moves._moving is not None:
            _abandon(self.moves.store)

    def open(self) -> ReplicaStore:
        Path(self.directory).mkdir(exist_ok=True)
        self.disk.make_directory(self.directory)
        self.moves = StoreMoves(self.settings, "cs1", StoreSite(self.disk, self.directory))
        store = self.moves.open()
        store.close = lambda: _abandon(store)  # type: ignore[method-assign]
        return ReplicaStore.open(
            self.directory, store, self.disk, durability=self.durability, on_fatal=self.fatal.append
        )


def _abandon(store: MovingStore) -> None:
    """As a killed process lets go."""
    for each in (*store._retired, store._leaving, store._present):
        if isinstance(each, LmdbPackedStore):
            each.abandon()
        elif each is not None:
            each.close()


@contextmanager
def fresh_machine(
    disk: ForgetfulDisk, *, store: str = "file", durability: Durability = "sync"
) -> Iterator[MovingMachine]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        yield MovingMachine(Path(directory), disk, store=store, durability=durability)


class MovingRun(Run):
    """Also knows the steps of a move; none of them changes what a chunk is."""

    machine: MovingMachine

    def carry_out(self, step: Step) -> None:
        kind, handle, _, _ = step
        moves = self.machine.moves
        if kind == "over":
            moves.begin("file" if moves.mark.store == "lmdb" else "lmdb")
        elif kind == "move":
            self.store.mover(moves.store).move(handle)
        elif kind == "end":
            self.finish()
        else:
            super().carry_out(step)

    def finish(self) -> None:
        moves = self.machine.moves
        while left := moves.store.unmoved(limit=10):
            for handle in left:
                self.store.mover(moves.store).move(handle)
        if moves.store.is_moving:
            moves.end()


STEPS_APART = 7
SCRIPT: list[Step] = [
    ("bump", ONE, 0, 1),
    ("append", ONE, 0, 5000),
    ("bump", TWO, 0, 1),
    ("append", TWO, 0, 300),
    ("over", ONE, 0, 1),
    ("append", ONE, 0, 300),
    ("move", ONE, 0, 1),
    ("append", ONE, 0, BLOCK),
    ("overwrite", ONE, 0.3, 5000),
    ("move", TWO, 0, 1),
    ("delete", TWO, 0, 1),
    ("bump", TWO, 0, 1),
    ("append", TWO, 0, 300),
    ("flush", ONE, 0, 1),
    ("end", ONE, 0, 1),
    ("over", ONE, 0, 1),
    ("delete", TWO, 0, 1),
    ("copy", TWO, 0, 1),
    ("append", TWO, 0, 300),
    ("move", ONE, 0, 1),
    ("align", ONE, 0.5, 1),
    ("append", ONE, 0, 300),
    ("reopen", ONE, 0, 1),
    ("append", TWO, 0, 300),
    ("end", ONE, 0, 1),
    ("append", ONE, 0, 5000),
]


def _cut_short(run: MovingRun, script: list[Step], crash_after: int, *, power: bool) -> bool:
    """Whether the crash came before the script's end."""
    disk = run.machine.disk
    assert isinstance(disk, KillingDisk)
    if power:
        disk.cut_power_after(crash_after, torn=True)
    else:
        disk.kill_in = crash_after
    try:
        for step in script:
            run.carry_out(step)
    except Killed:
        assert not power
        return True
    except (GfsError, OSError):
        assert disk.powered_off
        return True
    finally:
        disk.kill_in, disk.operations_until_cut = None, None
    return False


@pytest.mark.parametrize("store", ["file", "lmdb"])
@pytest.mark.parametrize("crash", ["kill", "power cut", "power cut, names in any order"])
def test_a_script_of_moves_and_writes_is_cut_short_anywhere(store: str, crash: str) -> None:
    """With STEPS_APART = 1 at every single step; each of the six begins at another one."""
    power, is_cut = crash != "kill", True
    crash_after = (len(crash) + len(store)) % STEPS_APART
    while is_cut:
        disk = KillingDisk(crash_after)
        disk.reorders_names = "any order" in crash
        with fresh_machine(disk, store=store) as machine:
            run = MovingRun(machine, crash_after)
            is_cut = _cut_short(run, SCRIPT, crash_after, power=power)
            run.store.abandon()
            machine.let_go()  # of a start that was a step of the script
            _start_cut_short(machine, crash_after // 3, power=power)
            run.store = machine.open()
            run.check(power_cut=power)
            run.finish()
            run.check(power_cut=False)
            for number in range(2):
                run.carry_out(("append", (ONE, TWO)[number], 0, 300))
            run.carry_out(("reopen", ONE, 0, 1))
            run.check(power_cut=False)
            run.store.abandon()
        crash_after += STEPS_APART
    assert crash_after > 150


def _start_cut_short(machine: MovingMachine, crash_after: int, *, power: bool) -> None:
    """A start that may come to its end, and then is killed, too."""
    disk = machine.disk
    assert isinstance(disk, KillingDisk)
    if disk.powered_off:
        disk.power_on()
    if power:
        disk.cut_power_after(crash_after)
    else:
        disk.kill_in = crash_after
    try:
        machine.open().abandon()
    except Killed:
        assert not power
        machine.let_go()
    except (GfsError, OSError):
        assert disk.powered_off
        disk.power_on()
        machine.let_go()
    disk.kill_in, disk.operations_until_cut = None, None


def test_reading_and_writing_go_on_while_chunks_move_there_and_back(tmp_path: Path) -> None:
    machine = MovingMachine(tmp_path, durability="flush")
    store = machine.open()
    chance, handles = random.Random(5), [ChunkHandle(number) for number in range(1, 13)]
    model = {handle: bytearray() for handle in handles}
    for handle in handles:
        create(store, handle)
    is_over, failures = threading.Event(), list[BaseException]()

    def use(mine: list[ChunkHandle], seed: int) -> None:
        own = random.Random(seed)
        try:
            while not is_over.is_set():
                handle = own.choice(mine)
                data = own.randbytes(own.choice([10, 2000, 20_000]))
                offset = own.randint(0, len(model[handle])) if len(model[handle]) < 4 * BLOCK else 0
                store.write(handle, V1, offset, data)
                model[handle][offset : offset + len(data)] = data
                assert content(store, handle) == bytes(model[handle])
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=use, args=(handles[n::3], chance.random())) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for to in ("lmdb", "file") * 3:
            assert machine.moves.begin(to)
            while left := machine.moves.store.unmoved(limit=100):
                for handle in left:
                    store.mover(machine.moves.store).move(handle)
            machine.moves.end()
            assert machine.moves.mark.store == to and machine.moves.mark.leaving is None
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert not failures
    again = machine.open_after_kill(store)
    assert {handle: content(again, handle) for handle in handles} == model
    assert again.corrupt() == []
    again.abandon()


def test_only_what_a_writer_has_changed_meanwhile_is_copied_under_the_chunks_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = MovingMachine(tmp_path, durability="flush")
    store = machine.open()
    create(store)
    data = random.Random(1).randbytes(3 * MIB)
    store.write(ONE, V1, 0, data)
    machine.moves.begin("lmdb")
    present = machine.moves.store.present
    written = list[tuple[int, int]]()
    write_at = present.write_at

    def noting(handle: ChunkHandle, piece: bytes, offset: int) -> None:
        written.append((offset, len(piece)))
        write_at(handle, piece, offset)

    monkeypatch.setattr(present, "write_at", noting)

    def hit(passed: str) -> None:
        if passed == "move.copied":
            written.clear()
            store.write(ONE, V1, MIB + 5, b"changed")
            store.write(ONE, V1, 3 * MIB, b"appended")

    monkeypatch.setattr(failpoints, "hit", hit)
    assert store.mover(machine.moves.store).move(ONE) == 3 * MIB + 8
    assert written == [(MIB, MIB), (3 * MIB, 8)]
    expected = data[: MIB + 5] + b"changed" + data[MIB + 12 :] + b"appended"
    assert content(store) == expected
    machine.moves.end()
    store.abandon()


def test_a_damaged_chunk_stays_where_it_is_and_is_told_of(tmp_path: Path) -> None:
    machine = MovingMachine(tmp_path, durability="sync")
    store = machine.open()
    create(store)
    create(store, TWO)
    store.write(ONE, V1, 0, b"a" * 100)
    store.write(TWO, V1, 0, b"b" * 100)
    (path,) = [path for path in machine.disk.files_below(machine.directory) if path.endswith("1.chunk")]
    machine.disk.flip_bit(path, 50)
    machine.moves.begin("lmdb")
    mover = store.mover(machine.moves.store)
    with pytest.raises(ChecksumMismatch):
        mover.move(ONE)
    assert mover.move(TWO) == 100
    assert store.corrupt() == [ONE]
    assert machine.moves.store.unmoved(limit=10) == [ONE]
    store.delete(ONE)  # as the masters order once the chunk has been made anew elsewhere
    machine.moves.end()
    assert content(store, TWO) == b"b" * 100
    store.abandon()


def _refuse(handle: ChunkHandle, data: bytes, offset: int) -> None:
    raise OSError(errno.ENOSPC, "no space left on the disk")


def test_a_full_disk_leaves_a_chunk_where_it_was_and_the_move_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = MovingMachine(tmp_path, store="lmdb", durability="flush")
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"a" * 2000)
    machine.moves.begin("file")
    mover = store.mover(machine.moves.store)
    with monkeypatch.context() as full:
        full.setattr(machine.moves.store.present, "write_at", _refuse)
        with pytest.raises(NoSpace):
            mover.move(ONE)
    assert content(store) == b"a" * 2000 and machine.moves.store.unmoved_count == 1
    assert mover.move(ONE) == 2000
    assert content(store) == b"a" * 2000
    store.abandon()


def test_a_deletion_that_cannot_be_synced_stops_every_change_of_what_was_moved(tmp_path: Path) -> None:
    machine = MovingMachine(tmp_path, durability="sync")
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"a" * 100)
    machine.moves.begin("lmdb")
    store.mover(machine.moves.store).move(ONE)
    leaving = machine.moves.store._leaving
    assert isinstance(leaving, FileStore)

    def refuse() -> None:
        raise OSError(errno.EIO, "sync failed")

    leaving.sync_names = refuse  # type: ignore[method-assign]
    for _ in range(2):  # a sync is not retried
        with pytest.raises(GfsError):
            store.write(ONE, V1, 100, b"b")
        leaving.sync_names = lambda: None  # type: ignore[method-assign]
    after = machine.open_after_power_cut(store, torn=False)
    assert content(after) == b"a" * 100
    after.abandon()


def test_a_change_of_what_was_moved_outlives_a_power_cut_though_no_name_was_synced_since() -> None:
    disk = ForgetfulDisk()

    def opened(name: str) -> FileStore:
        return FileStore(disk, name, usage=lambda: StoreUsage(1, 1))

    moving = MovingStore(opened("/left"))
    moving.create(ONE)
    moving.write_at(ONE, b"old", 0)
    moving.begin(opened("/present"))
    moving.copy(ONE, 3, piece_checksums(0, b"old"))
    moving.depart(ONE)
    moving.write_at(ONE, b"new", 0)
    moving.sync(ONE)
    disk.power_cut(torn=False)
    disk.power_on()
    again = MovingStore(opened("/present"), opened("/left"))
    assert store_content(again, ONE) == b"new"


def test_a_hole_stays_a_hole(tmp_path: Path) -> None:
    left, present = (FileStore(SystemDisk(), str(tmp_path / name)) for name in ("left", "present"))
    left.create(ONE)
    left.write_at(ONE, b"z", 40 * MIB)
    moving = MovingStore(left)
    moving.begin(present)
    content_before = store_content(moving, ONE)
    moving.copy(ONE, 40 * MIB + 1, piece_checksums(0, content_before))
    moving.depart(ONE)
    assert store_content(present, ONE) == content_before
    assert Path(present.path_of(ONE)).stat().st_blocks * 512 <= 2 * MIB
    moving.close()


def test_a_copy_of_a_chunk_made_anew_meanwhile_is_given_up(tmp_path: Path) -> None:
    """Whoever copies without the chunk's lock must not write into what has taken its place."""
    left, present = MemoryStore(), MemoryStore()
    left.create(ONE)
    left.write_at(ONE, b"a" * 100, 0)
    moving = MovingStore(left)
    moving.begin(present)
    sums = piece_checksums(0, b"a" * 100)
    read_into = left.read_into

    def replaced_meanwhile(handle: ChunkHandle, buffer: memoryview, offset: int) -> int:
        got = read_into(handle, buffer, offset)
        moving.delete(ONE)
        moving.create(ONE)
        moving.write_at(ONE, b"new", 0)
        return got

    left.read_into = replaced_meanwhile  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        moving.copy(ONE, 100, sums)
    assert store_content(moving, ONE) == b"new"


class TestWhichStoreADirectoryHas:
    def test_the_command_outlives_restarts_and_what_gfs_toml_says(self, tmp_path: Path) -> None:
        machine = MovingMachine(tmp_path, store="file", durability="sync")
        store = machine.open()
        create(store)
        store.write(ONE, V1, 0, b"a" * 100)
        assert machine.moves.begin("lmdb") and not machine.moves.begin("lmdb")
        with pytest.raises(InvalidArgument, match="being moved from the store 'file' to 'lmdb'"):
            machine.moves.begin("file")
        store = machine.open_after_kill(store)
        assert machine.moves.store.unmoved(limit=5) == [ONE]
        store.mover(machine.moves.store).move(ONE)
        machine.moves.end()
        store = machine.open_after_kill(store)
        assert isinstance(machine.moves.store.present, LmdbPackedStore)
        assert not machine.moves.store.is_moving
        assert content(store) == b"a" * 100
        store.abandon()

    def test_what_was_left_is_removed(self, tmp_path: Path) -> None:
        text = GFS_TOML.format(store="file").replace("packed_bytes_max = 3000", "packed_bytes_max = '4KiB'")
        (tmp_path / "gfs.toml").write_text(text)
        loaded = settings.load(str(tmp_path / "gfs.toml"), environment={})
        directory = tmp_path / "cs1"
        directory.mkdir()
        moves = StoreMoves(loaded, "cs1", StoreSite(SystemDisk(), str(directory)))
        store = moves.open()
        assert sorted(path.name for path in directory.iterdir()) == ["chunks"]
        for to, place in (("lmdb", "store-1"), ("file", "store-2")):
            moves.begin(to)
            moves.end()
            assert sorted(path.name for path in directory.iterdir()) == [place, "store.json"]
        store.close()

    @pytest.mark.parametrize(
        ("to", "error", "said"),
        [
            ("tape", ConfigInvalid, "the store to move to: 'tape' is not one of"),
            ("memory", InvalidArgument, "do not outlive the process"),
        ],
    )
    def test_a_store_that_cannot_keep_them_is_refused_and_nothing_begins(
        self, tmp_path: Path, to: str, error: type[GfsError], said: str
    ) -> None:
        machine = MovingMachine(tmp_path, durability="sync")
        store = machine.open()
        with pytest.raises(error, match=said):
            machine.moves.begin(to)
        assert not machine.moves.store.is_moving
        store.abandon()

    def test_offline_tools_read_a_disk_whose_chunks_are_half_moved(self, tmp_path: Path) -> None:
        config = tmp_path / "gfs.toml"
        config.write_text(GFS_TOML.format(store="file"))
        directory = tmp_path / "cs1"
        directory.mkdir()
        site = StoreSite(SystemDisk(), str(directory))
        moves = StoreMoves(settings.load(str(config), environment={}), "cs1", site)
        store = ReplicaStore.open(str(directory), moves.open(), SystemDisk(), on_fatal=lambda reason: None)
        for handle in (ONE, TWO):
            create(store, handle)
            store.write(handle, V1, 0, b"a" * 100)
        moves.begin("lmdb")
        store.mover(moves.store).move(ONE)
        moves.store.present.create(TWO)  # a copy cut short
        store.close()
        verifier = ChunkVerifier(str(directory))
        assert list(verifier.findings()) == []
        assert (verifier.summary.replicas, verifier.summary.verified_bytes) == (2, 200)
