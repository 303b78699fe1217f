"""Directories for the masters of a life of the cluster that begins with an older state (restore, recovery).

Every master gets the same checkpoint, an empty log behind it, and a disk identity that all others know. Log
index and term go on far above any that was ever given out, as the ids do; why, core/incarnation tells.
A directory appears under its name when it is whole; what was there before is moved aside, never deleted.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import structs

from gfs import failpoints
from gfs.disk import Disk, SystemDisk
from gfs.errors import AlreadyExists, CorruptState, InvalidArgument, Unavailable
from gfs.master.checkpoint_directory import CheckpointDirectory, checkpoint_name
from gfs.master.core.incarnation import ID_SHIFT, read_incarnation
from gfs.master.core.records import APPLIED_KEY
from gfs.master.core.state import MasterState
from gfs.master.core.tables import Table
from gfs.master.directory import MasterDirectory, is_in_use
from gfs.master.lmdb_tables import LmdbTables
from gfs.master.replication.checkpoints import CHECKPOINT_FORMAT, CheckpointManifest
from gfs.master.replication.founding import found_log, new_disks
from gfs.master.replication.log import Position
from gfs.master.state_machine import applied_row, copy_to_plain_file, read_applied
from gfs.messages.operations import BeginIncarnation, LogRecord, Refused
from gfs.vocabulary import MIB, ClusterId, LogIndex, MasterId, Term

CHECKPOINT_DIRECTORY = "checkpoints"
STATE_BYTES_MAX = 64 * 2**30  # address space, not memory
SEGMENT_BYTES = 64 * MIB
TERM_SHIFT = 4  # 16 elections a second: no cluster has had so many
PART_SUFFIX = ".beginning"
ASIDE = ".before-"


class NewLife(NamedTuple):
    name: str
    at: Position
    directories: dict[MasterId, str]
    moved_aside: list[str]
    files: int
    chunks: int


def begin_life(
    pieces: Iterable[bytes],
    *,
    cluster: ClusterId,
    position: tuple[LogIndex, Term],
    directories: Mapping[MasterId, str],
    replace: bool,
    now_ms: int,
) -> NewLife:
    """Make a directory for each master, from a state at `position`.

    Args:
        pieces: the bytes of a checkpoint; whoever yields them has them verified, and raises at the end.
        replace: move aside what is in these directories; otherwise they must be empty or missing.
    Raises: AlreadyExists; Unavailable (a master runs in one); CorruptState, UnsupportedVersion; OSError.
    """
    assert directories
    disk = SystemDisk()
    for directory in directories.values():
        _demand_free(directory, replace=replace)
    parent = os.path.dirname(os.path.abspath(next(iter(directories.values()))))
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gfs-new-life-", dir=parent) as work:
        path = os.path.join(work, "state.lmdb")
        copy_to_plain_file(pieces, path)
        tables = LmdbTables(path, bytes_max=STATE_BYTES_MAX)
        try:
            life = _begin(tables, position, directories, now_ms=now_ms)
            disks = new_disks(directories)
            for member, directory in directories.items():
                _make(directory, disk, tables, life, cluster=cluster, me=member, disks=disks, now_ms=now_ms)
        finally:
            tables.close()
    for directory in directories.values():
        life.moved_aside.extend(_put_in_place(directory, disk, now_ms=now_ms))
    return life


def _begin(
    tables: LmdbTables, position: tuple[LogIndex, Term], directories: Mapping[MasterId, str], *, now_ms: int
) -> NewLife:
    """Apply the record that begins the life, and say at which index and term the state is then."""
    found = read_applied(tables.committed())
    if found != position:
        raise CorruptState(f"the state is said to be at {position}, but it is at {found}")
    state = MasterState(tables)
    number = max(now_ms // 1000, read_incarnation(tables).number + 1)
    name = f"{number}-{secrets.token_hex(4)}"
    index = LogIndex(max(position[0] + 1, number << ID_SHIFT))
    term = Term(max(position[1] + 1, number << TERM_SHIFT))
    record = LogRecord(at_ms=now_ms, operation=BeginIncarnation(name=name, number=number))
    outcome = state.apply(record, index=index)
    if isinstance(outcome, Refused):
        raise InvalidArgument(f"no new life can begin with this state: {outcome.message}")
    state.save()
    tables.put(Table.META, APPLIED_KEY, applied_row(index, term))
    tables.commit()
    return NewLife(
        name,
        Position(index, term),
        dict(directories),
        [],
        files=state.counters.files,
        chunks=state.counters.chunks,
    )


def _make(
    directory: str,
    disk: Disk,
    tables: LmdbTables,
    life: NewLife,
    *,
    cluster: ClusterId,
    me: MasterId,
    disks: dict[MasterId, str],
    now_ms: int,
) -> None:
    """Everything a master needs, under a temporary name beside its directory."""
    part = directory + PART_SUFFIX
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part, mode=0o700)
    draft = CheckpointManifest(
        format=CHECKPOINT_FORMAT,
        cluster=cluster,
        index=life.at.index,
        term=life.at.term,
        length_bytes=0,
        crc32c=0,
        members=dict(disks),
        made_at_ms=now_ms,
    )
    checkpoints = CheckpointDirectory(f"{part}/{CHECKPOINT_DIRECTORY}", disk, kept_max=1)
    pinned = tables.pin()
    try:
        checkpoints.write(
            pinned.pieces(),
            lambda length, checksum: structs.replace(draft, length_bytes=length, crc32c=checksum),
            name=checkpoint_name(draft),
        )
    finally:
        pinned.release()
    found_log(
        part,
        disk,
        me=me,
        cluster=cluster,
        disks=disks,
        life=life.name,
        base=life.at,
        segment_bytes=SEGMENT_BYTES,
    )
    MasterDirectory.claim(part, disk, cluster=cluster, master=me).release()


def _demand_free(directory: str, *, replace: bool) -> None:
    if not os.path.isdir(directory) or not os.listdir(directory):
        return
    if is_in_use(directory):
        raise Unavailable(
            f"a master is running in {directory}", hint="Stop it first: 'gfs down', or its unit."
        )
    if not replace:
        raise AlreadyExists(
            f"{directory} is not empty",
            hint="With --replace what is there is moved aside, not deleted; or name another directory.",
        )


def _put_in_place(directory: str, disk: Disk, *, now_ms: int) -> list[str]:
    """Give the directory its name; returns where what was there has gone."""
    aside: list[str] = []
    failpoints.hit("restore.made")
    if os.path.isdir(directory):
        if os.listdir(directory):
            aside = [f"{directory}{ASIDE}{now_ms // 1000}"]
            os.rename(directory, aside[0])
            failpoints.hit("restore.set_aside")
        else:
            os.rmdir(directory)
    os.rename(directory + PART_SUFFIX, directory)
    failpoints.hit("restore.in_place")
    disk.sync_directory(os.path.dirname(os.path.abspath(directory)))
    return aside
