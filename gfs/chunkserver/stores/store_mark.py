"""Which store a chunk server's directory belongs to, as written there. Not what the stores keep.

    DIRECTORY/store.json   {"format": 1, "store": "memory"}

A directory that holds chunks as files, and no such note, is of the store `file`.
"""

from __future__ import annotations

import os

import msgspec

from gfs.chunkserver.stores.plugin import StoreSite
from gfs.disk import Disk, read_whole_file, write_file_durably
from gfs.errors import ConfigInvalid, CorruptState, UnsupportedVersion

FORMAT_VERSION = 1
UNMARKED_STORE = "file"
_FILE = "store.json"
_CHUNK_FILES = "chunks"  # made by the store `file` when it is first opened


class _Format(msgspec.Struct, frozen=True):
    format: int


class _Mark(msgspec.Struct, frozen=True, kw_only=True):
    format: int = FORMAT_VERSION
    store: str


def store_of(disk: Disk, directory: str) -> str:
    """The store that has used `directory`; empty: none yet.

    Raises: CorruptState, UnsupportedVersion, OSError.
    """
    path = os.path.join(directory, _FILE)
    if not disk.exists(path):
        return UNMARKED_STORE if disk.exists(os.path.join(directory, _CHUNK_FILES)) else ""
    content = read_whole_file(disk, path)
    try:
        found = msgspec.json.decode(content, type=_Format).format
        if found > FORMAT_VERSION:
            raise UnsupportedVersion(f"{path} has format {found}; this program knows up to {FORMAT_VERSION}")
        return msgspec.json.decode(content, type=_Mark).store
    except msgspec.MsgspecError as error:
        raise CorruptState(f"{path} does not tell which store this directory has: {error}") from error


def claim(site: StoreSite, store: str) -> None:
    """Note, before the store writes anything, that `site` is of this one. Durable when it returns.

    Raises: ConfigInvalid (it is of another one), CorruptState, UnsupportedVersion, OSError.
    """
    found = store_of(site.disk, site.directory)
    if found and found != store:
        raise ConfigInvalid(
            f"the chunks in {site.directory} are kept by the store {found!r}, not {store!r}",
            hint=f"Set store = {found!r} for this chunk server again; or drain it ('gfs admin chunkservers "
            f"drain'), and start it with {store!r} in an empty directory.",
        )
    if not found and store != UNMARKED_STORE:
        mark = msgspec.json.encode(_Mark(store=store)) + b"\n"
        write_file_durably(site.disk, os.path.join(site.directory, _FILE), mark)
