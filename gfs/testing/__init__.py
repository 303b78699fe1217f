"""For tests of packages that extend gfs. Needs pytest; nothing else in gfs imports it."""

from gfs.testing.chunk_store_contract import ChunkStoreContract as ChunkStoreContract

__all__ = ["ChunkStoreContract"]
