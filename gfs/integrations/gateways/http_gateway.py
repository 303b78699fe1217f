"""Files by plain HTTP for curl, browsers and what else takes a URL: /v1/fs/<path>; see `gfs gateway http`.

GET, HEAD   bytes of a file, whole or one Range of it; a directory as a page, or as JSON when that is asked
            for (Accept: application/json)
PUT         a whole new file, which appears when all of it is there; a path that ends with '/' is a directory
DELETE      into the trash; `?recursive=true` for a directory with something in it
"""

from __future__ import annotations

import html
from collections.abc import AsyncIterator
from email.utils import formatdate
from urllib.parse import quote

import msgspec
from aiohttp import web

from gfs.client.client import AsyncClient
from gfs.errors import AlreadyExists, GfsError, IsADirectory
from gfs.integrations.gateways.conditions import asked_range, entity_tag, precondition
from gfs.integrations.gateways.gateway_server import blocks_of_body, send_range
from gfs.integrations.published import published
from gfs.messages.namespace import Entry
from gfs.settings import GATEWAY_LISTED_MAX
from gfs.transport.frames import error_reply
from gfs.transport.http_methods import status_of

PREFIX = "/v1/fs"
# A stored page is shown, but can neither run nor load anything in the gateway's name.
_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px sans-serif;margin:2em}}td{{padding:.1em 1.5em .1em 0}}td.n{{text-align:right}}</style>
<h1>{title}</h1>
<table>
{rows}
</table>
{end}
"""


def refusal(error: GfsError) -> web.Response:
    """An error as JSON, under a fitting status."""
    return web.Response(
        body=msgspec.json.encode(error_reply(error)) + b"\n",
        status=status_of(error.code),
        content_type="application/json",
    )


class HttpGateway:
    """The handlers; `client` is whose name everything is done in."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @property
    def routes(self) -> list[web.RouteDef]:
        at = PREFIX + "{path:/.*}"
        return [
            web.get("/", self._to_root),
            web.get(PREFIX, self._to_root),
            web.get(at, self._get, allow_head=True),
            web.put(at, self._put),
            web.delete(at, self._delete),
        ]

    async def _to_root(self, _: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(PREFIX + "/")

    # --- reading --------------------------------------------------------------------------------

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        try:
            file = await self._client.open(path, "rb")
        except IsADirectory:
            return await self._listing(request, path)
        async with file:
            length = await file.length()
            tag = entity_tag(file.entry)
            headers = _headers_of(file.entry, tag)
            status = precondition(request.headers, file.entry, tag)
            if status:
                return web.Response(status=status, headers=headers)
            span = asked_range(request, length, tag, file.entry)
            if span is None:
                unsatisfied = {"Content-Range": f"bytes */{length}", "Accept-Ranges": "bytes"}
                return web.Response(status=416, headers=unsatisfied)
            response = web.StreamResponse(headers=headers)
            if span.length_bytes < length:
                response.set_status(206)
                last = span.first + span.length_bytes - 1
                response.headers["Content-Range"] = f"bytes {span.first}-{last}/{length}"
            if request.method == "HEAD":
                response.content_length = span.length_bytes
                await response.prepare(request)
                return response
            await send_range(request, response, file, span.first, span.length_bytes)
            return response

    async def _listing(self, request: web.Request, path: str) -> web.Response:
        entries, more = await _some(self._client.list(path))
        entries = await published(self._client, entries)
        if "application/json" in request.headers.get("Accept", "") or request.query.get("format") == "json":
            body = msgspec.json.encode({"path": path, "entries": entries, "complete": not more})
            return web.Response(body=body, content_type="application/json")
        return web.Response(
            text=listing_page(path, entries, more=more),
            content_type="text/html",
            headers={"Content-Security-Policy": _SANDBOX},
        )

    # --- writing --------------------------------------------------------------------------------

    async def _put(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        _refuse_overwrite_condition(request)
        if path.endswith("/"):
            await self._client.mkdir(path, parents=True)
            return web.Response(status=201)
        if "Content-Range" in request.headers:
            return web.Response(status=501, text="A part of a file cannot be PUT: send all of it.\n")
        exclusive = request.headers.get("If-None-Match", "").strip() == "*"
        try:
            before = await self._client.exists(path)
            async with await self._client.open(path, "xb" if exclusive else "wb", atomic=True) as file:
                async for block in blocks_of_body(request):
                    await file.write(block)
        except AlreadyExists as error:
            response = refusal(error)
            response.set_status(412)
            return response
        entry = await self._client.stat(path)
        return web.Response(status=204 if before else 201, headers={"ETag": entity_tag(entry)})

    async def _delete(self, request: web.Request) -> web.Response:
        _refuse_overwrite_condition(request)
        recursive = request.query.get("recursive", "") == "true"
        await self._client.delete(request.match_info["path"], recursive=recursive)
        return web.Response(status=204)


async def _some(listing: AsyncIterator[Entry]) -> tuple[list[Entry], bool]:
    """The first GATEWAY_LISTED_MAX entries, and whether there are more."""
    entries: list[Entry] = []
    async for entry in listing:
        if len(entries) == GATEWAY_LISTED_MAX:
            return entries, True
        entries.append(entry)
    return entries, False


def listing_page(path: str, entries: list[Entry], *, more: bool) -> str:
    """A directory for a browser; names may be anything."""
    base = PREFIX + quote(path.rstrip("/")) + "/"
    rows = [f'<tr><td><a href="{html.escape(base)}..">..</a><td><td></tr>'] if path.strip("/") else []
    for entry in entries:
        name = entry.path.rpartition("/")[2] + ("/" if entry.kind == "directory" else "")
        size = f"{entry.length_bytes:,}" if entry.kind == "file" else ""
        rows.append(
            f'<tr><td><a href="{html.escape(base + quote(name))}">{html.escape(name)}</a>'
            f'<td class="n">{size}<td>{html.escape(formatdate(entry.modified_ms / 1000, usegmt=True))}</tr>'
        )
    end = f"<p>Only the first {GATEWAY_LISTED_MAX:,} are shown.</p>" if more else ""
    return _PAGE.format(title=html.escape(path), rows="\n".join(rows), end=end)


def _headers_of(entry: Entry, tag: str) -> dict[str, str]:
    return {
        "ETag": tag,
        "Last-Modified": formatdate(entry.modified_ms / 1000, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Content-Security-Policy": _SANDBOX,
    }


def _refuse_overwrite_condition(request: web.Request) -> None:
    """Nothing in the cluster compares and replaces in one step, so nobody must be told that it was done."""
    for name in ("If-Match", "If-Unmodified-Since"):
        if name in request.headers:
            raise web.HTTPNotImplemented(reason=f"{name} cannot be kept when writing")
    if request.headers.get("If-None-Match", "*").strip() != "*":
        raise web.HTTPNotImplemented(reason="of If-None-Match only '*' can be kept when writing")
