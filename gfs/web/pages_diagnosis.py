"""Pages about what happened and who is at work: clients and leases, events, calls, configuration."""

from __future__ import annotations

from typing import Any

import msgspec

from gfs.messages.console import LeasesReply, ListLeases, ListSessions, SessionsReply
from gfs.messages.diagnosis import EventPage, EventRecord, ReadEvents, ReadRpcLog, RpcLogPage, RpcRecord
from gfs.settings import Settings
from gfs.web.asking import Asked
from gfs.web.limits import RECORDS_PER_PAGE
from gfs.web.page import Page, View

_MASKED = "(not shown)"
_SECRET_WORDS = ("secret", "password", "token", "key")


class Clients(View, frozen=True, kw_only=True):
    sessions: SessionsReply
    leases: LeasesReply


class Events(View, frozen=True, kw_only=True):
    """Of the master that answers, newest first."""

    node: str
    records: list[EventRecord]
    dropped: int


class Calls(View, frozen=True, kw_only=True):
    """Of the master that answers, newest first."""

    node: str
    trace: str
    method: str
    records: list[RpcRecord]
    dropped: int


class Configuration(View, frozen=True, kw_only=True):
    sections: dict[str, dict[str, Any]]  # Any: numbers, strings, lists and maps as gfs.toml has them


def diagnosis_pages(settings: Settings) -> list[Page]:
    shown = Configuration(sections=masked(settings))

    async def configuration(asked: Asked) -> Configuration:
        # It tells where everything is: for those who may read the calls.
        asked.asker.admit(ReadRpcLog(), asked.caller)
        return shown

    return [
        Page("clients", "Clients and leases", "clients.html", _clients, live=True, menu="Clients"),
        Page("events", "Events", "events.html", _events, live=True, menu="Events"),
        Page("calls", "Calls", "calls.html", _calls, menu="Calls"),
        Page("config", "Configuration", "config.html", configuration, menu="Configuration"),
    ]


def masked(settings: Settings) -> dict[str, dict[str, Any]]:  # Any: as in Configuration
    """All settings in force. What says or leads to a secret is told to be there, and no more."""
    tree: dict[str, dict[str, Any]] = msgspec.to_builtins(settings)
    return {section: _masked(values) for section, values in tree.items()}


def _masked(values: dict[str, Any]) -> dict[str, Any]:  # Any: as in Configuration
    shown: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            shown[name] = _masked(value)
        elif isinstance(value, str) and value and any(word in name for word in _SECRET_WORDS):
            shown[name] = _MASKED
        else:
            shown[name] = value
    return shown


async def _clients(asked: Asked) -> Clients:
    return Clients(
        sessions=await asked.ask(ListSessions(), SessionsReply),
        leases=await asked.ask(ListLeases(), LeasesReply),
    )


async def _events(asked: Asked) -> Events:
    page = await asked.ask(ReadEvents(newest=True, limit=RECORDS_PER_PAGE), EventPage)
    return Events(node=page.node, records=page.records[::-1], dropped=page.dropped)


async def _calls(asked: Asked) -> Calls:
    trace, method = asked.text("trace").strip(), asked.text("method").strip()
    page = await asked.ask(
        ReadRpcLog(newest=True, limit=RECORDS_PER_PAGE, trace=trace, methods=[method] if method else []),
        RpcLogPage,
    )
    return Calls(node=page.node, trace=trace, method=method, records=page.records[::-1], dropped=page.dropped)
