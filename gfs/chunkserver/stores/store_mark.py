"""Which store a chunk server's directory belongs to, as written there. Not what the stores keep.

    DIRECTORY/store.json   {"format": 1, "store": "memory"}
                           {"format": 2, "store": "lmdb", "place": "store-1", "leaving": {"store": "file", …}}

A directory that holds chunks as files, and no such note, is of the store `file`. Chunks that were moved to
another store (store_moves) lie in a `place` of their own, a directory below: two stores may use the same
names. From then on the note says which store it is, whatever the configuration does.
"""

from __future__ import annotations

import os

import msgspec

from gfs.chunkserver.stores.plugin import StoreSite
from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import ConfigInvalid, CorruptState, UnsupportedVersion

FORMAT_VERSION = 2
_UNMOVED_FORMAT = 1  # as long as no chunk was moved, programs that know no moves may read it
UNMARKED_STORE = "file"
_FILE = "store.json"
_CHUNK_FILES = "chunks"  # made by the store `file` when it is first opened


class _Format(msgspec.Struct, frozen=True):
    format: int


class StorePlace(msgspec.Struct, frozen=True, kw_only=True):
    """`place`: a directory below the chunk server's; empty: that one itself."""

    store: str
    place: str = ""

    def directory(self, above: str) -> str:
        return os.path.join(above, self.place) if self.place else above


class StoreMark(StorePlace, frozen=True, kw_only=True, omit_defaults=True):
    """`leaving`: where chunks may still be; one that is there is the chunk, whatever the present store has.
    `left`: what has no chunk any more, and may be removed."""

    leaving: StorePlace | None = None
    left: StorePlace | None = None

    @property
    def was_moved(self) -> bool:
        return bool(self.place)


class _Written(StoreMark, frozen=True, kw_only=True, omit_defaults=True):
    format: int


def mark_of(disk: Disk, directory: str) -> StoreMark | None:
    """What is known of `directory`; None: no store has used it yet.

    Raises: CorruptState, UnsupportedVersion, OSError.
    """
    path = os.path.join(directory, _FILE)
    if not disk.exists(path):
        return StoreMark(store=UNMARKED_STORE) if disk.exists(os.path.join(directory, _CHUNK_FILES)) else None
    content = read_whole_file(disk, path)
    try:
        found = msgspec.json.decode(content, type=_Format).format
        if found > FORMAT_VERSION:
            raise UnsupportedVersion(f"{path} has format {found}; this program knows up to {FORMAT_VERSION}")
        return msgspec.json.decode(content, type=StoreMark)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"{path} does not tell which store this directory has: {error}") from error


def write_mark(site: StoreSite, mark: StoreMark) -> None:
    """Durable when it returns; after a crash there is the old one or this. Raises: OSError."""
    written = _Written(
        format=FORMAT_VERSION if mark.was_moved else _UNMOVED_FORMAT,
        store=mark.store,
        place=mark.place,
        leaving=mark.leaving,
        left=mark.left,
    )
    content = msgspec.json.encode(written) + b"\n"
    write_file_durably(site.disk, os.path.join(site.directory, _FILE), content)


def claim(site: StoreSite, store: str) -> StoreMark:
    """Note, before the store writes anything, that `site` is of this one. Durable when it returns.

    Returns: where the chunks are, which need not be `store` once they were moved by an operator's command.
    Raises: ConfigInvalid (it is of another one), CorruptState, UnsupportedVersion, OSError.
    """
    found = mark_of(site.disk, site.directory)
    if found is None:
        found = StoreMark(store=store)
        if store != UNMARKED_STORE:
            write_mark(site, found)
    if found.store != store and not found.was_moved:
        raise ConfigInvalid(
            f"the chunks in {site.directory} are kept by the store {found.store!r}, not {store!r}",
            hint=f"Set store = {found.store!r} for this chunk server again. Once it runs, 'gfs chunkserver "
            f"migrate NODE --to {store}' moves its chunks; or drain it ('gfs admin chunkservers drain'), and "
            f"start it with {store!r} in an empty directory.",
        )
    return found
