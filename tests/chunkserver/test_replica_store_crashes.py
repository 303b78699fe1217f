"""Kills and power cuts at every step of the replica store, against a model in bytes.

`flush`: nothing acknowledged is lost by a kill, nothing acknowledged before the last flush by a power cut.
`sync`: nothing acknowledged is lost by either. `by version`: a store that flushes, with versions that are
durable (a policy says so) among others. After any stop every committed byte verifies (I8).
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lmdb
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.simulation.disk import ForgetfulDisk
from gfs import failpoints
from gfs.checksums import crc32c, piece_checksums
from gfs.chunkserver.index_journal import segment_path
from gfs.chunkserver.index_tables import FORMAT_VERSION
from gfs.chunkserver.replica_store import Durability
from gfs.errors import CorruptState, DataUnavailable, GfsError, Unavailable, UnsupportedVersion
from gfs.vocabulary import ChunkHandle, ChunkVersion
from tests.chunkserver.replicas import BLOCK, ONE, T1, TWO, V1, V2, V3, Machine, chunk_path, content, create


class Killed(BaseException):
    """Not an Exception: nothing may handle a kill."""


class KillingDisk(ForgetfulDisk):
    """Also dies before the n-th change of the disk, with everything so far in the page cache."""

    kill_in: int | None = None

    def count_operation(self) -> bool:
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                self.kill_in = None
                raise Killed
        return super().count_operation()


@dataclass
class Chunk:
    """`states`: what the chunk may be after a power cut, oldest first; the last is what it is now.

    A state is (version, content), or None for no chunk.
    """

    states: list[tuple[int, bytes] | None] = field(default_factory=lambda: [None])

    @property
    def now(self) -> tuple[int, bytes] | None:
        return self.states[-1]


Step = tuple[str, ChunkHandle, float, int]
piece_sizes = st.sampled_from([1, 300, 5_000, BLOCK - 1, BLOCK, BLOCK + 1, 100_000])
steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "append",
                "append",
                "append",
                "overwrite",
                "gap",
                "bump",
                "align",
                "flush",
                "delete",
                "reopen",
                "copy",
            ]
        ),
        st.sampled_from([ONE, TWO]),
        st.floats(0, 1, exclude_max=True),
        piece_sizes,
    ),
    min_size=1,
    max_size=12,
)


class Run:
    """Carries steps out on a store and keeps the model beside it."""

    def __init__(self, machine: Machine, seed: int, *, by_version: bool = False) -> None:
        self.machine = machine
        self.by_version = by_version  # odd versions are durable
        self.chance = random.Random(seed)
        self.chunks = {ONE: Chunk(), TWO: Chunk()}
        self.store = machine.open()
        self.in_flight: tuple[ChunkHandle, tuple[int, bytes] | None] | None = None

    def carry_out(self, step: Step) -> None:
        kind, handle, where, size = step
        chunk = self.chunks[handle]
        now = chunk.now
        if kind == "flush":
            self.store.flush()
            for each in self.chunks.values():
                each.states = [each.now]
        elif kind == "reopen":
            self.store.close()
            for each in self.chunks.values():
                each.states = [each.now]
            self.store = self.machine.open()
        elif kind == "copy":
            self._copy()
        elif now is None or kind == "bump":
            version, held = now or (0, b"")
            self._do(handle, (version + 1, held), True, lambda: self._bump(handle, version + 1))
        elif kind == "delete":
            self._do(handle, None, True, lambda: self.store.delete(handle))
        elif kind == "align":
            length = int(where * (len(now[1]) + 1))
            after = (now[0], now[1][:length])
            self._do(
                handle, after, True, lambda: self.store.versions.align(handle, ChunkVersion(now[0]), length)
            )
        else:
            self._write(kind, handle, now, where, size)

    def _write(self, kind: str, handle: ChunkHandle, now: tuple[int, bytes], where: float, size: int) -> None:
        version, held = now
        offset = {
            "append": len(held),
            "gap": len(held) + int(where * 2 * BLOCK),
            "overwrite": int(where * max(1, len(held))),
        }[kind]
        if offset + size > 8 * BLOCK:
            return
        data = self.chance.randbytes(size)
        after = bytearray(held.ljust(offset, b"\0"))
        after[offset : offset + size] = data
        is_durable = self.machine.durability == "sync" or offset < len(held) or self._is_durable(handle)
        sums = piece_checksums(offset, data) if size % 2 else None
        self._do(
            handle,
            (version, bytes(after)),
            is_durable,
            lambda: self.store.write(handle, ChunkVersion(version), offset, data, sums),
        )

    def _do(
        self,
        handle: ChunkHandle,
        after: tuple[int, bytes] | None,
        is_durable: bool,
        work: Callable[[], object],
    ) -> None:
        self.in_flight = (handle, after)
        work()
        self.in_flight = None
        chunk = self.chunks[handle]
        chunk.states = [after] if is_durable else [*chunk.states, after]

    def _copy(self) -> None:
        """Make TWO a copy of ONE, unless there is no ONE, or a TWO already."""
        original = self.chunks[ONE].now
        if original is None or self.chunks[TWO].now is not None:
            return
        version = ChunkVersion(original[0])
        self._do(
            TWO,
            original,
            True,
            lambda: self.store.versions.copy_replica(
                ONE, TWO, version, oldest_version=version, master_term=T1
            ),
        )

    def _bump(self, handle: ChunkHandle, version: int) -> None:
        self.store.versions.bump(
            handle,
            ChunkVersion(version),
            oldest_version=ChunkVersion(0),
            create=True,
            master_term=T1,
            durable=self.by_version and version % 2 == 1,
        )

    def _is_durable(self, handle: ChunkHandle) -> bool:
        header = self.store._access.load(handle).header
        return header is not None and header.durable

    def check(self, *, power_cut: bool) -> None:
        """Compare what came back with what may; then go on from there."""
        held = {chunk.handle: chunk for chunk in self.store.reports.inventory()}
        assert self.store.corrupt() == []
        assert set(self.machine_handles()) == set(held)
        for handle, chunk in self.chunks.items():
            allowed = list(chunk.states) if power_cut else [chunk.now]
            if self.in_flight is not None and self.in_flight[0] == handle:
                allowed.append(self.in_flight[1])
            found = None
            if handle in held:
                version = held[handle].version
                found = (int(version), content(self.store, handle, version))
                status = self.store.status(handle, version, with_checksums=True)
                assert list(status.block_checksums) == piece_checksums(0, found[1])
            assert found in allowed, (handle, _brief(found), [_brief(state) for state in allowed])
            chunk.states = [found]
        self.in_flight = None
        self.store.check_invariants()

    def grant_anew(self) -> None:
        """What a master does before anybody writes to a chunk again that may have lost its end."""
        for handle, chunk in self.chunks.items():
            if chunk.now is not None:
                version, held = chunk.now
                if self.store.status(handle, ChunkVersion(version)).may_be_short:
                    assert self.machine.durability == "flush"
                    header = self.store._access.load(handle).header
                    assert header is not None
                    assert not (header.durable and header.short_version == version), "nothing can be lost"
                    self._bump(handle, version + 1)
                    chunk.states = [(version + 1, held)]

    def machine_handles(self) -> Iterator[ChunkHandle]:
        return self.store._access.store.handles()


def _brief(state: tuple[int, bytes] | None) -> tuple[int, int, int] | None:
    return None if state is None else (state[0], len(state[1]), hash(state[1]))


def _crash_run(
    machine: Machine,
    seed: int,
    rounds: list[list[Step]],
    crash_after: int,
    *,
    power: bool,
    torn: bool,
    by_version: bool = False,
) -> None:
    disk = machine.disk
    assert isinstance(disk, KillingDisk)
    run = Run(machine, seed, by_version=by_version)
    for round_steps in rounds:
        if power:
            disk.cut_power_after(crash_after, torn=torn)
        else:
            disk.kill_in = crash_after
        try:
            for step in round_steps:
                run.carry_out(step)
        except Killed:
            assert not power
        except (GfsError, OSError):
            assert disk.powered_off
        disk.kill_in, disk.operations_until_cut = None, None
        run.store.abandon()
        if power:
            if not disk.powered_off:
                disk.power_cut(torn=torn)
            disk.power_on()
        # The start itself is cut short, too, before it succeeds.
        for again in (crash_after // 2, crash_after // 5):
            if power:
                disk.cut_power_after(again, torn=torn)
            else:
                disk.kill_in = again
            try:
                machine.open().abandon()
            except Killed:
                assert not power
            except (GfsError, OSError):
                assert disk.powered_off
            disk.kill_in, disk.operations_until_cut = None, None
            if disk.powered_off:
                disk.power_on()
        run.store = machine.open()
        run.check(power_cut=power)
        run.grant_anew()
        machine.fatal.clear()
    run.store.close()


@contextmanager
def fresh_machine(seed: int, durability: str) -> Iterator[Machine]:
    # The index database's real syncs are most of these tests' time; memory answers them at once.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        own: Durability = "sync" if durability == "sync" else "flush"
        yield Machine(Path(directory), KillingDisk(seed), durability=own)


@pytest.mark.parametrize("durability", ["flush", "sync", "by version"])
@pytest.mark.parametrize("crash", ["kill", "power cut", "torn power cut"])
def test_a_crash_at_any_step_keeps_what_was_acknowledged(durability: str, crash: str) -> None:
    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(
        seed=st.integers(0, 10**6),
        rounds=st.lists(steps, min_size=1, max_size=3),
        crash_after=st.integers(0, 60),
    )
    def run(seed: int, rounds: list[list[Step]], crash_after: int) -> None:
        with fresh_machine(seed, durability) as machine:
            _crash_run(
                machine,
                seed,
                rounds,
                crash_after,
                power=crash != "kill",
                torn=crash == "torn power cut",
                by_version=durability == "by version",
            )

    run()


SCRIPT: list[Step] = [
    ("bump", ONE, 0, 1),
    ("append", ONE, 0, 100_000),
    ("append", ONE, 0, 300),
    ("flush", ONE, 0, 1),
    ("overwrite", ONE, 0.3, BLOCK),
    ("gap", ONE, 0.9, 5_000),
    ("bump", TWO, 0, 1),
    ("append", TWO, 0, BLOCK),
    ("flush", ONE, 0, 1),
    ("align", ONE, 0.5, 1),
    ("append", ONE, 0, 300),
    ("delete", TWO, 0, 1),
    ("copy", TWO, 0, 1),
    ("append", TWO, 0, 300),
    ("delete", TWO, 0, 1),
    ("bump", TWO, 0, 1),
    ("append", TWO, 0, 300),
    ("reopen", ONE, 0, 1),
    ("append", TWO, 0, 300),
]


@pytest.mark.parametrize("durability", ["flush", "sync", "by version"])
@pytest.mark.parametrize("crash", ["kill", "power cut"])
def test_one_script_of_everything_is_cut_short_at_every_single_step(durability: str, crash: str) -> None:
    by_version = durability == "by version"
    with fresh_machine(0, durability) as machine:
        whole = Run(machine, 0, by_version=by_version)
        begun = machine.disk.operations
        for step in SCRIPT:
            whole.carry_out(step)
        needed = machine.disk.operations - begun
        whole.store.close()
    assert needed > 3 * len(SCRIPT)
    for crash_after in range(needed + 1):
        with fresh_machine(crash_after, durability) as machine:
            _crash_run(
                machine,
                crash_after,
                [SCRIPT],
                crash_after,
                power=crash != "kill",
                torn=True,
                by_version=by_version,
            )


@pytest.mark.parametrize("durability", ["flush", "sync"])
@pytest.mark.parametrize(
    "name", sorted(n for n in failpoints.NAMES if n.startswith("chunk.") and n != "chunk.redo_repeated")
)
def test_a_kill_at_every_failpoint_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, durability: Durability, name: str
) -> None:
    with fresh_machine(1, durability) as machine:
        _kill_at_failpoint(machine, monkeypatch, name)


def test_a_kill_while_an_overwrite_is_repeated_at_the_start_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deadly = "chunk.redo_logged"

    def hit(passed: str) -> None:
        if passed == deadly:
            raise Killed

    with fresh_machine(1, "flush") as machine:
        run = Run(machine, 1)
        monkeypatch.setattr(failpoints, "hit", hit)
        with pytest.raises(Killed):
            for step in SCRIPT:
                run.carry_out(step)
        run.store.abandon()
        deadly = "chunk.redo_repeated"
        with pytest.raises(Killed):
            machine.open()
        deadly = ""
        run.store = machine.open()
        run.check(power_cut=False)
        run.store.close()


def _kill_at_failpoint(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kill_in = -1

    def hit(passed: str) -> None:
        nonlocal kill_in
        if passed == name:
            kill_in -= 1
            if kill_in == 0:
                raise Killed

    run = Run(machine, 1)
    monkeypatch.setattr(failpoints, "hit", hit)
    for nth_pass in (1, 2, 3, 5):
        kill_in = nth_pass
        try:
            for step in SCRIPT:
                run.carry_out(step)
        except Killed:
            pass
        assert kill_in < nth_pass, name
        kill_in = -1
        run.store.abandon()
        run.store = machine.open()
        run.check(power_cut=False)
    run.store.close()


def test_a_flush_waits_for_an_overwrite_between_its_redo_and_its_conclusion(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    live = store._access.index._segment
    store._access.index.begin_overwrite()
    flusher = threading.Thread(target=store.flush)
    flusher.start()
    while not store._access.index._rotating:
        assert flusher.is_alive()
    assert store._access.index._segment is live  # a redo in it is not set aside without its conclusion
    store._access.index.end_overwrite()
    flusher.join()
    assert store._access.index._segment is not live
    store.abandon()


def test_a_bump_during_a_flush_outlives_a_power_cut_with_all_that_was_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is in the new segment, those before it in the one set aside, which nobody has synced yet."""
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"abc")

    def hit(name: str) -> None:
        if name == "chunk.journal_rotated":
            store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
            raise Killed

    monkeypatch.setattr(failpoints, "hit", hit)
    with pytest.raises(Killed):
        store.flush()
    after = machine.open_after_power_cut(store, torn=False)
    assert content(after, ONE, V2) == b"abc"
    after.abandon()


