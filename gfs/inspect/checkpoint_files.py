"""Checkpoints as files, read-only: which there are, which are whole, which one a path means. Not their rows.

Unlike checkpoint_directory this neither removes leftovers nor passes over damage: it tells of both.
"""

from __future__ import annotations

import os
import re
from typing import Literal, NamedTuple

import msgspec
from crc32c import crc32c

from gfs.errors import CorruptState, GfsError, InvalidArgument, NotFound, UnsupportedVersion
from gfs.master.checkpoint_directory import (
    MANIFEST_BYTES_MAX,
    READ_PIECE_BYTES,
    checkpoint_name,
    decode_manifest,
)
from gfs.master.replication.checkpoints import CheckpointManifest

CHECKPOINTS = "checkpoints"  # the name of the folder in a master's directory

Wholeness = Literal["whole", "torn", "damaged", "newer format", "leftover"]
_FILE = re.compile(r"^checkpoint-(\d{20})-(\d+)\.(lmdb|manifest)$")


class CheckpointFile(NamedTuple):
    """`manifest` is None where there is none to read; `fault` says why then.

    `passed_over`: newer ones in the same directory that are of no use.
    """

    path: str
    manifest: CheckpointManifest | None
    fault: GfsError | None = None
    passed_over: tuple[str, ...] = ()


class CheckpointRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `gfs checkpoint ls`. `why`: what makes it unusable, empty when it is whole."""

    path: str
    index: int
    term: int
    length_bytes: int
    made_at_ms: int
    cluster: str
    members: list[str]
    wholeness: Wholeness
    why: str = ""


def list_checkpoints(directory: str) -> list[CheckpointRow]:
    """All that is in a master's directory or its checkpoints, oldest first; reads every file to its end.

    Raises: NotFound, InvalidArgument; OSError.
    """
    folder = _folder(directory)
    rows: list[CheckpointRow] = []
    names = sorted(os.listdir(folder))
    for name in sorted({found[: found.rindex(".")] for found in names if _FILE.match(found)}):
        rows.append(_row(f"{folder}/{name}.lmdb"))
    for name in names:
        if name.startswith("checkpoint-") and not _FILE.match(name):
            length = os.path.getsize(f"{folder}/{name}")
            why = (
                "it is on its way from the leader" if ".part" in name else "it was cut short while being made"
            )
            rows.append(_unusable(f"{folder}/{name}", length, "leftover", why))
    return rows


def find_checkpoint(path: str) -> CheckpointFile:
    """What a person means: a checkpoint, its manifest, or the newest sound one of a directory.

    Raises: NotFound, InvalidArgument; OSError.
    """
    if os.path.isdir(path):
        folder = _folder(path)
        names = sorted(name for name in os.listdir(folder) if _FILE.match(name) and name.endswith(".lmdb"))
        if not names:
            raise NotFound(f"there is no checkpoint in {folder}")
        found = [_open(f"{folder}/{name}") for name in names]
        # Without a manifest it does not exist for a master either: a crash came before it.
        whole = [at for at, file in enumerate(found) if file.manifest is not None and not _length_fault(file)]
        newest = whole[-1] if whole else len(found) - 1
        return found[newest]._replace(passed_over=tuple(file.path for file in found[newest + 1 :]))
    if not os.path.exists(path):
        raise NotFound(f"{path} does not exist")
    if path.endswith(".manifest"):
        path = path.removesuffix(".manifest") + ".lmdb"
        if not os.path.exists(path):
            raise NotFound(f"there is a manifest, but no checkpoint {path}")
    return _open(path)


def require_whole(file: CheckpointFile) -> CheckpointFile:
    """See that a checkpoint's bytes are those it was made of; one without a manifest is taken as it is.

    Raises: CorruptState, UnsupportedVersion; OSError.
    """
    if isinstance(file.fault, UnsupportedVersion | CorruptState):
        raise type(file.fault)(f"{file.path}: {file.fault.message}")
    fault = bytes_fault(file)
    if fault is not None:
        hint = "'gfs checkpoint verify' says what is wrong with it; 'gfs checkpoint ls' shows others."
        raise CorruptState(f"{file.path}: {fault}", hint=hint)
    return file


def bytes_fault(file: CheckpointFile) -> str | None:
    """What its length and checksum say against it; reads it to the end. Raises: OSError."""
    fault = _length_fault(file)
    if fault is not None or file.manifest is None:
        return fault
    checksum = 0
    with open(file.path, "rb", buffering=0) as bytes_of:
        while piece := bytes_of.read(READ_PIECE_BYTES):
            checksum = crc32c(piece, checksum)
    if checksum != file.manifest.crc32c:
        return f"its checksum is {checksum:08x}, not {file.manifest.crc32c:08x}"
    return None


def _length_fault(file: CheckpointFile) -> str | None:
    if file.fault is not None and not isinstance(file.fault, NotFound):
        return file.fault.message
    length = os.path.getsize(file.path)
    if file.manifest is not None and length != file.manifest.length_bytes:
        return f"it is {length} bytes long, not {file.manifest.length_bytes}"
    return None


def _folder(directory: str) -> str:
    if not os.path.exists(directory):
        raise NotFound(f"{directory} does not exist")
    if not os.path.isdir(directory):
        raise InvalidArgument(f"{directory} is no directory")
    inner = os.path.join(directory, CHECKPOINTS)
    return inner if os.path.isdir(inner) else directory


def _open(path: str) -> CheckpointFile:
    try:
        with open(path.removesuffix(".lmdb") + ".manifest", "rb") as manifest_file:
            content = manifest_file.read(MANIFEST_BYTES_MAX)
    except FileNotFoundError:
        return CheckpointFile(path, None, NotFound("it has no manifest"))
    try:
        manifest = decode_manifest(content)
        name = os.path.basename(path)  # one that was named by a person may have any
        if _FILE.match(name) and name != f"{checkpoint_name(manifest)}.lmdb":
            raise CorruptState(f"its manifest is that of {checkpoint_name(manifest)}")
    except GfsError as error:
        return CheckpointFile(path, None, error)
    return CheckpointFile(path, manifest)


def _row(path: str) -> CheckpointRow:
    if not os.path.exists(path):
        return _unusable(path, 0, "torn", "there is a manifest, but no checkpoint")
    file = _open(path)
    length = os.path.getsize(path)
    if isinstance(file.fault, UnsupportedVersion):
        return _unusable(path, length, "newer format", file.fault.message)
    if file.fault is not None:
        return _unusable(path, length, "torn", file.fault.message)
    assert file.manifest is not None
    fault = _length_fault(file)
    wholeness: Wholeness = "torn"
    if fault is None:
        fault = bytes_fault(file)
        wholeness = "damaged"
    return CheckpointRow(
        path=path,
        index=file.manifest.index,
        term=file.manifest.term,
        length_bytes=length,
        made_at_ms=file.manifest.made_at_ms,
        cluster=file.manifest.cluster,
        members=sorted(file.manifest.members),
        wholeness="whole" if fault is None else wholeness,
        why=fault or "",
    )


def _unusable(path: str, length: int, wholeness: Wholeness, why: str) -> CheckpointRow:
    match = re.match(r"checkpoint-(\d+)-(\d+)", os.path.basename(path))
    index, term = (int(match[1]), int(match[2])) if match else (0, 0)
    return CheckpointRow(
        path=path,
        index=index,
        term=term,
        length_bytes=length,
        made_at_ms=0,
        cluster="",
        members=[],
        wholeness=wholeness,
        why=why,
    )
