"""Where aiohttp's own complaints about connections end: one line each in our log, never a traceback."""

from __future__ import annotations

import logging

from gfs.telemetry import logger

_log = logger("transport")


class _OneLine(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        reason = f"{type(error).__name__}: {error}".splitlines()[0] if error else ""
        _log.warning(
            "a connection was refused: not a request of ours", detail=record.getMessage(), reason=reason
        )


def protocol_logger() -> logging.Logger:
    """The logger to give aiohttp's server. Faults of our own pages never reach it."""
    found = logging.getLogger("gfs.transport.aiohttp")
    if not found.handlers:
        found.addHandler(_OneLine())
        found.setLevel(logging.DEBUG)  # bytes that are no HTTP at all are only a debug line to aiohttp
        found.propagate = False
    return found
