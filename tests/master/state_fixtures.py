"""A master's state on a disk of one's choice, for tests of the state machine and of checkpoints."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gfs.disk import Disk
from gfs.master.checkpoint import LmdbCheckpoints
from gfs.master.checkpoint_directory import CheckpointDirectory
from gfs.master.core.invariants import check_invariants
from gfs.master.core.lookup import state_digest
from gfs.master.replication.checkpoints import CheckpointManifest
from gfs.master.state_machine import ReplicatedState
from gfs.messages import operations as op
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term
from tests.core.master_records import create, record

MIB = 2**20
CHECKPOINTS = "/master/checkpoints"


class Node:
    """One master's storage: the state's file in `directory`, everything else on `disk`."""

    def __init__(self, directory: Path, disk: Disk, *, kept_max: int = 3) -> None:
        disk.make_directory(str(directory))
        self.files = CheckpointDirectory(CHECKPOINTS, disk, kept_max=kept_max)
        self.state = ReplicatedState(str(directory), self.files, disk=disk, bytes_max=64 * MIB)
        self.store = LmdbCheckpoints(self.files, self.state)

    def apply_to(self, last: int, *, term: int = 1) -> None:
        """Apply and commit one entry an index up to `last`; each index has its own operation."""
        for index in range(self.state.applied()[0] + 1, last + 1):
            self.state.apply(LogIndex(index), Term(term), entry(index))
            self.state.commit()

    def checkpoint(self) -> CheckpointManifest:
        index, term = self.state.applied()
        members = {MasterId("m1"): "disk-1"}
        return self.store.begin(
            cluster=ClusterId("c"), index=index, term=term, members=members, now_ms=5
        ).run()

    def digest(self) -> str:
        check_invariants(self.state.committed())
        return state_digest(self.state.committed())


def entry(index: int) -> list[bytes]:
    """The log's entry at `index`: two records, one of a client; every seventh is empty."""
    if index % 7 == 0:
        return []
    records = [record(create(f"/f{index}")), record(create(f"/g{index}"), sequence=index)]
    return [msgspec.msgpack.encode(found) for found in records]


def outcomes(encoded: list[bytes]) -> list[op.AnyOutcome]:
    return [msgspec.msgpack.decode(found, type=op.AnyOutcome) for found in encoded]
