"""What a package offers under the entry point group `gfs.chunkstores`: one StorePlugin. No finding of them.

[project.entry-points."gfs.chunkstores"]
mine = "my_package.my_store:PLUGIN"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from gfs.chunkserver.stores.interface import ChunkStore, StoreCapabilities
from gfs.disk import Disk


class StoreSite(NamedTuple):
    """Where a chunk server keeps its state. A store keeps to files that are named after it in `directory`."""

    disk: Disk
    directory: str


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What gfs.toml may say of one store; a store with options has a subclass.

    Fields whose names end in `_bytes` or `_seconds`, also before `_max` or `_min`, may be given with a unit.
    """

    def fault(self) -> str:
        """What is wrong with these values, beginning with the option's name; empty: nothing."""
        return ""


WRITABLE_AND_DURABLE = StoreCapabilities()


@dataclass(frozen=True, slots=True)
class StorePlugin:
    """One kind of store.

    Args:
        name: as in gfs.toml and as written on the disk; the entry point has the same.
        options: its type of options.
        open: make or recover the store of one chunk server; OSError and GfsError pass through.
        names: of the directories it makes in its site: removed when all chunks have moved to another store.
    """

    name: str
    options: type[StoreOptions]
    # Any: an object of `options`, which the registry has checked
    open: Callable[[StoreSite, Any], ChunkStore]
    capabilities: StoreCapabilities = WRITABLE_AND_DURABLE
    names: tuple[str, ...] = ()
