"""What replication asks of checkpoints (GFS §2.6.2): make one, ship one, install one. No implementation.

The master room implements this over LMDB. Which thread makes which call is part of the contract: the loop
must never wait for a disk, and only the loop may touch the state.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from gfs.master.replication.configuration import ConfiguredMember
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term

CHECKPOINT_FORMAT = 1


class CheckpointManifest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Names one checkpoint and proves its bytes. On disk beside it, and on the wire when it is shipped."""

    format: int
    cluster: ClusterId
    index: LogIndex  # the last log entry that is in it
    term: Term  # of that entry
    length_bytes: int
    crc32c: int  # of the whole file
    members: dict[MasterId, str]  # who votes, each with the identity of its disk
    made_at_ms: int = 0
    configuration: tuple[ConfiguredMember, ...] = ()  # as of `index`; empty: never changed


class CheckpointBuild(Protocol):
    """A pinned view of the state, about to become a checkpoint."""

    def run(self) -> CheckpointManifest:
        """Worker thread, once: copy, checksum, sync, rename, drop all but the newest few.

        Raises: OSError when the disk is full or failing; nothing half-made stays under a final name.
        """
        ...


class CheckpointReceiver(Protocol):
    """One checkpoint on its way in from the leader, resumable across connections and restarts."""

    def received_bytes(self) -> int:
        """How much is already here; the next piece starts there."""
        ...

    def write_piece(self, offset: int, piece: bytes) -> None:
        """Worker thread. `offset` equals received_bytes()."""
        ...

    def prepare(self) -> None:
        """Worker thread: check length and checksum, sync, make the copy that install() will swap in.

        Raises: ChecksumMismatch; the received bytes are then thrown away and shipping starts over.
        """
        ...

    def install(self) -> None:
        """Loop thread, after prepare(): rename, and let the state machine continue from this state.

        All or nothing, also when the process dies in the middle. Afterwards newest() is this manifest and
        StateMachine.applied() equals (manifest.index, manifest.term).
        """
        ...

    def discard(self) -> None:
        """Throw the received bytes away."""
        ...


class CheckpointStore(Protocol):
    def newest(self) -> CheckpointManifest | None:
        """The newest checkpoint that is whole and durable. Cheap: called on the loop's thread."""
        ...

    def kept(self) -> list[CheckpointManifest]:
        """All checkpoints on disk, oldest first; the log is trimmed behind the oldest."""
        ...

    def begin(
        self,
        *,
        cluster: ClusterId,
        index: LogIndex,
        term: Term,
        members: dict[MasterId, str],
        configuration: tuple[ConfiguredMember, ...] = (),
        now_ms: int,
    ) -> CheckpointBuild:
        """Pin the state as it is now. Loop thread, without waiting; the copying is CheckpointBuild.run's.

        `index` and `term` are those of StateMachine.applied() at this moment.
        """
        ...

    def read_piece(self, manifest: CheckpointManifest, *, offset: int, length: int) -> bytes:
        """Worker thread: bytes of a checkpoint, to be shipped.

        Raises: NotFound when it has been replaced by newer ones since.
        """
        ...

    def distrust(self, manifest: CheckpointManifest) -> bool:
        """Worker thread: read it whole, and give it up unless it is what its manifest says.

        Returns: whether it was given up.
        """
        ...

    def receive(self, manifest: CheckpointManifest) -> CheckpointReceiver:
        """Start or resume receiving; bytes of another checkpoint half received are thrown away."""
        ...
