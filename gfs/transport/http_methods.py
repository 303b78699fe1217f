"""The methods of a program as plain `POST /v1/<method>` with JSON, and its health and metrics pages.

    curl -d '{"path": "/data"}' http://127.0.0.1:9500/v1/stat

`Gfs-Deadline` (seconds) bounds a call, `Gfs-Trace` names it, `Gfs-User` and `Gfs-Groups` (separated by
commas) say on whose behalf it is, `Authorization: Bearer …` shows a token; all may be left out. Every refusal
is an ErrorReply as JSON under a fitting status.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from gfs.credentials import CREDENTIAL_CHARS_MAX
from gfs.errors import (
    BY_CODE,
    DeadlineExceeded,
    FrameTooLarge,
    GfsError,
    InternalFault,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ProtocolFault,
    Unavailable,
)
from gfs.identity import GROUPS_MAX
from gfs.messages.base import ErrorReply, Identity, Reply, Request
from gfs.settings import FRAME_BYTES_MAX, HTTP_CALL_SECONDS, HTTP_CALL_SECONDS_MAX
from gfs.telemetry import Metrics, logger, new_trace_id
from gfs.tls import NodeName, node_of
from gfs.transport.dispatch import Dispatcher
from gfs.transport.frames import DECODE_FAULTS, error_reply
from gfs.transport.interface import CallContext
from gfs.vocabulary import KIB

_log = logger("transport")

TRACE_HEADER = "Gfs-Trace"
DEADLINE_HEADER = "Gfs-Deadline"
USER_HEADER = "Gfs-User"
GROUPS_HEADER = "Gfs-Groups"
_TRACE_CHARS_MAX = 128
_EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATUS_OF_EXIT = {2: 400, 3: 404, 4: 409, 5: 403, 6: 503, 7: 500, 8: 507, 9: 500, 10: 409, 1: 500}
_STATUS_OF_CODE = {
    "unauthenticated": 401,
    "frame_too_large": 413,
    "protocol_fault": 400,
    "overloaded": 429,
    "outcome_unknown": 504,
    "deadline_exceeded": 504,
    "connection_lost": 504,
    "replica_failed": 502,
}

_Page = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status_of(code: str) -> int:
    """The HTTP status for an error's code."""
    return _STATUS_OF_CODE.get(code) or _STATUS_OF_EXIT[BY_CODE.get(code, InternalFault).exit_status]


def method_routes(dispatcher: Dispatcher) -> list[web.RouteDef]:
    decoders = {method: msgspec.json.Decoder(kind) for method, kind in dispatcher.by_method.items()}

    async def post(http: web.Request) -> web.Response:
        method = http.match_info["method"]
        decoder = decoders.get(method)
        if decoder is None:
            known = ", ".join(sorted(decoders))
            raise NotFound(f"there is no method {method!r} here", hint=f"There are: {known}.")
        request = _decode(await _read_body(http), decoder)
        trace = http.headers.get(TRACE_HEADER, "")[:_TRACE_CHARS_MAX] or new_trace_id()
        seconds = _deadline(http)
        context = CallContext(
            f"http {http.remote}", trace, seconds, _identity(http), _credential(http), peer_node(http)
        )
        try:
            async with asyncio.timeout(seconds):
                reply = await dispatcher.answer(request, context)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the call was not answered within its {seconds:.3f} s") from error
        return _json(reply, {TRACE_HEADER: trace})

    return [web.post("/v1/{method}", post)]


def _identity(http: web.Request) -> Identity:
    groups = http.headers.get(GROUPS_HEADER, "").split(",")
    names = tuple(name.strip() for name in groups if name.strip())[:GROUPS_MAX]
    return Identity(http.headers.get(USER_HEADER, ""), names)


def peer_node(http: web.Request) -> NodeName:
    """Of whose certificate the connection is; of nobody's in plain text, or without one."""
    transport = http.transport
    return node_of(None if transport is None else transport.get_extra_info("peercert"))


