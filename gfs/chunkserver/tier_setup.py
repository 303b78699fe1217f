"""The tier of one chunk server, opened as gfs.toml says, or not at all. Not what goes out, nor when."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

from gfs.chunkserver.stores.interface import ChunkStore
from gfs.chunkserver.stores.objects import ObjectService
from gfs.chunkserver.stores.tier_rows import ROW_SUFFIX
from gfs.chunkserver.stores.tiered import TIER_DIRECTORY, TieredStore
from gfs.disk import Disk
from gfs.errors import ConfigInvalid
from gfs.settings import Settings
from gfs.vocabulary import ServerId

OpenService = Callable[[str], ObjectService]


def open_obstore(url: str) -> ObjectService:
    """Raises: InvalidArgument (it names no service), Unavailable (obstore is not installed)."""
    from gfs.chunkserver.stores.obstore_service import ObstoreService  # the package is an extra

    return ObstoreService.of_url(url)


def open_tier(
    settings: Settings,
    node_id: str,
    local: ChunkStore,
    disk: Disk,
    server_directory: str,
    *,
    server: ServerId,
    is_durable: bool,
    open_service: OpenService,
) -> TieredStore | None:
    """A store over `local`; None where this server has no tier.

    Raises: ConfigInvalid: bytes are out and gfs.toml names no service for them, or `local` outlives no
        process; InvalidArgument, Unavailable: see open_obstore; OSError.
    """
    tuning = settings.chunkserver.tier
    directory = os.path.join(server_directory, TIER_DIRECTORY)
    if not tuning.url or not settings.chunkservers[node_id].tier:
        if disk.exists(directory) and any(name.endswith(ROW_SUFFIX) for name in disk.listdir(directory)):
            raise ConfigInvalid(
                f"chunks of this server are on an object service ({directory} lists them), and the "
                "configuration names none for it",
                hint="Name it in chunkserver.tier.url; with recall = true beside it all of them come back.",
            )
        return None
    if not is_durable:
        raise ConfigInvalid(
            f"chunkservers.{node_id}: a store that does not outlive the process cannot have a tier",
            hint="Choose another store for it, or set tier = false there.",
        )
    return TieredStore(
        local,
        open_service(tuning.url),
        disk,
        directory,
        server=server,
        token=lambda: secrets.token_hex(8),
        cache_bytes=tuning.cache_bytes,
    )
