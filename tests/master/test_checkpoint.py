"""Checkpoints: made while mutations go on, whole or absent, shipped in pieces, installed all or nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from chaos.simulation.disk import ForgetfulDisk
from gfs import failpoints
from gfs.disk import SystemDisk, write_file_durably
from gfs.errors import ChecksumMismatch, CorruptState, InvalidArgument, NotFound, UnsupportedVersion
from gfs.master.checkpoint_directory import CheckpointDirectory, decode_manifest, encode_manifest
from gfs.master.core.lookup import stat
from gfs.master.replication.checkpoints import CheckpointManifest, CheckpointStore
from gfs.master.state_machine import STATE_FILE
from gfs.vocabulary import ClusterId, LogIndex, Term
from tests.master import state_fixtures
from tests.master.state_fixtures import CHECKPOINTS, Node
from tests.paper.boxes import keeps

PIECE_BYTES = 10_000


def restarted(node: Node, directory: Path, disk: ForgetfulDisk, *, power_cut: bool) -> Node:
    node.state.close()
    if power_cut:
        disk.power_cut()
        disk.power_on()
    return Node(directory, disk)


def names(disk: ForgetfulDisk) -> list[str]:
    return disk.listdir(CHECKPOINTS)


# --- making -------------------------------------------------------------------------------------


def test_a_checkpoint_is_the_state_it_names_on_the_disk(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    node = Node(tmp_path, disk)
    store: CheckpointStore = node.store
    assert store.newest() is None
    node.apply_to(10)
    manifest = node.checkpoint()
    assert (manifest.index, manifest.term, manifest.cluster) == (10, 1, "c")
    assert manifest.members == {"m1": "disk-1"}
    assert store.newest() == manifest
    digest = node.digest()
    again = restarted(node, tmp_path, disk, power_cut=True)
    assert again.store.newest() == manifest
    assert again.digest() == digest


@keeps("checkpoint-aside")
def test_mutations_go_on_while_a_checkpoint_is_copied_and_are_not_in_it(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    node = Node(tmp_path, disk)
    node.apply_to(10)
    digest = node.digest()
    build = node.store.begin(cluster=ClusterId("c"), index=LogIndex(10), term=Term(1), members={}, now_ms=0)
    node.apply_to(200)
    assert build.run().index == 10
    node.apply_to(300)
    again = restarted(node, tmp_path, disk, power_cut=True)
    assert again.digest() == digest


def test_what_was_applied_but_not_committed_is_in_the_checkpoint(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    node = Node(tmp_path, disk)
    node.state.apply(LogIndex(1), Term(1), state_fixtures.entry(1))
    node.checkpoint()
    again = restarted(node, tmp_path, disk, power_cut=True)
    assert stat(again.state.committed(), "/f1").kind == "file"


@keeps("checkpoints-kept")
def test_the_newest_three_are_kept(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    node = Node(tmp_path, disk)
    for index in (1, 2, 3, 4, 5):
        node.apply_to(index)
        node.checkpoint()
    assert [manifest.index for manifest in node.store.kept()] == [3, 4, 5]
    assert len(names(disk)) == 6
    again = restarted(node, tmp_path, disk, power_cut=True)
    assert [manifest.index for manifest in again.store.kept()] == [3, 4, 5]


# --- broken ones --------------------------------------------------------------------------------


def two_checkpoints(tmp_path: Path, disk: ForgetfulDisk) -> tuple[CheckpointManifest, CheckpointManifest]:
    node = Node(tmp_path, disk)
    node.apply_to(5)
    older = node.checkpoint()
    node.apply_to(10)
    newer = node.checkpoint()
    node.state.close()
    disk.power_cut()
    disk.power_on()
    return older, newer


def path_of(manifest: CheckpointManifest, suffix: str) -> str:
    return f"{CHECKPOINTS}/checkpoint-{manifest.index:020}-{manifest.term}.{suffix}"


@pytest.mark.parametrize(
    "damage", ["flip", "flip manifest", "cut", "cut manifest", "no file", "no manifest", "longer"]
)
@keeps("checkpoints-kept")
def test_a_damaged_or_incomplete_checkpoint_is_skipped_for_the_one_before(
    tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = ForgetfulDisk()
    older, newer = two_checkpoints(tmp_path, disk)
    data, manifest = path_of(newer, "lmdb"), path_of(newer, "manifest")
    match damage:
        case "flip":
            disk.flip_bit(data, newer.length_bytes // 2)
        case "flip manifest":
            disk.flip_bit(manifest, 30)
        case "cut":
            disk.open(data).truncate(newer.length_bytes - 1)
        case "cut manifest":
            disk.open(manifest).truncate(20)
        case "no file":
            disk.unlink(data)
        case "no manifest":
            disk.unlink(manifest)
        case "longer":
            disk.open(data).pwrite(b"x", newer.length_bytes)
    capfd.readouterr()
    node = Node(tmp_path, disk)
    assert node.store.newest() == older
    assert node.state.applied() == (5, 1)
    captured = capfd.readouterr()
    assert "checkpoint_skipped" in captured.out + captured.err
    node.apply_to(10)
    node.checkpoint()
    assert [found.index for found in node.store.kept()] == [5, 10]
    again = restarted(node, tmp_path, disk, power_cut=True)
    assert again.state.applied() == (10, 1)


def test_when_no_checkpoint_is_sound_the_state_begins_empty(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    for manifest in two_checkpoints(tmp_path, disk):
        disk.flip_bit(path_of(manifest, "lmdb"), 100)
    node = Node(tmp_path, disk)
    assert node.store.newest() is None
    assert node.state.applied() == (0, 0)


def test_a_file_whose_bytes_are_as_promised_but_of_another_index_is_not_used(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    older, newer = two_checkpoints(tmp_path, disk)
    renamed = msgspec.structs.replace(newer, index=LogIndex(77))
    disk.rename(path_of(newer, "lmdb"), path_of(renamed, "lmdb"))
    write_file_durably(disk, path_of(renamed, "manifest"), encode_manifest(renamed))
    node = Node(tmp_path, disk)
    assert node.state.applied() == (5, 1)
    assert node.store.newest() == older


def test_a_manifest_proves_itself_and_newer_formats_are_told_from_damage() -> None:
    manifest = CheckpointManifest(
        format=1,
        cluster=ClusterId("c"),
        index=LogIndex(1),
        term=Term(1),
        length_bytes=1,
        crc32c=2,
        members={},
    )
    content = encode_manifest(manifest)
    assert decode_manifest(content) == manifest
    for position in range(len(content)):
        broken = bytearray(content)
        broken[position] ^= 4
        with pytest.raises(CorruptState):
            decode_manifest(bytes(broken))
        with pytest.raises(CorruptState):
            decode_manifest(content[:position])
    with pytest.raises(UnsupportedVersion):
        decode_manifest(encode_manifest(msgspec.structs.replace(manifest, format=2)))


@pytest.mark.parametrize("torn", [False, True])
def test_power_lost_at_any_step_of_a_checkpoint_leaves_the_old_or_the_new_one(
    tmp_path: Path, torn: bool
) -> None:
    finished = operations = 0
    while not finished:
        disk = ForgetfulDisk(seed=operations)
        directory = tmp_path / f"{torn}-{operations}"
        node = Node(directory, disk)
        node.apply_to(3)
        node.checkpoint()
        node.apply_to(6)
        disk.cut_power_after(operations, torn=torn)
        try:
            node.checkpoint()
            finished = 1
        except OSError:
            pass
        again = restarted(node, directory, disk, power_cut=True)
        assert again.state.applied() in ((3, 1), (6, 1)), operations
        if finished:
            assert again.state.applied() == (6, 1), "what run() has returned for is durable"
        again.digest()
        again.apply_to(8)
        assert again.checkpoint().index == 8
        again.state.close()
        operations += 1
    assert operations > 8


@pytest.mark.parametrize("point", ["before_write", "written", "before_rename", "renamed"])
def test_a_failing_disk_leaves_nothing_half_made_and_the_next_try_succeeds(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = ForgetfulDisk()
    node = Node(tmp_path, disk)
    node.apply_to(5)
    before = names(disk)
    with monkeypatch.context() as armed:
        armed.setattr(failpoints, "_armed", failpoints._parse(f"checkpoint.{point}=raise"))
        for _ in range(5):
            with pytest.raises(OSError):
                node.checkpoint()
    if point != "renamed":
        assert names(disk) == before
        assert node.store.newest() is None
    assert node.checkpoint().index == 5
    assert len(node.store.kept()) == 1


def test_a_full_disk_fails_the_checkpoint_and_frees_what_it_took(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    node = Node(tmp_path, disk)
    node.apply_to(5)
    disk.space_bytes_left = 10_000
    with pytest.raises(OSError) as failure:
        node.checkpoint()
    assert failure.value.errno == errno.ENOSPC
    assert names(disk) == []
    disk.space_bytes_left = None
    node.apply_to(6)
    assert node.checkpoint().index == 6


@pytest.mark.parametrize("point", ["before_write", "written", "before_rename", "renamed"])
def test_kill_9_at_each_step_of_a_checkpoint_is_an_ordinary_stop(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom gfs.disk import SystemDisk, write_file_durably\n"
        "import tests.master.state_fixtures as fixtures\n"
        "fixtures.CHECKPOINTS = sys.argv[1] + '/checkpoints'\n"
        "node = fixtures.Node(Path(sys.argv[1]), SystemDisk())\n"
        "for index in (10, 20):\n    node.apply_to(index)\n    node.checkpoint()\n"
    )
    environment = os.environ | {failpoints.ENVIRONMENT_KEY: f"checkpoint.{point}=kill@2"}
    died = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False)
    assert died.returncode == -9
    monkeypatch.setattr(state_fixtures, "CHECKPOINTS", f"{tmp_path}/checkpoints")
    node = Node(tmp_path, SystemDisk())
    newest = node.store.newest()
    assert newest is not None
    assert newest.index == (20 if point == "renamed" else 10)
    assert node.state.applied() == (20, 1)
    node.apply_to(25)
    assert node.checkpoint().index == 25
    assert not [name for name in os.listdir(tmp_path / "checkpoints") if name.endswith(".tmp")]
    node.state.close()


# --- shipping -----------------------------------------------------------------------------------


class Pair:
    """A leader with a checkpoint at 50, and a follower at 5."""

    def __init__(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "follower"
        self.leader = Node(tmp_path / "leader", ForgetfulDisk())
        self.leader.apply_to(50)
        self.manifest = self.leader.checkpoint()
        self.digest = self.leader.digest()
        self.disk = ForgetfulDisk()
        self.follower = Node(self.directory, self.disk)
        self.follower.apply_to(5)

    def pieces(self, offset: int) -> list[bytes]:
        found: list[bytes] = []
        while offset < self.manifest.length_bytes:
            piece = self.leader.store.read_piece(self.manifest, offset=offset, length=PIECE_BYTES)
            found.append(piece)
            offset += len(piece)
        return found


def test_a_shipped_checkpoint_becomes_the_followers_state(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    heard: list[int] = []
    pair.follower.state.on_replaced(lambda: heard.append(pair.follower.state.applied()[0]))
    receiver = pair.follower.store.receive(pair.manifest)
    for piece in pair.pieces(0):
        receiver.write_piece(receiver.received_bytes(), piece)
    assert pair.follower.state.applied() == (5, 1)
    receiver.prepare()
    assert pair.follower.state.applied() == (5, 1), "until install() the old state is served"
    assert pair.follower.store.newest() is None
    receiver.install()
    assert pair.follower.store.newest() == pair.manifest
    assert pair.follower.state.applied() == (50, 1)
    assert pair.follower.digest() == pair.digest
    assert heard == [50]
    pair.follower.apply_to(60)
    pair.leader.apply_to(60)
    assert pair.follower.digest() == pair.leader.digest()
    assert not [name for name in names(pair.disk) if "part" in name]
    pair.follower.checkpoint()
    again = restarted(pair.follower, pair.directory, pair.disk, power_cut=True)
    assert again.state.applied() == (60, 1)


def test_an_installed_checkpoint_is_durable(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    receiver = pair.follower.store.receive(pair.manifest)
    for piece in pair.pieces(0):
        receiver.write_piece(receiver.received_bytes(), piece)
    receiver.prepare()
    receiver.install()
    again = restarted(pair.follower, pair.directory, pair.disk, power_cut=True)
    assert again.state.applied() == (50, 1)
    assert again.digest() == pair.digest


def test_a_checkpoint_found_after_a_kill_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log starts over from it at once, so it must not go back to where it was before its renames."""
    pair = Pair(tmp_path)
    receiver = pair.follower.store.receive(pair.manifest)
    for piece in pair.pieces(0):
        receiver.write_piece(receiver.received_bytes(), piece)
    receiver.prepare()

    def killed(_path: str) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(pair.disk, "sync_directory", killed)
        with pytest.raises(InterruptedError):
            receiver.install()
    again = restarted(pair.follower, pair.directory, pair.disk, power_cut=False)
    assert again.store.newest() == pair.manifest
    again = restarted(again, pair.directory, pair.disk, power_cut=True)
    assert again.store.newest() == pair.manifest


