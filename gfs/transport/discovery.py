"""`GET /sd`: where the programs of the cluster are, as Prometheus's HTTP service discovery wants it.

What a program shows of itself is in http_methods; who the programs are, its caller knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from gfs.vocabulary import Address


@dataclass(frozen=True)
class Program:
    """One program that may be asked for its metrics at `control`."""

    role: str
    node: str
    control: Address
    rack: str = ""


def discovery_routes(programs: Callable[[], Iterable[Program]], *, encrypted: bool) -> list[web.RouteDef]:
    """Like /metrics it is answered to anybody: it names addresses and racks, nothing of files or users.

    Args:
        encrypted: whether they are to be asked by https; Prometheus needs the authority's file for that.
    """
    scheme = "https" if encrypted else "http"

    async def answer(_: web.Request) -> web.Response:
        groups = [
            {
                "targets": [one.control],
                "labels": {"__scheme__": scheme, "role": one.role, "node": one.node, "rack": one.rack},
            }
            for one in programs()
            if one.control
        ]
        return web.Response(body=msgspec.json.encode(groups), content_type="application/json")

    return [web.get("/sd", answer)]
