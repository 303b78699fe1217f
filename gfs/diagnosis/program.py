"""What each program has of diagnosis: its two rings, and the requests that read them."""

from __future__ import annotations

import asyncio
import os

from prometheus_client import Gauge

from gfs.diagnosis import events as event_records
from gfs.diagnosis import rpc_log as rpc_records
from gfs.diagnosis.events import Events
from gfs.diagnosis.recorder import Page, newest_of_ring
from gfs.diagnosis.rpc_log import RpcLog
from gfs.errors import InvalidArgument
from gfs.messages.base import Reply, Request
from gfs.messages.diagnosis import EventPage, EventRecord, ReadEvents, ReadRpcLog, RpcLogPage
from gfs.settings import TelemetrySettings
from gfs.telemetry import Metrics, tell_events_to
from gfs.transport.interface import CallContext, Handler

RPC_LOG_DIRECTORY = "rpclog"
EVENTS_DIRECTORY = "events"
PAGE_RECORDS_MAX = 2000


class Diagnosis:
    """Made when the program has its directory; close() when it has stopped answering."""

    def __init__(
        self, directory: str, node: str, settings: TelemetrySettings, metrics: Metrics | None = None
    ) -> None:
        self._node = node
        self.calls = RpcLog(os.path.join(directory, RPC_LOG_DIRECTORY), bytes_max=settings.rpc_log_bytes)
        self.events = Events(os.path.join(directory, EVENTS_DIRECTORY), bytes_max=settings.event_log_bytes)
        tell_events_to(self.events)
        if metrics is not None:
            Gauge(
                "gfs_records_dropped",
                "Calls and events not recorded, for lack of time or disk space",
                registry=metrics.registry,
            ).set_function(lambda: self.calls.recorder.dropped + self.events.recorder.dropped)

    def handlers(self) -> dict[type[Request], Handler]:
        """One for each of DIAGNOSIS_REQUESTS."""
        return {ReadRpcLog: self.read_rpc_log, ReadEvents: self.read_events}

    async def read_rpc_log(self, request: Request, _context: CallContext) -> Reply:
        assert isinstance(request, ReadRpcLog)
        recorder, limit = self.calls.recorder, _checked_limit(request.limit)

        def read() -> RpcLogPage:
            page = recorder.page(
                after=request.after,
                newest=request.newest,
                limit=limit,
                wanted=rpc_records.choose(request),
            )
            return _rpc_page(self._node, page, recorder.dropped)

        return await asyncio.to_thread(read)

    async def read_events(self, request: Request, _context: CallContext) -> Reply:
        assert isinstance(request, ReadEvents)
        recorder, limit = self.events.recorder, _checked_limit(request.limit)

        def read() -> EventPage:
            page = recorder.page(
                after=request.after,
                newest=request.newest,
                limit=limit,
                wanted=event_records.choose(request),
            )
            return _event_page(self._node, page, recorder.dropped)

        return await asyncio.to_thread(read)

    def close(self) -> None:
        tell_events_to(None)
        self.calls.recorder.close()
        self.events.recorder.close()


def read_stopped_rpc_log(directory: str, node: str, query: ReadRpcLog) -> RpcLogPage:
    """What ReadRpcLog with `newest` would be answered by a stopped program, from its directory."""
    ring = os.path.join(directory, RPC_LOG_DIRECTORY)
    wanted = rpc_records.choose(query)
    return _rpc_page(node, newest_of_ring(ring, [], 1 << 62, 0, query.limit, wanted), 0)


def read_stopped_events(directory: str, node: str, query: ReadEvents) -> EventPage:
    """As read_stopped_rpc_log."""
    ring = os.path.join(directory, EVENTS_DIRECTORY)
    wanted = event_records.choose(query)
    return _event_page(node, newest_of_ring(ring, [], 1 << 62, 0, query.limit, wanted), 0)


def _checked_limit(limit: int) -> int:
    if limit < 1:
        raise InvalidArgument(f"a page of {limit} records: at least 1")
    return min(limit, PAGE_RECORDS_MAX)


def _rpc_page(node: str, page: Page, dropped: int) -> RpcLogPage:
    records = [rpc_records.decode_record(payload) for payload in page.payloads]
    return RpcLogPage(node=node, records=records, next_after=page.next_after, more=page.more, dropped=dropped)


def _event_page(node: str, page: Page, dropped: int) -> EventPage:
    records: list[EventRecord] = [event_records.decode_record(payload) for payload in page.payloads]
    return EventPage(node=node, records=records, next_after=page.next_after, more=page.more, dropped=dropped)
