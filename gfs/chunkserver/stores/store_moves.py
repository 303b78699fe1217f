"""From which store to which one a chunk server's chunks are moved: opened, begun, ended, noted on the disk.

    store.json says file                      chunks are in DIRECTORY
    begin("lmdb"): an empty store in DIRECTORY/store-1, then store.json: lmdb in store-1, leaving file
    every chunk moves (moving, replica_mover); a start goes on where the last process was
    end(): store.json: lmdb in store-1, file was left; then the files of the left store are removed

The store is chosen by gfs.toml only as long as nothing was moved.
"""

from __future__ import annotations

import os
import shutil

from gfs.chunkserver.stores.interface import ChunkStore
from gfs.chunkserver.stores.moving import MovingStore
from gfs.chunkserver.stores.plugin import StorePlugin, StoreSite
from gfs.chunkserver.stores.registry import configured_store, load, open_plugin, require_writable
from gfs.chunkserver.stores.store_mark import StoreMark, StorePlace, claim, write_mark
from gfs.errors import GfsError, InvalidArgument
from gfs.settings import Settings
from gfs.telemetry import logger

_PLACE_STEM = "store-"
_log = logger("chunkserver")


class StoreMoves:
    """One chunk server's stores. open() first, everything else by one thread at a time."""

    def __init__(self, settings: Settings, node_id: str, site: StoreSite) -> None:
        self._settings, self._node_id, self._site = settings, node_id, site
        self._mark: StoreMark | None = None
        self._moving: MovingStore | None = None

    @property
    def store(self) -> MovingStore:
        assert self._moving is not None, "not opened"
        return self._moving

    @property
    def mark(self) -> StoreMark:
        assert self._mark is not None, "not opened"
        return self._mark

    @property
    def is_durable(self) -> bool:
        """Whether chunks outlive the process."""
        return load(self.mark.store, asked_by="the store in use").capabilities.durable

    def open(self) -> MovingStore:
        """The store of this chunk server, with the one it is leaving.

        Raises: ConfigInvalid (unknown store or option, one that cannot be written to, a directory that
            another store has used); whatever the stores raise when they are opened.
        """
        configured = configured_store(self._settings, self._node_id)
        mark = self._mark = claim(self._site, configured.name)
        if mark.store != configured.name:
            _log.warning(
                "chunks were moved to another store than gfs.toml names; name it there",
                store=mark.store,
                configured=configured.name,
            )
        self._remove_left()
        leaving = None if mark.leaving is None else self._open(mark.leaving)
        try:
            present = self._open(mark)
            try:
                self._moving = MovingStore(present, leaving)
            except BaseException:
                present.close()
                raise
        except BaseException:
            if leaving is not None:
                leaving.close()
            raise
        return self._moving

    def begin(self, to: str) -> bool:
        """From now on chunks move to the store `to`; False: they do already, or are there. Durable.

        Raises: ConfigInvalid (unknown store, wrong options), InvalidArgument (it cannot keep this server's
            chunks, or a move elsewhere has not ended); OSError and what the store raises. Nothing has changed
            then.
        """
        mark = self.mark
        if mark.store == to:
            return False
        if mark.leaving is not None:
            raise InvalidArgument(
                f"chunks are being moved from the store {mark.leaving.store!r} to {mark.store!r}",
                hint="Wait until that has ended.",
            )
        plugin = load(to, asked_by="the store to move to")
        require_writable(plugin)
        if not plugin.capabilities.durable:
            raise InvalidArgument(
                f"chunks in the store {to!r} do not outlive the process: none are moved there",
                hint="Start a chunk server of its own with it, in an empty directory.",
            )
        place = StorePlace(store=to, place=f"{_PLACE_STEM}{_number_of(mark) + 1}")
        shutil.rmtree(place.directory(self._site.directory), ignore_errors=True)  # a begin() cut short
        present = self._make(place)
        try:
            leaving = StorePlace(store=mark.store, place=mark.place)
            following = StoreMark(store=to, place=place.place, leaving=leaving)
            write_mark(self._site, following)
            self.store.begin(present)
            self._mark = following
        except BaseException:
            present.close()
            raise
        _log.info("chunks move to another store", store=to, leaving=leaving.store)
        return True

    def end(self) -> None:
        """All chunks have moved: note it, and remove what the left store has kept. Raises: OSError."""
        mark, store = self.mark, self.store
        assert mark.leaving is not None and store.unmoved_count == 0
        store.settle()
        following = StoreMark(store=mark.store, place=mark.place, left=mark.leaving)
        write_mark(self._site, following)
        self._mark = following
        store.end()
        self._remove_left()
        _log.info("all chunks have moved", store=mark.store, left=mark.leaving.store)

    # --- private ----------------------------------------------------------------------------------

    def _open(self, place: StorePlace) -> ChunkStore:
        plugin = load(place.store, asked_by=f"the note in {self._site.directory}")
        site = StoreSite(self._site.disk, place.directory(self._site.directory))
        return open_plugin(self._settings, plugin, site)

    def _make(self, place: StorePlace) -> ChunkStore:
        directory = place.directory(self._site.directory)
        os.makedirs(directory, mode=0o700, exist_ok=True)  # a real one, too: some stores map files in it
        self._site.disk.make_directory(directory)
        store = self._open(place)
        try:
            self._site.disk.sync_directory(directory)
            self._site.disk.sync_directory(self._site.directory)
        except BaseException:
            store.close()
            raise
        return store

    def _remove_left(self) -> None:
        """Free the space of a store that has no chunks any more. Each start tries again what is left."""
        left = self.mark.left
        if left is None:
            return
        assert left.place != self.mark.place
        if left.place:
            paths = [left.directory(self._site.directory)]
        else:
            paths = [os.path.join(self._site.directory, name) for name in self._names_of(left.store)]
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
            if os.path.lexists(path):
                _log.warning("what a store has left could not be removed", path=path)

    def _names_of(self, store: str) -> tuple[str, ...]:
        try:
            plugin: StorePlugin = load(store, asked_by="the store that was left")
        except GfsError:  # its package has been uninstalled since
            return ()
        return plugin.names


def _number_of(place: StorePlace) -> int:
    return int(place.place.removeprefix(_PLACE_STEM)) if place.place else 0