@pytest.mark.parametrize("power_cut", [False, True])
def test_receiving_resumes_after_a_restart(tmp_path: Path, power_cut: bool) -> None:
    pair = Pair(tmp_path)
    receiver = pair.follower.store.receive(pair.manifest)
    for piece in pair.pieces(0)[:3]:
        receiver.write_piece(receiver.received_bytes(), piece)
    pair.follower = restarted(pair.follower, pair.directory, pair.disk, power_cut=power_cut)
    receiver = pair.follower.store.receive(pair.manifest)
    assert receiver.received_bytes() == (0 if power_cut else 3 * PIECE_BYTES)
    for piece in pair.pieces(receiver.received_bytes()):
        receiver.write_piece(receiver.received_bytes(), piece)
    receiver.prepare()
    receiver.install()
    assert pair.follower.digest() == pair.digest


def test_half_of_another_checkpoint_is_thrown_away(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    receiver = pair.follower.store.receive(pair.manifest)
    receiver.write_piece(0, pair.pieces(0)[0])
    pair.leader.apply_to(55)
    pair.manifest = pair.leader.checkpoint()
    assert pair.follower.store.receive(pair.manifest).received_bytes() == 0
    assert [name for name in names(pair.disk) if "part" in name] == []


def test_damage_on_the_way_is_found_before_the_state_is_touched(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    receiver = pair.follower.store.receive(pair.manifest)
    for piece in pair.pieces(0):
        broken = bytes([piece[0] ^ 1]) + piece[1:]
        receiver.write_piece(receiver.received_bytes(), broken)
    with pytest.raises(ChecksumMismatch):
        receiver.prepare()
    assert receiver.received_bytes() == 0
    assert pair.follower.state.applied() == (5, 1)
    for piece in pair.pieces(0):
        receiver.write_piece(receiver.received_bytes(), piece)
    receiver.prepare()
    receiver.install()
    assert pair.follower.digest() == pair.digest


def test_too_few_bytes_are_not_a_checkpoint_and_too_many_are_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    receiver = pair.follower.store.receive(pair.manifest)
    pieces = pair.pieces(0)
    for piece in pieces[:-1]:
        receiver.write_piece(receiver.received_bytes(), piece)
    with pytest.raises(InvalidArgument):
        receiver.write_piece(receiver.received_bytes(), pieces[-1] + b"x")
    with pytest.raises(ChecksumMismatch):
        receiver.prepare()


def test_a_state_that_is_not_where_its_manifest_says_is_not_installed(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    lying = msgspec.structs.replace(pair.manifest, index=LogIndex(51))
    receiver = pair.follower.store.receive(lying)
    for piece in pair.pieces(0):
        receiver.write_piece(receiver.received_bytes(), piece)
    with pytest.raises(ChecksumMismatch, match="says it is at"):
        receiver.prepare()
    assert pair.follower.state.applied() == (5, 1)


def test_power_lost_at_any_step_of_receiving_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    finished = operations = 0
    while not finished:
        pair = Pair(tmp_path / str(operations))
        pair.disk.cut_power_after(operations)
        try:
            receiver = pair.follower.store.receive(pair.manifest)
            for piece in pair.pieces(0):
                receiver.write_piece(receiver.received_bytes(), piece)
            receiver.prepare()
            receiver.install()
            finished = 1
        except OSError:
            pass
        again = restarted(pair.follower, pair.directory, pair.disk, power_cut=True)
        assert again.state.applied() == ((50, 1) if finished else (0, 0)) or (
            again.state.applied() == (50, 1) and again.digest() == pair.digest
        )
        again.state.close()
        pair.leader.state.close()
        operations += 1
    assert operations > 10


def test_death_between_checkpoint_and_state_is_healed_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path)
    receiver = pair.follower.store.receive(pair.manifest)
    for piece in pair.pieces(0):
        receiver.write_piece(receiver.received_bytes(), piece)
    receiver.prepare()

    def die() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pair.follower.state, "replace_by_incoming", die)
    with pytest.raises(KeyboardInterrupt):
        receiver.install()
    again = restarted(pair.follower, pair.directory, pair.disk, power_cut=False)
    assert again.state.applied() == (50, 1)
    assert again.digest() == pair.digest


def test_a_checkpoint_installed_under_a_running_build_does_not_disturb_it(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    own = pair.follower.store.begin(
        cluster=ClusterId("c"), index=LogIndex(5), term=Term(1), members={}, now_ms=0
    )
    receiver = pair.follower.store.receive(pair.manifest)
    for piece in pair.pieces(0):
        receiver.write_piece(receiver.received_bytes(), piece)
    receiver.prepare()
    receiver.install()
    assert own.run().index == 5
    assert pair.follower.store.newest() == pair.manifest
    assert pair.follower.digest() == pair.digest
    pair.follower.apply_to(52)
    assert pair.follower.checkpoint().index == 52


def test_checkpoints_of_a_state_that_is_given_up_are_gone_and_one_under_way_comes_to_nothing(
    tmp_path: Path,
) -> None:
    disk = ForgetfulDisk()
    node = Node(tmp_path, disk)
    node.apply_to(10)
    node.checkpoint()
    node.apply_to(20)
    index, term = node.state.applied()
    build = node.store.begin(cluster=ClusterId("c"), index=index, term=term, members={}, now_ms=1)
    node.files.drop_all("it differs")
    with pytest.raises(CorruptState, match="given up"):
        build.run()
    assert node.store.newest() is None and names(disk) == []
    node.apply_to(21)
    node.checkpoint()
    disk.power_cut()
    disk.power_on()
    assert [m.index for m in CheckpointDirectory(CHECKPOINTS, disk, kept_max=3).kept()] == [21]


def test_a_piece_of_a_checkpoint_that_is_gone_is_not_found(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    for index in (51, 52, 53):
        pair.leader.apply_to(index)
        pair.leader.checkpoint()
    with pytest.raises(NotFound):
        pair.leader.store.read_piece(pair.manifest, offset=0, length=10)


def test_listing_an_empty_directory_finds_nothing(tmp_path: Path) -> None:
    directory = CheckpointDirectory(str(tmp_path / "new"), SystemDisk(), kept_max=3)
    assert directory.newest() is None
    assert directory.kept() == []
    assert not (tmp_path / STATE_FILE).exists()
