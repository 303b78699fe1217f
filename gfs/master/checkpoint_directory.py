"""Checkpoints as files: names, manifests, proof of their bytes, which are kept. Not what is in them.

    checkpoint-<index>-<term>.lmdb       a compact LMDB file, the whole state
    checkpoint-<index>-<term>.manifest   one line of JSON, then the CRC32C of that line in hexadecimal

A checkpoint exists from the moment its manifest has its final name: everything else is on the disk by then.
Whatever lacks a manifest, or does not have the length and checksum its manifest says, is passed over.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator

import msgspec
from crc32c import crc32c

from gfs import failpoints
from gfs.disk import Disk, OpenFile, read_whole_file, write_file_durably
from gfs.errors import CorruptState, GfsError, NotFound, UnsupportedVersion
from gfs.master.replication.checkpoints import CHECKPOINT_FORMAT, CheckpointManifest
from gfs.telemetry import logger

READ_PIECE_BYTES = 2**20
SYNC_STEP_BYTES = 4 * 2**20  # synced this often: log syncs on the same disk never queue behind much
MANIFEST_BYTES_MAX = 2**20

_NAME = re.compile(r"^(checkpoint-\d{20}-\d+)\.(lmdb|manifest)$")


def checkpoint_name(manifest: CheckpointManifest) -> str:
    return f"checkpoint-{manifest.index:020}-{manifest.term}"


def encode_manifest(manifest: CheckpointManifest) -> bytes:
    line = msgspec.json.encode(manifest) + b"\n"
    return line + b"%08x\n" % crc32c(line)


def decode_manifest(content: bytes) -> CheckpointManifest:
    """Raises: CorruptState, UnsupportedVersion."""
    line, newline, checksum = content.partition(b"\n")
    line += newline
    if checksum != b"%08x\n" % crc32c(line):
        raise CorruptState("the manifest does not have its checksum")
    try:
        found = msgspec.json.decode(line, type=_Format).format  # first, as a later format has other fields
        if found != CHECKPOINT_FORMAT:
            raise UnsupportedVersion(f"the checkpoint has format {found}, not {CHECKPOINT_FORMAT}")
        return msgspec.json.decode(line, type=CheckpointManifest)
    except msgspec.DecodeError as error:
        raise UnsupportedVersion(f"the manifest cannot be read: {error}") from error


class _Format(msgspec.Struct):
    format: int


class CheckpointDirectory:
    """The checkpoints of one master. Reading and listing from any thread; each write from one at a time."""

    def __init__(self, directory: str, disk: Disk, *, kept_max: int) -> None:
        """Find what is there; verifies the newest whole, older ones by length until they are needed.

        A damaged one is passed over with a log line, and what a crash left half-made is removed. One of a
        later gfs is not: an older checkpoint in its place would bring back what that gfs has left behind.
        Raises: UnsupportedVersion; OSError.
        """
        assert kept_max > 0
        self.directory = directory
        self.disk = disk
        self._kept_max = kept_max
        self._lock = threading.Lock()
        self._log = logger("checkpoint")
        disk.make_directory(directory)
        self.era = 0  # of how many states there have been checkpoints here
        self._kept = self._find()
        # A kill may have come between the renames of one and their sync; the log is about to rest on it.
        disk.sync_directory(directory)

    def newest(self) -> CheckpointManifest | None:
        kept = self._kept
        return kept[-1] if kept else None

    def kept(self) -> list[CheckpointManifest]:
        return list(self._kept)

    def read_piece(self, manifest: CheckpointManifest, *, offset: int, length: int) -> bytes:
        """Raises: NotFound when it is no longer kept; OSError."""
        try:
            file = self.disk.open(self.path_of(manifest))
        except FileNotFoundError as error:
            raise NotFound(f"checkpoint {manifest.index} has been replaced by newer ones") from error
        try:
            return file.pread(length, offset)
        finally:
            file.close()

    def path_of(self, manifest: CheckpointManifest) -> str:
        return f"{self.directory}/{checkpoint_name(manifest)}.lmdb"

    def write(
        self,
        pieces: Iterable[bytes],
        describe: Callable[[int, int], CheckpointManifest],
        *,
        name: str,
        era: int = 0,
    ) -> CheckpointManifest:
        """Make a checkpoint of `pieces`; `describe` turns their length and CRC32C into its manifest.

        `era`: in which it was begun. Raises: OSError; CorruptState when its state was given up meanwhile;
        then nothing has a final name and the half-made file is gone.
        """
        temporary = f"{self.directory}/{name}.tmp"
        try:
            failpoints.hit("checkpoint.before_write")
            manifest = describe(*self._write_file(temporary, pieces))
            assert checkpoint_name(manifest) == name, manifest
            failpoints.hit("checkpoint.before_rename")
            self.disk.rename(temporary, self.path_of(manifest))
            failpoints.hit("checkpoint.file_renamed")
        except BaseException:
            self._remove(f"{name}.tmp")
            raise
        with self._lock:
            if era != self.era:
                self._remove(f"{name}.lmdb")
                raise CorruptState("the state it was made of has been given up")
            write_file_durably(self.disk, self._manifest_path(manifest), encode_manifest(manifest))
            failpoints.hit("checkpoint.renamed")
            self._add(manifest)
        self.prune()
        return manifest

    def drop_all(self, reason: str) -> None:
        """The state that these were made of is wrong, and so may they be; those under way come to nothing."""
        with self._lock:
            self.era += 1
            dropped, self._kept = self._kept, []
        for manifest in dropped:
            self._log.error("checkpoint_dropped", checkpoint=checkpoint_name(manifest), reason=reason)
        self.prune()

    def adopt(self, part_path: str, manifest: CheckpointManifest, manifest_path: str) -> None:
        """Give a received, verified and synced checkpoint its final names."""
        with self._lock:  # a prune() under way must not take the files for leftovers
            self.disk.rename(part_path, self.path_of(manifest))
            failpoints.hit("checkpoint.half_adopted")
            self.disk.rename(manifest_path, self._manifest_path(manifest))
            self.disk.sync_directory(self.directory)
            failpoints.hit("checkpoint.adopted")
            self._add(manifest)

    def prune(self, *, room_for: int = 0) -> None:
        """Remove all but the newest few, and what is left of damaged ones. At least one stays."""
        with self._lock:
            self._kept = self._kept[-max(1, self._kept_max - room_for) :]
            names = {checkpoint_name(manifest) for manifest in self._kept}
            found = [_NAME.match(file_name) for file_name in self.disk.listdir(self.directory)]
        doomed = {match[1] for match in found if match is not None} - names
        # A manifest goes first: without it nobody takes its file for a checkpoint.
        for name in sorted(doomed):
            self._remove(f"{name}.manifest")
            failpoints.hit("checkpoint.half_removed")
            self._remove(f"{name}.lmdb")
        if doomed:
            # The log is trimmed behind the oldest kept: none older may come back by a power cut.
            self.disk.sync_directory(self.directory)
            failpoints.hit("checkpoint.pruned")

    def pieces(self, manifest: CheckpointManifest) -> Iterator[bytes]:
        """The bytes of a checkpoint, verified.

        Raises: CorruptState at the end when they are not those its manifest promises; OSError.
        """
        file = self.disk.open(self.path_of(manifest))
        try:
            yield from verified_pieces(file, manifest)
        finally:
            file.close()

    def drop_newest(self, reason: str) -> None:
        """The newest cannot be used after all: fall back to the one before."""
        with self._lock:
            dropped = self._kept.pop()
        self._log.error("checkpoint_skipped", checkpoint=checkpoint_name(dropped), reason=reason)

    def distrust(self, manifest: CheckpointManifest) -> bool:
        """Read one whole, and give it up when it has gone bad. Its files stay until the next is written.

        Returns: whether it was given up.
        """
        try:
            for _ in self.pieces(manifest):
                pass
            return False
        except (CorruptState, OSError) as error:
            with self._lock:
                self._kept = [found for found in self._kept if found != manifest]
            name = checkpoint_name(manifest)
            self._log.error("checkpoint_dropped", checkpoint=name, reason=str(error))
            return True

    def _add(self, manifest: CheckpointManifest) -> None:
        others = [found for found in self._kept if _order(found) != _order(manifest)]
        self._kept = sorted([*others, manifest], key=_order)

    def _write_file(self, path: str, pieces: Iterable[bytes]) -> tuple[int, int]:
        length = checksum = synced = 0
        file = self.disk.open(path, create=True)
        try:
            file.truncate(0)
            for piece in pieces:
                file.pwrite(piece, length)
                checksum = crc32c(piece, checksum)
                length += len(piece)
                if length - synced >= SYNC_STEP_BYTES:
                    file.sync()
                    synced = length
            failpoints.hit("checkpoint.written")
            file.sync()
        finally:
            file.close()
        return length, checksum

    def _find(self) -> list[CheckpointManifest]:
        found: list[CheckpointManifest] = []
        for file_name in self.disk.listdir(self.directory):
            match = _NAME.match(file_name)
            if match is None:
                if file_name.endswith(".tmp"):
                    self._remove(file_name)
            elif match[2] == "manifest":
                try:
                    found.append(self._read_manifest(match[1]))
                except UnsupportedVersion as error:
                    raise UnsupportedVersion(
                        f"{self.directory}/{file_name}: {error.message}",
                        hint="A newer gfs wrote it. Start that one, or upgrade this one.",
                    ) from error
                except (GfsError, OSError) as error:
                    self._log.error("checkpoint_skipped", checkpoint=match[1], reason=str(error))
            elif not self.disk.exists(f"{self.directory}/{match[1]}.manifest"):
                self._log.warning("checkpoint_skipped", checkpoint=match[1], reason="it is incomplete")
                self._remove(file_name)
        found.sort(key=_order)
        while found:
            try:
                for _ in self.pieces(found[-1]):
                    pass
                break
            except (GfsError, OSError) as error:
                name = checkpoint_name(found.pop())
                self._log.error("checkpoint_skipped", checkpoint=name, reason=str(error))
        return found

    def _read_manifest(self, name: str) -> CheckpointManifest:
        manifest = decode_manifest(read_whole_file(self.disk, f"{self.directory}/{name}.manifest"))
        if checkpoint_name(manifest) != name:
            raise CorruptState(f"its manifest is that of {checkpoint_name(manifest)}")
        file = self.disk.open(self.path_of(manifest))
        try:
            length = file.length()
        finally:
            file.close()
        if length != manifest.length_bytes:
            raise CorruptState(f"it is {length} bytes long, not {manifest.length_bytes}")
        return manifest

    def _manifest_path(self, manifest: CheckpointManifest) -> str:
        return f"{self.directory}/{checkpoint_name(manifest)}.manifest"

    def _remove(self, file_name: str) -> None:
        try:
            self.disk.unlink(f"{self.directory}/{file_name}")
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._log.warning("checkpoint_not_removed", file=file_name, reason=str(error))


def verified_pieces(file: OpenFile, manifest: CheckpointManifest) -> Iterator[bytes]:
    """The bytes of `file`; at the end raises CorruptState unless length and checksum are the manifest's."""
    length = checksum = 0
    while piece := file.pread(READ_PIECE_BYTES, length):
        length += len(piece)
        checksum = crc32c(piece, checksum)
        yield piece
    if (length, checksum) != (manifest.length_bytes, manifest.crc32c):
        raise CorruptState(
            f"checkpoint {manifest.index} has {length} bytes with checksum {checksum:08x}; "
            f"its manifest says {manifest.length_bytes} with {manifest.crc32c:08x}"
        )


def _order(manifest: CheckpointManifest) -> tuple[int, int]:
    return manifest.index, manifest.term
