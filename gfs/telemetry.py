"""Logs and metrics: structlog set up once per process, one Prometheus registry per program.

A trace id is bound when a call enters a program and goes out with every call made for it, so that one
request can be followed across programs. Paths, handles and clients are log fields, never metric labels.
"""

from __future__ import annotations

import contextvars
import logging
import secrets
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import msgspec
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

trace_id: contextvars.ContextVar[str] = contextvars.ContextVar("trace_id", default="")


class EventSink(Protocol):
    def note(self, level: str, room: str, event: str, fields: Mapping[str, Any]) -> None:  # Any: log fields
        """Take an event in, from any thread, without waiting for anything."""
        ...


_event_sink: contextvars.ContextVar[EventSink | None] = contextvars.ContextVar("event_sink", default=None)
_process_event_sink: EventSink | None = None  # of threads that have no context of ours


def tell_events_to(sink: EventSink | None) -> None:
    """From now on log lines of `info` and above, and note_event(), are events of the program of this sink.

    In this context and in tasks begun from it, so that several programs may live in one process.
    """
    global _process_event_sink
    _event_sink.set(sink)
    _process_event_sink = sink


def note_event(room: str, event: str, **fields: Any) -> None:  # Any: as in a log line
    """Something significant but too frequent for a log line: it goes to the events ring only."""
    sink = _event_sink.get() or _process_event_sink
    if sink is not None:
        sink.note("info", room, event, fields)


def new_trace_id() -> str:
    return secrets.token_hex(8)


def _add_trace(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    trace = trace_id.get()
    if trace:
        event.setdefault("request_id", trace)
    return event


def _tell_event(_: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    sink = _event_sink.get() or _process_event_sink
    if sink is not None and method != "debug":
        level = "error" if method == "exception" else method
        sink.note(level, str(event.get("room", "")), str(event.get("event", "")), event)
    return event


class _From:
    """Drops what is below the level asked for; an event it has been all the same."""

    def __init__(self, level: str) -> None:
        self._minimum = getattr(logging, level.upper())

    def __call__(self, _: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        name = {"exception": "ERROR", "warn": "WARNING"}.get(method, method.upper())
        if getattr(logging, name, logging.CRITICAL) < self._minimum:
            raise structlog.DropEvent
        return event


def _render_json(_: Any, __: str, event: structlog.typing.EventDict) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


def set_up_logging(*, role: str, node: str, level: str = "info", style: str = "auto") -> None:
    """Send every log line of this process to standard error: JSON in production, readable on a terminal."""
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    minimum = min(logging.INFO, getattr(logging, level.upper()))
    shared: list[structlog.typing.Processor] = [
        _tell_event,
        _From(level),
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


class SecondsHistogram(Collector):
    """A Prometheus histogram without labels, for the hot path of one thread: a tenth of their own's price."""

    def __init__(self, name: str, meaning: str, bounds: Sequence[float], metrics: Metrics) -> None:
        """`bounds`: upper ends of the buckets but for the last, in seconds and ascending."""
        self._name, self._meaning, self._bounds = name, meaning, tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._seconds = 0.0
        metrics.registry.register(self)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def collect(self) -> Iterator[Metric]:
        ends = (*map(str, self._bounds), "+Inf")
        buckets = [(end, float(up_to)) for end, up_to in zip(ends, accumulate(self._counts), strict=True)]
        yield HistogramMetricFamily(self._name, self._meaning, buckets, self._seconds)


class Metrics:
    """The metrics of one program. Several programs may live in one test process, each with its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