# --- particular stops ---------------------------------------------------------------------------


def test_bytes_without_a_record_are_cut_at_start(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"committed")
    machine.disk.open(chunk_path()).pwrite(b"never acknowledged", 9)
    after = machine.open_after_kill(store)
    assert content(after) == b"committed"
    assert machine.disk.open(chunk_path()).length() == 9
    assert after.recovered.cut == 1
    after.abandon()


def test_bytes_of_a_chunk_nobody_knows_are_dropped_at_start(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store._access.store.create(TWO)
    after = machine.open_after_kill(store)
    assert list(after._access.store.handles()) == [ONE]
    assert after.recovered.dropped == 1
    after.abandon()


@pytest.mark.parametrize("loss", ["missing", "short"])
def test_missing_bytes_are_reported_as_damage(tmp_path: Path, loss: str) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"committed")
    store.close()
    if loss == "missing":
        machine.disk.unlink(chunk_path())
    else:
        machine.disk.open(chunk_path()).truncate(4)
    after = machine.open()
    assert after.corrupt() == [ONE]
    with pytest.raises(GfsError):
        content(after)
    after.abandon()


def test_a_bit_that_flipped_while_the_server_was_down_is_found(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"committed" * 1000)
    store.abandon()
    machine.disk.flip_bit(chunk_path(), 50)
    after = machine.open()
    assert after.corrupt() == [ONE] and after.committed_length(ONE, V1) == 9000
    after.abandon()


