"""What backups a place holds: listed with what is wrong with each, one chosen, written, old ones removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from gfs.backups.manifest import (
    MANIFEST_BYTES_MAX,
    MANIFEST_SUFFIX,
    NAME,
    STATE_SUFFIX,
    BackupManifest,
    decode_manifest,
    encode_manifest,
    verified,
)
from gfs.backups.places import Kept, Place, Writing, put
from gfs.errors import CorruptState, GfsError, NotFound, UnsupportedVersion
from gfs.vocabulary import ClusterId

INCOMPLETE_KEPT_MS = 86_400_000  # so old, a half-written backup is no longer being written by anybody

BackupState = Literal["whole", "incomplete", "damaged", "newer format"]


class BackupRow(msgspec.Struct, frozen=True, kw_only=True):
    """One backup. `state`: whole as far as its manifest and length tell; only verifying reads its bytes."""

    name: str
    state: BackupState
    why: str = ""
    taken_at_ms: int = 0
    index: int = 0
    term: int = 0
    length_bytes: int = 0
    files: int = -1
    directories: int = -1
    chunks: int = -1
    cluster: str = ""
    taken_from: str = ""


class Chosen(NamedTuple):
    manifest: BackupManifest
    place: Place

    def pieces(self) -> Iterator[bytes]:
        """The state. Raises: CorruptState at the end if it is not what the manifest promises; NotFound."""
        return verified(self.place.read(self.manifest.name + STATE_SUFFIX), self.manifest)


def rows(place: Place) -> list[BackupRow]:
    """Oldest first. Raises: NotFound (no such place), Unavailable; OSError."""
    found: dict[str, dict[str, Kept]] = {}
    for kept in place.listed():
        match = NAME.match(kept.name)
        if match is not None:
            found.setdefault(match[1], {})[kept.name.removeprefix(match[1])] = kept
    return [_row(place, name, files) for name, files in sorted(found.items())]


def choose(place: Place, name: str = "") -> Chosen:
    """The named backup, or the newest whole one. Raises: NotFound, CorruptState, UnsupportedVersion."""
    known = rows(place)
    if not name:
        whole = [row for row in known if row.state == "whole"]
        if not whole:
            others = "; ".join(f"{row.name}: {row.state}, {row.why}" for row in known)
            raise NotFound(
                f"there is no whole backup in {place.url}" + (f" ({others})" if others else ""),
                hint="'gfs backup create' makes one while the cluster runs.",
            )
        return Chosen(_manifest(place, whole[-1].name), place)
    name = name.removesuffix(STATE_SUFFIX).removesuffix(MANIFEST_SUFFIX)
    row = next((row for row in known if row.name == name), None)
    if row is None:
        raise NotFound(f"there is no backup {name} in {place.url}", hint="'gfs backup ls' lists them.")
    if row.state == "newer format":
        raise UnsupportedVersion(f"{name}: {row.why}")
    if row.state != "whole":
        raise CorruptState(f"{name} is {row.state}: {row.why}", hint="'gfs backup ls' shows others.")
    return Chosen(_manifest(place, name), place)


def begin(place: Place, manifest: BackupManifest) -> Writing:
    """Write the state's bytes into this, publish it, then publish()."""
    return place.begin(manifest.name + STATE_SUFFIX)


def publish(place: Place, manifest: BackupManifest) -> None:
    """From here on it is a backup: its bytes are there."""
    put(place, manifest.name + MANIFEST_SUFFIX, encode_manifest(manifest))


def withdraw(place: Place, manifest: BackupManifest) -> None:
    """What was begun is not going to be a backup."""
    place.delete(manifest.name + STATE_SUFFIX)


def retain(place: Place, *, keep: int, cluster: ClusterId, now_ms: int) -> list[str]:
    """Remove all but the newest `keep` whole backups of this cluster, and what was left half-written.

    Damaged ones, and those of other clusters, are left for a person to look at. Returns: what was removed.
    """
    assert keep > 0
    known = rows(place)
    whole = [row.name for row in known if row.state == "whole" and row.cluster == cluster]
    doomed = whole[:-keep]
    doomed += [
        row.name
        for row in known
        if row.state == "incomplete" and 0 < row.taken_at_ms < now_ms - INCOMPLETE_KEPT_MS
    ]
    for name in doomed:
        # The manifest first: without it nobody takes the rest for a backup.
        place.delete(name + MANIFEST_SUFFIX)
        for kept in place.listed():
            if kept.name.startswith(name):
                place.delete(kept.name)
    return doomed


def _manifest(place: Place, name: str) -> BackupManifest:
    content = b""
    for piece in place.read(name + MANIFEST_SUFFIX):
        content += piece
        if len(content) > MANIFEST_BYTES_MAX:
            raise CorruptState("the manifest is far too long")
    manifest = decode_manifest(content)
    if manifest.name != name:
        raise CorruptState(f"its manifest is that of {manifest.name}")
    return manifest


def _row(place: Place, name: str, files: dict[str, Kept]) -> BackupRow:
    state = files.get(STATE_SUFFIX)
    length = state.length_bytes if state is not None else 0
    newest_ms = max(kept.changed_at_ms for kept in files.values())
    if MANIFEST_SUFFIX not in files:
        why = "it was not written to its end, or is being written"
        return BackupRow(name=name, state="incomplete", why=why, taken_at_ms=newest_ms, length_bytes=length)
    try:
        manifest = _manifest(place, name)
    except UnsupportedVersion as error:
        return BackupRow(name=name, state="newer format", why=error.message, length_bytes=length)
    except GfsError as error:
        return BackupRow(name=name, state="damaged", why=error.message, length_bytes=length)
    fault = ""
    if state is None:
        fault = "there is a manifest, but no state"
    elif length != manifest.length_bytes:
        fault = f"it is {length} bytes long, not {manifest.length_bytes}"
    return BackupRow(
        name=name,
        state="damaged" if fault else "whole",
        why=fault,
        taken_at_ms=manifest.taken_at_ms,
        index=manifest.index,
        term=manifest.term,
        length_bytes=length,
        files=manifest.files,
        directories=manifest.directories,
        chunks=manifest.chunks,
        cluster=manifest.cluster,
        taken_from=manifest.taken_from,
    )
