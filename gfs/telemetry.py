"""Logs and metrics: structlog set up once per process, one Prometheus registry per program.

A trace id is bound when a call enters a program and goes out with every call made for it, so that one
request can be followed across programs. Paths, handles and clients are log fields, never metric labels.
"""

from __future__ import annotations

import contextvars
import logging
import secrets
import sys
from typing import Any

import msgspec
import structlog
from prometheus_client import CollectorRegistry, generate_latest

trace_id: contextvars.ContextVar[str] = contextvars.ContextVar("trace_id", default="")


def new_trace_id() -> str:
    return secrets.token_hex(8)


def _add_trace(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    trace = trace_id.get()
    if trace:
        event.setdefault("request_id", trace)
    return event


def _render_json(_: Any, __: str, event: structlog.typing.EventDict) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


def set_up_logging(*, role: str, node: str, level: str = "info", style: str = "auto") -> None:
    """Send every log line of this process to standard error: JSON in production, readable on a terminal."""
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    minimum = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _add_trace,
    ]
    if as_json:
        structlog.configure(
            processors=[*shared, structlog.processors.format_exc_info, _render_json],
            wrapper_class=structlog.make_filtering_bound_logger(minimum),
            logger_factory=structlog.BytesLoggerFactory(file=sys.stderr.buffer),
            cache_logger_on_first_use=False,
        )
    else:
        structlog.configure(
            processors=[*shared, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())],
            wrapper_class=structlog.make_filtering_bound_logger(minimum),
            logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
            cache_logger_on_first_use=False,
        )
    # Libraries log through the standard module; only their warnings matter to an operator.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    structlog.contextvars.bind_contextvars(role=role, node=node)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(room=name)
    return log


class Metrics:
    """The metrics of one program. Several programs may live in one test process, each with its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
