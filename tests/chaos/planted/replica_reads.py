"""A trial: replicas of one chunk, some behind, damaged or half copied; and what readers are given."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from gfs.chunkserver.core.append_window import AppendWindow, encode_window
from gfs.chunkserver.replica_store import ReplicaStore
from gfs.errors import GfsError
from gfs.vocabulary import ChunkVersion
from tests.chunkserver.replicas import ONE, T1, Machine, chunk_path

STEPS = 60
_PIECES = (1, 700, 30_000, 65_536, 100_000)


class Replicas:
    """A master and a writer in one, with three real stores; `truth` is what the set of `version` holds."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.machines = [Machine(directory / name) for name in ("a", "b", "c")]
        self.stores = [machine.open() for machine in self.machines]
        self.truth = b""
        self.version = 1
        self.members = {0, 1, 2}
        self.damaged: set[int] = set()
        for store in self.stores:
            store.versions.bump(
                ONE, ChunkVersion(1), oldest_version=ChunkVersion(0), create=True, master_term=T1
            )

    def step(self) -> None:
        acts = (self.write, self.write, self.lose_member, self.flip, self.come_back, self.copy)
        self.chance.choice(acts)()
        for number, store in enumerate(self.stores):
            self.read(number, store)

    def write(self) -> None:
        offset = self.chance.randrange(len(self.truth) + 1)
        data = self.chance.randbytes(self.chance.choice(_PIECES))
        for number in sorted(self.members):
            try:
                self.stores[number].write(ONE, ChunkVersion(self.version), offset, data)
            except GfsError:
                self.members.discard(number)
                assert number in self.damaged, "a sound replica refuses a mutation"
        self.truth = self.truth[:offset] + data + self.truth[offset + len(data) :]
        assert self.members, "the last sound replica is gone"

    def lose_member(self) -> None:
        """The others get a new version, of which the one left out does not hear."""
        sound = self.members - self.damaged
        if len(sound) < 2:
            return
        self.members.discard(self.chance.choice(sorted(self.members - {min(sound)})))
        self.grant(self.members)

    def grant(self, asked: set[int]) -> None:
        """A new version for those who hold the present one; what others answer must be a refusal."""
        self.version += 1
        self.members = {number for number in sorted(asked) if self._takes_version(number)}
        assert self.members, "no replica takes the new version"

    def _takes_version(self, number: int) -> bool:
        oldest = ChunkVersion(self.version - 1)
        try:
            self.stores[number].versions.bump(
                ONE, ChunkVersion(self.version), oldest_version=oldest, create=False, master_term=T1
            )
        except GfsError:
            return False
        return True

    def come_back(self) -> None:
        """Who has missed mutations is asked with the others, and must refuse."""
        away = {0, 1, 2} - self.members
        self.grant({0, 1, 2})
        assert not away & self.members, "a replica that missed mutations was let in"

    def copy(self) -> None:
        """A clone that the source's writer is quicker than, finished against sums of a later moment."""
        away = sorted({0, 1, 2} - self.members)
        sound = sorted(self.members - self.damaged)
        if not away or not sound or not self.truth:
            return
        number, source = self.chance.choice(away), self.stores[self.chance.choice(sound)]
        target = self.stores[number]
        fence = ChunkVersion(self.version)
        status = source.status(ONE, fence, with_checksums=True)
        sums, length = status.block_checksums, status.length_bytes
        try:
            missing = target.guests.begin(ONE, fence, sums, length, master_term=T1)
            is_whole = self.chance.random() < 0.5
            for offset, size in missing if is_whole else missing[:-1]:
                target.guests.put(ONE, fence, offset, memoryview(self.truth)[offset : offset + size])
            window = encode_window(AppendWindow())
            target.guests.finish(ONE, fence, sums, length, sealed=False, append_window=window)
        except GfsError:
            return
        self.damaged.discard(number)
        self.grant(self.members | {number})

    def flip(self) -> None:
        """One bit of a file, of one replica at most while two others are sound."""
        sound = self.members - self.damaged
        if len(sound) < 2 or not self.truth:
            return
        number = self.chance.choice(sorted(sound))
        file = self.machines[number].disk.open(chunk_path())
        place = self.chance.randrange(len(self.truth))
        byte = file.pread(1, place)[0] ^ 1 << self.chance.randrange(8)
        file.pwrite(bytes([byte]), place)
        file.close()
        self.damaged.add(number)

    def read(self, number: int, store: ReplicaStore) -> None:
        """What is read under the set's version is the truth, or an error."""
        try:
            found = self.content(store)
        except GfsError:
            assert number not in self.members or number in self.damaged, "a sound replica does not answer"
            return
        assert found == self.truth, f"replica {number} gives other bytes than were acknowledged"

    def content(self, store: ReplicaStore) -> bytes:
        version = ChunkVersion(self.version)
        buffer = bytearray(store.committed_length(ONE, version))
        if buffer:
            store.read_into(ONE, version, 0, memoryview(buffer))
        return bytes(buffer)


def replica_reads(seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="gfs-replica-reads-") as directory:
        replicas = Replicas(Path(directory), seed)
        for _ in range(STEPS):
            replicas.step()
        for store in replicas.stores:
            store.abandon()