def test_only_a_power_cut_under_flush_raises_doubt_and_a_newer_set_ends_it(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"kept")
    store.flush()
    create(store, TWO)
    store.versions.seal(TWO, V1, 0)
    store.write(ONE, V1, 4, b"lost")
    store = machine.open_after_kill(store)
    assert not store.status(ONE, V1).may_be_short and store.reports.unsettled(limit=9) == []
    store = machine.open_after_power_cut(store)
    assert store.status(ONE, V1).may_be_short and not store.status(TWO, V1).may_be_short
    store = machine.open_after_kill(store)
    assert store.status(ONE, V1).may_be_short  # not forgotten by the next start
    assert store.reports.unsettled(limit=9) == [ONE] and store.reports.unsettled(limit=0) == []
    with pytest.raises(Unavailable, match="power cut"):
        store.write(ONE, V1, 8, b"behind the lost bytes")
    # A grant may be cut short: the doubt stays until its set acts.
    for version in (V2, V2, V3):
        bumped = store.versions.bump(ONE, version, oldest_version=V1, create=False, master_term=T1)
        assert bumped.may_be_short and store.status(ONE, version).may_be_short
    store.write(ONE, V3, 4, b"again")
    assert not store.status(ONE, V3).may_be_short and store.reports.unsettled(limit=9) == []
    assert not store.versions.bump(ONE, V3, oldest_version=V1, create=False, master_term=T1).may_be_short
    store.close()
    machine.disk.power_cut()
    machine.disk.power_on()
    store = machine.open()
    assert not store.status(ONE, V3).may_be_short  # it had been closed in order
    store.abandon()


