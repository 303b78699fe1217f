"""What one surviving master's directory has, for when a majority is gone for good. Changes nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from gfs.backups.places import PIECE_BYTES
from gfs.errors import GfsError, InvalidArgument, Unavailable
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.guarded import guarded
from gfs.inspect.oplog_entries import EntryReader
from gfs.inspect.oplog_replay import open_replay, read_cluster
from gfs.master.core.records import APPLIED_KEY
from gfs.master.core.tables import Table
from gfs.master.directory import is_in_use
from gfs.master.replication.log import Position
from gfs.master.state_machine import STATE_FILE
from gfs.vocabulary import ClusterId, LogIndex, MasterId, Term


class Survivor(msgspec.Struct, frozen=True, kw_only=True):
    """What a survivor holds. Up to `committed` its entries were surely acknowledged; those after it, up to
    `last`, may have been, and are kept. What the lost masters acknowledged after `last` is not here.

    `last_at_ms`: by the clock of the leader that logged the last record; 0 when no record says.
    """

    directory: str
    cluster: ClusterId
    masters: list[MasterId]
    checkpoint: int
    committed: int
    last: int
    last_term: int
    last_at_ms: int
    files: int
    chunks: int

    @property
    def position(self) -> tuple[LogIndex, Term]:
        return LogIndex(self.last), Term(self.last_term)


@contextmanager
def open_survivor(directory: str, *, work: str | None = None) -> Iterator[tuple[Survivor, Iterator[bytes]]]:
    """Replay the whole log of a master that is not running. Yields what it holds, and its state's bytes.

    Raises: Unavailable when a master is running there; CorruptState, InvalidArgument, UnsupportedVersion.
    """
    if is_in_use(directory):
        raise Unavailable(
            f"a master is running in {directory}",
            hint="Stop it first. While it runs 'gfs backup create DEST --consistency stale' saves its state.",
        )
    if not os.path.isdir(os.path.join(directory, "log")):
        raise InvalidArgument(f"{directory} is no master's directory: it has no log")
    log = EntryReader(directory)
    with tempfile.TemporaryDirectory(prefix="gfs-recover-", dir=work) as place:
        with open_replay(directory, log=log, work=place) as replay:
            replay.run(to=log.last)
            manifest = replay.write_checkpoint(place, read_cluster(directory))
            counters = replay.counters
            applied, began_at = Position(*replay.applied), int(replay.began_at)
        survivor = Survivor(
            directory=directory,
            cluster=manifest.cluster,
            masters=sorted(manifest.members),
            checkpoint=began_at,
            committed=max(began_at, _committed(directory)),
            last=applied.index,
            last_term=applied.term,
            last_at_ms=manifest.made_at_ms,
            files=counters.files,
            chunks=counters.chunks,
        )
        written = next(name for name in os.listdir(place) if name.endswith(".lmdb"))
        yield survivor, _pieces(os.path.join(place, written))


def _committed(directory: str) -> int:
    """How far the state itself was: only committed entries are in it. 0 when it cannot be read."""
    path = os.path.join(directory, STATE_FILE)
    if not os.path.exists(path):
        return 0
    try:
        row = b"".join(
            guarded(lambda: [CheckpointTables(path).get(Table.META, APPLIED_KEY) or b""], STATE_FILE)
        )
    except (GfsError, OSError):
        return 0
    return int.from_bytes(row[:8], "big")


def _pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
