"""Making and receiving checkpoints of the live state (GFS §2.6.2). The files are checkpoint_directory's.

A checkpoint is pinned on the loop's thread, which takes as long as opening a read transaction, and copied by
a worker while mutations go on: LMDB keeps the pinned pages.
"""

from __future__ import annotations

from contextlib import closing

from msgspec import structs

from gfs import failpoints
from gfs.disk import OpenFile, write_file_durably
from gfs.errors import ChecksumMismatch, CorruptState, InvalidArgument, NotFound
from gfs.master.checkpoint_directory import (
    SYNC_STEP_BYTES,
    CheckpointDirectory,
    checkpoint_name,
    encode_manifest,
    verified_pieces,
)
from gfs.master.core.lookup import read_counters
from gfs.master.core.records import Counters
from gfs.master.lmdb_tables import PinnedCopy
from gfs.master.replication.checkpoints import CHECKPOINT_FORMAT, CheckpointManifest
from gfs.master.replication.configuration import ConfiguredMember
from gfs.master.state_machine import ReplicatedState, copy_to_plain_file
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term

PART_SUFFIX = ".part"
COUNTS_KEPT = 8  # of checkpoints made


class LmdbCheckpoints:
    """Implements CheckpointStore over the files of `directory` and the live `state`."""

    def __init__(self, directory: CheckpointDirectory, state: ReplicatedState) -> None:
        self._directory = directory
        self._state = state
        self._counts: dict[tuple[LogIndex, Term], Counters] = {}
        self.newest = directory.newest
        self.kept = directory.kept
        self.read_piece = directory.read_piece
        self.distrust = directory.distrust

    def begin(
        self,
        *,
        cluster: ClusterId,
        index: LogIndex,
        term: Term,
        members: dict[MasterId, str],
        configuration: tuple[ConfiguredMember, ...] = (),
        now_ms: int,
    ) -> LmdbCheckpointBuild:
        assert (index, term) == self._state.applied(), (index, term)
        pinned = self._state.pin()
        kept = [*self._counts.items(), ((index, term), read_counters(self._state.committed()))]
        self._counts = dict(kept[-COUNTS_KEPT:])
        draft = CheckpointManifest(
            format=CHECKPOINT_FORMAT,
            cluster=cluster,
            index=index,
            term=term,
            length_bytes=0,
            crc32c=0,
            members=dict(members),
            made_at_ms=now_ms,
            configuration=configuration,
        )
        return LmdbCheckpointBuild(self._directory, pinned, draft)

    def open(self, manifest: CheckpointManifest) -> OpenFile:
        """Its bytes, which stay readable when newer ones replace it. Raises: NotFound (one has); OSError."""
        try:
            return self._directory.disk.open(self._directory.path_of(manifest))
        except FileNotFoundError as error:
            raise NotFound(f"checkpoint {manifest.index} has been replaced by newer ones") from error

    def counts(self, manifest: CheckpointManifest) -> Counters | None:
        """How many files and chunks are in it; None when it was made before this process began."""
        position = (manifest.index, manifest.term)
        if position == self._state.applied():
            return read_counters(self._state.committed())
        return self._counts.get(position)

    def receive(self, manifest: CheckpointManifest) -> LmdbCheckpointReceiver:
        return LmdbCheckpointReceiver(self._directory, self._state, manifest)


class LmdbCheckpointBuild:
    """Implements CheckpointBuild."""

    def __init__(self, directory: CheckpointDirectory, pinned: PinnedCopy, draft: CheckpointManifest) -> None:
        self._directory, self._pinned, self._draft = directory, pinned, draft
        self._era = directory.era

    def run(self) -> CheckpointManifest:
        pieces = self._pinned.pieces()
        try:
            with closing(pieces):
                return self._directory.write(
                    pieces, self._describe, name=checkpoint_name(self._draft), era=self._era
                )
        finally:
            self._pinned.release()

    def _describe(self, length_bytes: int, checksum: int) -> CheckpointManifest:
        return structs.replace(self._draft, length_bytes=length_bytes, crc32c=checksum)


class LmdbCheckpointReceiver:
    """Implements CheckpointReceiver. The bytes gather in a file named after the manifest, so that those of
    another checkpoint are never continued with."""

    def __init__(
        self, directory: CheckpointDirectory, state: ReplicatedState, manifest: CheckpointManifest
    ) -> None:
        self._directory, self._state, self._manifest = directory, state, manifest
        self._disk = directory.disk
        name = f"{checkpoint_name(manifest)}-{manifest.crc32c:08x}{PART_SUFFIX}"
        self._path = f"{directory.directory}/{name}"
        self._manifest_path = f"{self._path}.manifest"
        for found in self._disk.listdir(directory.directory):
            if PART_SUFFIX in found and not found.startswith(name):
                self._disk.unlink(f"{directory.directory}/{found}")
        self._received = self._synced = self._length_on_disk()
        if self._received > manifest.length_bytes:
            self.discard()

    def received_bytes(self) -> int:
        return self._received

    def write_piece(self, offset: int, piece: bytes) -> None:
        """Raises: InvalidArgument (more than the manifest promises); OSError."""
        assert offset == self._received, (offset, self._received)
        if offset + len(piece) > self._manifest.length_bytes:
            raise InvalidArgument(f"checkpoint {self._manifest.index} is longer than its manifest says")
        file = self._disk.open(self._path, create=True)
        try:
            file.pwrite(piece, offset)
            self._received += len(piece)
            if self._received - self._synced >= SYNC_STEP_BYTES:
                file.sync()
                self._synced = self._received
        finally:
            file.close()

    def prepare(self) -> None:
        failpoints.hit("checkpoint.received")
        try:
            self._lay_out()
        except CorruptState as error:
            self.discard()
            raise ChecksumMismatch(f"a received checkpoint is damaged: {error.message}") from error
        failpoints.hit("checkpoint.laid_out")
        write_file_durably(self._disk, self._manifest_path, encode_manifest(self._manifest))
        # Here and not in install(), as the loop must not wait for large files to go. The log is about
        # to start over from this one, so the oldest is not missed.
        self._directory.prune(room_for=1)

    def install(self) -> None:
        # The checkpoint comes into being before the state follows it: a process that dies in between starts
        # with a state behind its newest checkpoint, and restores that. The other way round, it would start
        # with a state that neither checkpoint nor log explains.
        self._directory.adopt(self._path, self._manifest, self._manifest_path)
        self._state.replace_by_incoming()
        assert self._state.applied() == (self._manifest.index, self._manifest.term)

    def discard(self) -> None:
        for path in (self._path, self._manifest_path):
            if self._disk.exists(path):
                self._disk.unlink(path)
        self._received = self._synced = 0

    def _lay_out(self) -> None:
        """Verify, sync, and copy to where the state can continue from."""
        file = self._disk.open(self._path, create=True)
        try:
            file.sync()
            copy_to_plain_file(verified_pieces(file, self._manifest), self._state.incoming_path)
        finally:
            file.close()
        self._state.check_incoming((self._manifest.index, self._manifest.term))

    def _length_on_disk(self) -> int:
        try:
            file = self._disk.open(self._path)
        except FileNotFoundError:
            return 0
        try:
            return file.length()
        finally:
            file.close()
