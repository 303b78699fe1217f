"""What a page is: an address, a template, and how its view is found out. The pages are in pages_*."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from gfs.web.asking import Asked


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What a page shows; as JSON, all of its answer."""


class Page(NamedTuple):
    """`place`: below /ui/. `live`: shown anew as long as somebody looks. `menu`: its name there, or empty."""

    place: str
    title: str
    template: str
    gather: Callable[[Asked], Awaitable[View]]
    live: bool = False
    menu: str = ""
