"""Views to HTML by the templates, which escape all they are given. What is shown is decided elsewhere."""

from __future__ import annotations

import asyncio
import os
from functools import cached_property
from typing import Any

import jinja2
import msgspec

from gfs.messages.cluster import ClusterStatusReply
from gfs.web import charts, wording
from gfs.web.page import Page

TEMPLATES = os.path.join(os.path.dirname(__file__), "templates")


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What stands around every page. `here`: its path and query; `leader_at`: the leader's console,
    empty when this master leads or none is known."""

    status: ClusterStatusReply
    me: str
    role: str
    scheme: str
    leader_at: str
    lag_entries: int
    lag_seconds: float
    here: str
    signed_in: bool
    can_sign_in: bool
    wants_token: bool
    menu: list[tuple[str, str]]  # place and name


class Renderer:
    @cached_property
    def _environment(self) -> jinja2.Environment:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(
            bytes=wording.in_bytes,
            count=wording.in_count,
            at=wording.at_time,
            at_us=wording.at_second,
            seconds=wording.for_seconds,
            handle=wording.handle,
            mode=wording.mode,
            as_json=_as_json,
        )
        environment.globals.update(chart=charts.line_chart, bar=charts.bar)
        return environment

    async def whole(self, page: Page, frame: Frame, view: object, *, live: str) -> bytes:
        """`live`: the address of its stream, empty when it has none."""
        return await self._render("shell.html", page=page, frame=frame, view=view, live=live)

    async def part(self, page: Page, frame: Frame, view: object) -> bytes:
        """What a live page shows anew."""
        return await self._render("live.html", page=page, frame=frame, view=view)

    async def plain(self, template: str, **values: Any) -> bytes:  # Any: whatever the template names
        return await self._render(template, **values)

    async def _render(self, template: str, **values: Any) -> bytes:  # Any: as plain()
        # In a thread: the loop has elections and leases to look after.
        return await asyncio.to_thread(self._now, template, values)

    def _now(self, template: str, values: dict[str, Any]) -> bytes:  # Any: as plain()
        return self._environment.get_template(template).render(values).encode()


def _as_json(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=repr).decode(errors="replace")
