"""A master's directory with a life behind it: log, checkpoints, and the digest of the state at each index."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from gfs.disk import SystemDisk
from gfs.master.checkpoint import LmdbCheckpoints
from gfs.master.checkpoint_directory import CheckpointDirectory
from gfs.master.core.lookup import state_digest
from gfs.master.replication.checkpoints import CheckpointManifest
from gfs.master.replication.configuration import encode_configuration
from gfs.master.replication.group_commit import decode_readmission, encode_entry, encode_readmission
from gfs.master.replication.log import OperationLog
from gfs.master.replication.member_disks import MemberDisks
from gfs.master.replication.replicator import Member
from gfs.master.state_machine import ReplicatedState
from gfs.messages import operations as op
from gfs.vocabulary import Address, ClusterId, LogIndex, MasterId, Term
from tests.core.master_records import NOW_MS, create, delete, mkdir, record, rename

MIB = 2**20


class LivedMaster:
    """Every entry is logged and applied as a master alone in its cluster would."""

    def __init__(self, directory: Path, *, segment_bytes: int = 2000) -> None:
        self.directory = directory
        disk = SystemDisk()
        self.disks = MemberDisks(
            str(directory / "log"), disk, me=MasterId("m1"), cluster=ClusterId("c"), has_history=False
        )
        self.log = OperationLog(str(directory / "log"), disk, segment_bytes=segment_bytes)
        self.files = CheckpointDirectory(str(directory / "checkpoints"), disk, kept_max=3)
        self.state = ReplicatedState(str(directory), self.files, disk=disk, bytes_max=64 * MIB)
        self.store = LmdbCheckpoints(self.files, self.state)
        self.digests: dict[int, str] = {}
        self.term = Term(1)
        self.sequence = 0
        self.log.setCurrentTerm(1, "m1")

    def entry(self, *operations: op.AnyOperation) -> list[op.AnyOutcome]:
        """One entry with these operations of one client; their outcomes."""
        records = []
        for operation in operations:
            self.sequence += 1
            at_ms = NOW_MS + self.sequence
            records.append(record(operation, at_ms=at_ms, sequence=self.sequence, first_open=self.sequence))
        return self.raw([msgspec.msgpack.encode(found) for found in records])

    def raw(self, proposals: list[bytes]) -> list[op.AnyOutcome]:
        self._append(encode_entry(proposals) if proposals else b"\x01")
        outcomes = self.state.apply(self.log.end.index, self.term, proposals)
        self._commit()
        return [msgspec.msgpack.decode(found, type=op.AnyOutcome) for found in outcomes]

    def do(self, operation: op.AnyOperation) -> op.AnyOutcome:
        (outcome,) = self.entry(operation)
        assert not isinstance(outcome, op.Refused), outcome
        return outcome

    def check_digest(self) -> None:
        index, digest = self.state.state.digest_mark()
        found = op.LogRecord(at_ms=NOW_MS, operation=op.CheckDigest(index=index, digest=digest))
        (outcome,) = self.raw([msgspec.msgpack.encode(found)])
        assert isinstance(outcome, op.Done), outcome

    def readmit(self, member: str, disk: str) -> None:
        payload = encode_readmission(MasterId(member), disk)
        assert decode_readmission(payload) is not None
        self._append_alone(payload)

    def configure(self, voters: str, *, disks: dict[MasterId, str]) -> None:
        members = [
            Member(MasterId(name), Address(f"{name}:1"), Address(f"{name}:2"), voter=True)
            for name in voters.split()
        ]
        self._append_alone(encode_configuration(members, disks))

    def _append_alone(self, payload: bytes) -> None:
        self._append(payload)
        self.state.apply(self.log.end.index, self.term, [])
        self._commit()

    def overruled(self, count: int) -> None:
        """Entries that never were committed, and are dropped by the next leader's."""
        end = self.log.end.index
        for position in range(count):
            lost = msgspec.msgpack.encode(record(create(f"/lost-{end}-{position}")))
            self.log.add(encode_entry([lost]), end + 1 + position, self.term)
        self.log.flush()
        self.term = Term(self.term + 1)
        self.log.setCurrentTerm(self.term, "m1")
        self.log.truncate_after(LogIndex(end))
        self.raw([])

    def checkpoint(self, *, trim: bool = False) -> CheckpointManifest:
        index, term = self.state.applied()
        manifest = self.store.begin(
            cluster=ClusterId("c"), index=index, term=term, members=self.disks.all(), now_ms=5
        ).run()
        if trim:
            self.log.drop_segments(self.log.compact_to(index))
        return manifest

    def close(self) -> None:
        self.log.close()
        self.state.close()

    def _append(self, payload: bytes) -> None:
        self.log.add(payload, self.log.end.index + 1, self.term)
        self.log.flush()

    def _commit(self) -> None:
        self.state.commit()
        self.digests[self.log.end.index] = state_digest(self.state.committed())


def live(master: LivedMaster, entries: int, *, seed: int) -> None:
    """A life at random: namespace operations that succeed and that are refused, digests, lost leaders."""
    chance = random.Random(seed)

    def path() -> str:
        return "/" + "/".join(chance.choice("abc") for _ in range(chance.randrange(1, 4)))

    for _ in range(entries):
        kind = chance.randrange(12)
        if kind == 0:
            master.check_digest()
        elif kind == 1:
            master.overruled(chance.randrange(1, 4))
        elif kind == 2:
            master.entry(rename(path(), path()), delete(path(), recursive=True))
        elif kind == 3:
            inode = chance.randrange(2, 30)
            master.entry(op.Reclaim(now_ms=NOW_MS * 2, rows_max=5), op.SetPolicy(path=path(), replicas=2))
            master.entry(op.BeginSnapshot(source=path(), target=path()))
            master.entry(op.CopySnapshot(copy=inode, rows=10))  # type: ignore[arg-type]
        elif kind < 7:
            master.entry(mkdir(path(), parents=True), create(path()))
        else:
            master.entry(*(create(path(), replace=chance.random() < 0.2) for _ in range(3)))
