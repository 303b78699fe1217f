"""Which stores are installed, and the one a chunk server is configured to use. No store's own code.

Where a chunk server's chunks really are, since an operator may have moved them, store_moves knows.

Ours are known here as well as by entry points, so that a source tree that was never installed has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gfs.chunkserver.stores.interface import ChunkStore
from gfs.chunkserver.stores.plugin import StoreOptions, StorePlugin, StoreSite
from gfs.errors import ConfigInvalid
from gfs.settings import Settings, section_of

GROUP = "gfs.chunkstores"
BUILT_IN = {
    "file": "gfs.chunkserver.stores.file:PLUGIN",
    "lmdb": "gfs.chunkserver.stores.lmdb_packed:PLUGIN",
    "memory": "gfs.chunkserver.stores.memory:PLUGIN",
}


def installed() -> dict[str, EntryPoint]:
    """All stores that can be named in a configuration; none is imported.

    Raises: ConfigInvalid when two packages offer one name.
    """
    found = {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}
    for point in entry_points(group=GROUP):
        known = found.setdefault(point.name, point)
        if known.value != point.value:
            raise ConfigInvalid(
                f"two chunk stores are called {point.name!r}: {known.value} and {point.value}",
                hint="Uninstall the package that offers one of them.",
            )
    return found


def load(name: str, *, asked_by: str = "chunkserver.store") -> StorePlugin:
    """The plug-in called `name`. Raises: ConfigInvalid: not installed, cannot be imported, is none."""
    points = installed()
    if name not in points:
        raise ConfigInvalid(f"{asked_by}: {name!r} is not one of {', '.join(sorted(points))}")
    try:
        plugin = points[name].load()
    except Exception as error:  # a stranger's module may raise anything while it is imported
        raise ConfigInvalid(
            f"{asked_by}: the chunk store {name!r} ({points[name].value}) cannot be loaded: {error}",
            hint="Install what it needs, or choose another store.",
        ) from error
    if not isinstance(plugin, StorePlugin) or plugin.name != name:
        raise ConfigInvalid(
            f"{asked_by}: {points[name].value} is no StorePlugin called {name!r}",
            hint="Its package has to be mended; 'write your own store' in the README tells how one looks.",
        )
    return plugin


def read_options(plugin: StorePlugin, table: Mapping[str, Any]) -> StoreOptions:
    """`table`: of gfs.toml, unchecked. Raises: ConfigInvalid with the option's path."""
    where = f"chunkserver.store_options.{plugin.name}"
    options = section_of(plugin.options, table, where)
    if fault := options.fault():
        raise ConfigInvalid(f"$.{where}.{fault}")
    return options


def configured_store(settings: Settings, node_id: str) -> StorePlugin:
    """The store that gfs.toml names for `node_id`. Raises: ConfigInvalid, also if it cannot be written to."""
    own = settings.chunkservers[node_id].store
    plugin = load(
        own or settings.chunkserver.store,
        asked_by=f"chunkservers.{node_id}.store" if own else "chunkserver.store",
    )
    require_writable(plugin)
    return plugin


def require_writable(plugin: StorePlugin) -> None:
    """Raises: ConfigInvalid."""
    can = plugin.capabilities
    if not (can.append and can.random_write):
        raise ConfigInvalid(
            f"chunks cannot be written in the store {plugin.name!r}: it takes only those that change no more",
            hint="Choose another one for this chunk server; such a store stands beside it.",
        )


def open_plugin(settings: Settings, plugin: StorePlugin, site: StoreSite) -> ChunkStore:
    """Raises: ConfigInvalid (wrong options); whatever the store raises when it is opened."""
    options = read_options(plugin, settings.chunkserver.store_options.get(plugin.name, {}))
    return plugin.open(site, options)