def _credential(http: web.Request) -> str:
    scheme, _, shown = http.headers.get("Authorization", "").partition(" ")
    return shown.strip()[: CREDENTIAL_CHARS_MAX + 1] if scheme.lower() == "bearer" else ""


def health_routes(
    live: Callable[[], bool], ready: Callable[[], tuple[bool, str]], metrics: Metrics
) -> list[web.RouteDef]:
    async def answer_live(_: web.Request) -> web.Response:
        return web.Response(text="live\n") if live() else web.Response(text="not live\n", status=503)

    async def answer_started(_: web.Request) -> web.Response:
        # A program listens only once its state is open: whoever is answered need not wait for that any more.
        return web.Response(text="started\n")

    async def answer_ready(_: web.Request) -> web.Response:
        is_ready, reason = ready()
        return web.Response(text=f"{reason or 'ready'}\n", status=200 if is_ready else 503)

    async def answer_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": _EXPOSITION_TYPE})

    return [
        web.get("/livez", answer_live),
        web.get("/readyz", answer_ready),
        web.get("/startupz", answer_started),
        web.get("/metrics", answer_metrics),
    ]


@web.middleware
async def guard_routes(request: web.Request, handler: _Page) -> web.StreamResponse:
    """Turn every refusal into an ErrorReply, and keep pages of other sites from calling through a browser."""
    try:
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise PermissionDenied(f"a page of {origin} may not call {request.host}")
        return await handler(request)
    except GfsError as error:
        return _json(error_reply(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kind = {404: NotFound, 413: FrameTooLarge}.get(error.status, InvalidArgument)
        return _json(
            error_reply(kind(f"{request.method} {request.path}: {error.reason}")), status=error.status
        )
    except ConnectionError:
        raise
    except Exception:
        _log.exception("a page failed unexpectedly", method=request.method, path=request.path)
        return _json(error_reply(InternalFault(f"{request.method} {request.path} failed; the log tells why")))


async def _read_body(http: web.Request) -> bytes:
    if http.headers.get("Content-Encoding", "identity") != "identity":
        raise InvalidArgument("the request's body is compressed; send it plain")
    if (http.content_length or 0) > FRAME_BYTES_MAX:
        raise FrameTooLarge(f"a request of {http.content_length} bytes is over {FRAME_BYTES_MAX // KIB} KiB")
    try:
        async with asyncio.timeout(HTTP_CALL_SECONDS):
            return await http.read()
    except TimeoutError as error:
        raise Unavailable(f"the request's body did not arrive within {HTTP_CALL_SECONDS} s") from error
    except web.RequestPayloadError as error:
        raise ProtocolFault("the request's body ended too early") from error


def _decode(body: bytes, decoder: msgspec.json.Decoder[Request]) -> Request:
    """An empty body is a request with all defaults. Unknown fields are refused: they are misspellings."""
    try:
        request = decoder.decode(body or b"{}")
        given = msgspec.json.decode(body or b"{}", type=dict[str, msgspec.Raw])
    except DECODE_FAULTS as error:
        raise InvalidArgument(f"the request cannot be understood: {error}") from error
    known = {field.encode_name for field in msgspec.structs.fields(request)}
    unknown = sorted(given.keys() - known - {"type"})
    if unknown:
        raise InvalidArgument(
            f"unknown field {', '.join(map(repr, unknown))}",
            hint=f"The fields are: {', '.join(sorted(known))}.",
        )
    return request


def _deadline(http: web.Request) -> float:
    text = http.headers.get(DEADLINE_HEADER, "")
    try:
        seconds = float(text) if text else HTTP_CALL_SECONDS
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= HTTP_CALL_SECONDS_MAX:
        raise InvalidArgument(f"{DEADLINE_HEADER}: {text!r} is not within 0 to {HTTP_CALL_SECONDS_MAX} s")
    return seconds


def _json(reply: Reply, headers: dict[str, str] | None = None, *, status: int = 0) -> web.Response:
    if not status:
        status = status_of(reply.code) if isinstance(reply, ErrorReply) else 200
    body = msgspec.json.encode(reply) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