def test_bytes_a_start_after_a_kill_took_over_survive_a_power_cut(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"kept")
    store = machine.open_after_kill(store)  # before any flush: the chunk file's name was not synced either
    store = machine.open_after_power_cut(store, torn=False)
    assert store.corrupt() == [] and content(store) == b"kept"
    store.abandon()


def test_a_replica_that_lost_power_does_not_vouch_for_its_end(tmp_path: Path) -> None:
    """Else a reader would take acknowledged bytes that are missing here for a hole, and read zeros."""
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"kept")
    store.flush()
    store.write(ONE, V1, 4, b"lost")
    store = machine.open_after_power_cut(store, torn=False)
    assert store.committed_length(ONE, V1, wanted_bytes=4) == 4 and content(store) == b"kept"
    with pytest.raises(DataUnavailable, match="power cut"):
        store.committed_length(ONE, V1, wanted_bytes=8)
    store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    store.write(ONE, V2, 4, b"again")  # a set that knew of it goes on from here
    assert store.committed_length(ONE, V2, wanted_bytes=100) == 9
    store.abandon()


def test_a_durable_version_keeps_what_it_acknowledged_on_a_store_that_flushes(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    for handle, durable in ((ONE, True), (TWO, False)):
        store.versions.bump(
            handle, V1, oldest_version=ChunkVersion(0), create=True, master_term=T1, durable=durable
        )
        store.write(handle, V1, 0, b"acknowledged")
    store = machine.open_after_kill(store)  # the promise outlives the process
    store.write(TWO, V1, 12, b", and lost")
    store.write(ONE, V1, 12, b", and kept")
    store.write(TWO, V1, 22, b" again")
    store = machine.open_after_power_cut(store, torn=False)
    assert content(store) == b"acknowledged, and kept" and not store.status(ONE, V1).may_be_short
    assert store.status(TWO, V1).may_be_short
    store.versions.bump(ONE, V2, oldest_version=V1, create=False, master_term=T1)
    store.write(ONE, V2, 22, b", flushed")
    store = machine.open_after_power_cut(store, torn=False)
    assert store.status(ONE, V2).may_be_short, "the later version did not promise it"
    assert content(store, ONE, V2) == b"acknowledged, and kept"
    store.abandon()


def test_a_power_cut_under_sync_raises_no_doubt(tmp_path: Path) -> None:
    machine = Machine(tmp_path, durability="sync")
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"kept")
    store = machine.open_after_power_cut(store)
    assert content(store) == b"kept" and not store.status(ONE, V1).may_be_short
    store.abandon()


