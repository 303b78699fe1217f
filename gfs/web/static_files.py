"""The console's own files: script libraries of others, see static/VENDOR.toml, its stylesheet and icon."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import NamedTuple

from aiohttp import web

from gfs.errors import NotFound

DIRECTORY = os.path.join(os.path.dirname(__file__), "static")
KEPT_SECONDS = 300
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class _File(NamedTuple):
    body: bytes
    media_type: str
    tag: str


class StaticFiles:
    """Read once, when first asked for. Only what is in the directory has a name here."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def answer(self, name: str, known_tag: str, headers: Mapping[str, str]) -> web.Response:
        """Raises: NotFound."""
        file = self._find(name)
        headers = {**headers, "ETag": file.tag, "Cache-Control": f"max-age={KEPT_SECONDS}"}
        if known_tag == file.tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, content_type=file.media_type, charset="utf-8", headers=headers)

    def _find(self, name: str) -> _File:
        if not self._files:
            self._files = {
                entry.name: _read(entry.path) for entry in os.scandir(DIRECTORY) if _is_served(entry)
            }
        if name not in self._files:
            raise NotFound(f"the console has no file {name[:64]!r}")
        return self._files[name]


def _is_served(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and os.path.splitext(entry.name)[1] in _TYPES


def _read(path: str) -> _File:
    with open(path, "rb") as file:
        body = file.read()
    return _File(body, _TYPES[os.path.splitext(path)[1]], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
