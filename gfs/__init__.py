"""GFS for Python: `connect` (sync), `aio` (async) and `errors`. Names are loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gfs import aio as aio
    from gfs import errors as errors
    from gfs.client.blocking import Client as Client
    from gfs.client.blocking import connect as connect

__version__ = "0.1.0"
__all__ = ["Client", "__version__", "aio", "connect", "errors"]

_MODULES = {"aio": "gfs.aio", "errors": "gfs.errors"}
_NAMES = {"connect": "gfs.client.blocking", "Client": "gfs.client.blocking"}


def __getattr__(name: str) -> object:
    # A command line that only prints its help must not pay for aiohttp.
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _NAMES:
        found: object = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'gfs' has no attribute {name!r}")