# --- damage that is no crash --------------------------------------------------------------------


def _journal(machine: Machine) -> str:
    (sequence,) = (
        int(name[7:23]) for name in machine.disk.listdir(machine.directory) if name.endswith(".journal")
    )
    return segment_path(machine.directory, sequence)


def test_a_journal_torn_at_any_byte_keeps_every_whole_record(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    ends = {machine.disk.open(_journal(machine)).length(): 0}
    for number in range(4):
        store.write(ONE, V1, number * 10, b"0123456789")
        ends[machine.disk.open(_journal(machine)).length()] = number * 10 + 10
    store.abandon()
    path = _journal(machine)
    image = machine.disk.open(path).pread(10_000, 0)
    stored = machine.disk.open(chunk_path()).pread(100, 0)
    database = Path(machine.directory, "chunks.lmdb").read_bytes()
    for length in range(min(ends), len(image) + 1):
        Path(machine.directory, "chunks.lmdb").write_bytes(database)
        for name in machine.disk.listdir(machine.directory):
            machine.disk.unlink(f"{machine.directory}/{name}")
        machine.disk.open(path, create=True).pwrite(image[:length], 0)
        machine.disk.open(chunk_path()).pwrite(stored, 0)
        after = machine.open()
        expected = max(content_end for end, content_end in ends.items() if end <= length)
        assert content(after) == stored[:expected]
        after.abandon()


def test_a_flipped_bit_in_the_journal_stops_the_start_and_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    first = machine.disk.open(_journal(machine)).length()
    store.write(ONE, V1, 0, b"abc")
    store.write(ONE, V1, 3, b"def")
    store.abandon()
    machine.disk.flip_bit(_journal(machine), first + 30)
    with pytest.raises(CorruptState, match=rf"record 1 at offset {first}"):
        machine.open()


def test_a_missing_journal_stops_the_start(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.abandon()
    machine.disk.unlink(_journal(machine))
    with pytest.raises(CorruptState, match="missing"):
        machine.open()


def test_a_missing_index_never_costs_the_chunks(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"abc")
    store.close()
    Path(machine.directory, "chunks.lmdb").unlink()
    with pytest.raises(CorruptState):
        machine.open()
    assert machine.disk.open(chunk_path()).pread(10, 0) == b"abc"


def test_an_index_that_is_none_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    Path(machine.directory).mkdir()
    Path(machine.directory, "chunks.lmdb").write_bytes(b"not an index" * 1000)
    with pytest.raises(CorruptState, match=r"chunks\.lmdb"):
        machine.open()


def test_an_index_of_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)
    monkeypatch.setattr("gfs.chunkserver.index_tables.FORMAT_VERSION", FORMAT_VERSION + 1)
    machine.open().close()
    monkeypatch.undo()
    with pytest.raises(UnsupportedVersion, match=f"format {FORMAT_VERSION + 1}"):
        machine.open()


def test_an_index_of_the_format_before_windows_and_guests_is_read_and_becomes_ours(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    create(store)
    store.write(ONE, V1, 0, b"abc")
    store.close()
    make_index_old(Path(machine.directory, "chunks.lmdb"))
    store = machine.open()
    assert content(store) == b"abc"
    store.write(ONE, V1, 3, b"def")
    store.close()
    assert meta_format(Path(machine.directory, "chunks.lmdb")) == FORMAT_VERSION
    store = machine.open()
    assert content(store) == b"abcdef"
    store.close()


def make_index_old(path: Path) -> None:
    """As format 1 was: headers of the first seven fields, no table of windows."""
    with lmdb.open(str(path), subdir=False, max_dbs=5) as environment:
        headers, meta = environment.open_db(b"headers"), environment.open_db(b"meta")
        windows = environment.open_db(b"windows")
        with environment.begin(write=True) as transaction:
            for key, sealed in list(transaction.cursor(headers)):
                old = msgspec.msgpack.encode(msgspec.msgpack.decode(sealed[4:])[:7])
                checksum = crc32c(old, crc32c(key))
                transaction.put(key, checksum.to_bytes(4, "little") + old, db=headers)
            transaction.drop(windows)
            transaction.put(b"format", (1).to_bytes(8, "big"), db=meta)


def meta_format(path: Path) -> int:
    with lmdb.open(str(path), subdir=False, max_dbs=5, readonly=True) as environment:
        with environment.begin() as transaction:
            row = transaction.get(b"format", db=environment.open_db(b"meta", transaction))
    return int.from_bytes(row, "big")


def test_a_damaged_entry_costs_its_chunk_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.open()
    for handle in (ONE, TWO):
        create(store, handle)
        store.write(handle, V1, 0, b"abc")
    store.close()
    store = machine.open()
    with store._access.index._tables._environment.begin(write=True) as transaction:
        key_bytes = int(TWO).to_bytes(8, "big")
        value = bytearray(transaction.get(key_bytes, db=store._access.index._tables._headers))
        value[-1] ^= 1
        transaction.put(key_bytes, bytes(value), db=store._access.index._tables._headers)
    store.abandon()
    after = machine.open()
    assert after.corrupt() == [TWO] and content(after, ONE) == b"abc"
    assert [(held.handle, held.version) for held in after.reports.inventory()] == [(ONE, V1), (TWO, 0)]
    with pytest.raises(CorruptState):
        after.write(TWO, V1, 3, b"def")
    after.delete(TWO)
    assert after.corrupt() == [] and after.chunk_count == 1
    create(after, TWO)
    assert content(after, TWO) == b""
    after.close()
