"""A state machine and its checkpoints, small enough to compare at every index. Over any gfs.disk.Disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import crc32c
import msgspec

from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import ChecksumMismatch, NotFound
from gfs.master.replication.checkpoints import CHECKPOINT_FORMAT, CheckpointManifest
from gfs.master.replication.configuration import ConfiguredMember
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term


class _Saved(msgspec.Struct):
    index: int
    term: int
    digest: bytes
    items: list[bytes]


class RecordedState:
    """Keeps every proposal; the outcome is its position. `digests` tell the state after each index."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.digest = b""
        self.digests: dict[int, bytes] = {}
        self.position = (LogIndex(0), Term(0))
        self.commits = 0
        self.fail_on: bytes | None = None

    def applied(self) -> tuple[LogIndex, Term]:
        return self.position

    def apply(self, index: LogIndex, term: Term, proposals: Sequence[bytes]) -> list[bytes]:
        assert index == self.position[0] + 1 or (self.position[0] == 0 and index == 2), "no gaps, no repeats"
        outcomes = []
        for proposal in proposals:
            if proposal == self.fail_on:
                raise ZeroDivisionError("a bug in apply")
            self.items.append(proposal)
            outcomes.append(b"%d" % len(self.items))
        content = b"%d/%d" % (index, term) + b"".join(hashlib.blake2b(p).digest() for p in proposals)
        self.digest = hashlib.blake2b(self.digest + content, digest_size=16).digest()
        self.digests[index] = self.digest
        self.position = (index, term)
        return outcomes

    def commit(self) -> None:
        self.commits += 1

    def save(self) -> bytes:
        return msgspec.msgpack.encode(_Saved(*self.position, self.digest, self.items))

    def load(self, content: bytes) -> None:
        saved = msgspec.msgpack.decode(content, type=_Saved)
        self.position = (LogIndex(saved.index), Term(saved.term))
        self.items, self.digest = saved.items, saved.digest
        self.digests[saved.index] = saved.digest


class FileCheckpoints:
    """CheckpointStore: one file holds manifest and content, so that a rename makes both appear together."""

    def __init__(self, directory: str, disk: Disk, state: RecordedState, *, kept_max: int = 3) -> None:
        self._directory, self._disk, self._state, self._kept_max = directory, disk, state, kept_max
        disk.make_directory(directory)

    def newest(self) -> CheckpointManifest | None:
        kept = self.kept()
        return kept[-1] if kept else None

    def kept(self) -> list[CheckpointManifest]:
        names = [name for name in self._disk.listdir(self._directory) if name.endswith(".checkpoint")]
        return [self._read(name)[0] for name in names]

    def restore(self) -> None:
        """What the master does at the start when its state is gone."""
        newest = self.newest()
        if newest is not None:
            self._state.load(self._read(_name(newest))[1])

    def begin(
        self,
        *,
        cluster: ClusterId,
        index: LogIndex,
        term: Term,
        members: dict[MasterId, str],
        configuration: tuple[ConfiguredMember, ...] = (),
        now_ms: int,
    ) -> _Build:
        assert (index, term) == self._state.applied()
        content = self._state.save()
        manifest = CheckpointManifest(
            format=CHECKPOINT_FORMAT,
            cluster=cluster,
            index=index,
            term=term,
            length_bytes=len(content),
            crc32c=crc32c.crc32c(content),
            members=members,
            made_at_ms=now_ms,
            configuration=configuration,
        )
        return _Build(self, manifest, content)

    def read_piece(self, manifest: CheckpointManifest, *, offset: int, length: int) -> bytes:
        if not self._disk.exists(f"{self._directory}/{_name(manifest)}"):
            raise NotFound(_name(manifest))
        return self._read(_name(manifest))[1][offset : offset + length]

    def distrust(self, manifest: CheckpointManifest) -> bool:
        content = self._read(_name(manifest))[1]
        if (len(content), crc32c.crc32c(content)) == (manifest.length_bytes, manifest.crc32c):
            return False
        self._disk.unlink(f"{self._directory}/{_name(manifest)}")
        return True

    def receive(self, manifest: CheckpointManifest) -> _Receiver:
        return _Receiver(self, manifest)

    def put(self, manifest: CheckpointManifest, content: bytes) -> None:
        prepared = f"{self._directory}/prepared"
        self.write(prepared, manifest, content)
        self.adopt(prepared, manifest)

    def write(self, path: str, manifest: CheckpointManifest, content: bytes) -> None:
        head = msgspec.msgpack.encode(manifest)
        write_file_durably(self._disk, path, len(head).to_bytes(4, "little") + head + content)

    def adopt(self, path: str, manifest: CheckpointManifest) -> None:
        self._disk.rename(path, f"{self._directory}/{_name(manifest)}")
        self._disk.sync_directory(self._directory)
        for old in self.kept()[: -self._kept_max]:
            self._disk.unlink(f"{self._directory}/{_name(old)}")

    def _read(self, name: str) -> tuple[CheckpointManifest, bytes]:
        content = read_whole_file(self._disk, f"{self._directory}/{name}")
        length = int.from_bytes(content[:4], "little")
        manifest = msgspec.msgpack.decode(content[4 : 4 + length], type=CheckpointManifest)
        return manifest, content[4 + length :]


class _Build:
    def __init__(self, store: FileCheckpoints, manifest: CheckpointManifest, content: bytes) -> None:
        self._store, self._manifest, self._content = store, manifest, content

    def run(self) -> CheckpointManifest:
        self._store.put(self._manifest, self._content)
        return self._manifest


class _Receiver:
    def __init__(self, store: FileCheckpoints, manifest: CheckpointManifest) -> None:
        self._store, self._manifest = store, manifest
        self._path = f"{store._directory}/incoming-{manifest.index}-{manifest.term}"
        self._file = store._disk.open(self._path, create=True)

    def received_bytes(self) -> int:
        return self._file.length()

    def write_piece(self, offset: int, piece: bytes) -> None:
        assert offset == self._file.length()
        self._file.pwrite(piece, offset)

    def prepare(self) -> None:
        content = self._file.pread(self._file.length(), 0)
        manifest = self._manifest
        if (len(content), crc32c.crc32c(content)) != (manifest.length_bytes, manifest.crc32c):
            raise ChecksumMismatch("the checkpoint that was received is not the one that was offered")
        self._content = content
        self._store.write(f"{self._path}.prepared", manifest, content)

    def install(self) -> None:
        self._store.adopt(f"{self._path}.prepared", self._manifest)
        self._store._disk.unlink(self._path)
        self._store._state.load(self._content)

    def discard(self) -> None:
        self._file.truncate(0)


def _name(manifest: CheckpointManifest) -> str:
    return f"{manifest.index:012d}-{manifest.term:06d}.checkpoint"
