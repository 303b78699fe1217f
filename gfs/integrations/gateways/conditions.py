"""Conditions and ranges of HTTP requests for a file (RFC 9110, sections 13 and 14). No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from aiohttp import web

from gfs.messages.namespace import Entry

_RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")
_ENTITY_TAG = re.compile(r'(?:W/)?"[^"]*"')


class Span(NamedTuple):
    first: int
    length_bytes: int


def entity_tag(entry: Entry) -> str:
    """Another one for each content. Weak while somebody may be writing: then bytes change under one tag."""
    told = f'"{entry.inode:x}-{entry.modified_ms:x}-{entry.length_bytes:x}"'
    return told if entry.length_exact and not entry.appended else "W/" + told


def precondition(headers: Mapping[str, str], entry: Entry, tag: str) -> int:
    """412 or 304 when a condition of the request says so, else 0; in the order of RFC 9110, 13.2.2."""
    modified = entry.modified_ms // 1000
    if "If-Match" in headers:
        if not _is_among(tag, headers["If-Match"], weakly=False):
            return 412
    elif (since := _seconds(headers.get("If-Unmodified-Since"))) is not None and modified > since:
        return 412
    if "If-None-Match" in headers:
        return 304 if _is_among(tag, headers["If-None-Match"], weakly=True) else 0
    since = _seconds(headers.get("If-Modified-Since"))
    return 304 if since is not None and modified <= since else 0


def _is_among(tag: str, told: str, *, weakly: bool) -> bool:
    if told.strip() == "*":
        return True
    tags = _ENTITY_TAG.findall(told)
    if weakly:
        return tag.removeprefix("W/") in [one.removeprefix("W/") for one in tags]
    return not tag.startswith("W/") and tag in tags


def _seconds(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None  # a date that is none is as good as no condition


def asked_range(request: web.Request, length: int, tag: str, entry: Entry) -> Span | None:
    """The bytes to send; None when nothing of the range asked for is there.

    All of them when no range is asked for, or several, or one of another content than this (If-Range).
    """
    whole = Span(0, length)
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if match is None:
        return whole
    condition = request.headers.get("If-Range")
    if condition is not None:
        by_date = _seconds(condition) == entry.modified_ms // 1000 and not tag.startswith("W/")
        if not (by_date or _is_among(tag, condition, weakly=False)):
            return whole
    first, last, suffix = match.groups()
    if suffix is not None:
        count = min(int(suffix), length)
        return Span(length - count, count) if count else None
    start = int(first)
    beyond = min(int(last) + 1, length) if last else length
    if last and int(last) < start:
        return whole  # no range at all
    return Span(start, beyond - start) if start < length else None
