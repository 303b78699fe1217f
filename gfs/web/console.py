"""The console of one master as routes of its control port: pages, their JSON, streams, actions, static files.

Reading asks for no more than any client may. Acting takes a session (see signing_in), a POST, and a page of
this very origin. Nothing is loaded from elsewhere and nothing in a page is a script or a style of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from gfs.clock import Clock
from gfs.errors import GfsError, InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from gfs.messages.base import Identity
from gfs.settings import Settings
from gfs.transport.data_client import DataClient
from gfs.transport.frames import error_reply
from gfs.transport.http_methods import status_of
from gfs.transport.interface import Gate, Handlers, RpcCaller
from gfs.vocabulary import Address, MasterId
from gfs.web.actions import ACTIONS, Action, outcome
from gfs.web.asking import Asked, Asker, Caller
from gfs.web.limits import ACT_SECONDS, FORM_BYTES_MAX, LIVE_SECONDS, SESSION_SECONDS
from gfs.web.live import LiveParts, next_event
from gfs.web.page import Page
from gfs.web.pages_chunks import chunk_pages
from gfs.web.pages_cluster import cluster_pages
from gfs.web.pages_diagnosis import diagnosis_pages
from gfs.web.pages_files import file_pages
from gfs.web.preview import Previewer
from gfs.web.rendering import Frame, Renderer
from gfs.web.signing_in import COOKIE, Door, Doorkeeper, TokenDoor
from gfs.web.static_files import StaticFiles
from gfs.web.traffic import Traffic, Vitals

PLACE = "/ui/"

_Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Console:
    """Made with its master; begun and ended with the server that has its routes, by alongside()."""

    def __init__(
        self,
        handlers: Handlers,
        *,
        me: MasterId,
        address: Address,
        settings: Settings,
        secret: bytes,
        superuser: str,
        rpc: RpcCaller,
        vitals: Callable[[], Vitals],
        clock: Clock,
        gate: Gate | None,
        known: Callable[[str], object] | None,
    ) -> None:
        """`secret`: what signs in where no tokens are wanted; empty: nobody does. Where they are, `known`
        raises Unauthenticated for one that is none, and `gate` judges every call by it.
        """
        self._me = me
        self._asker = Asker(handlers, clock, me=address, gate=gate)
        self._door: Door = Doorkeeper(secret, clock) if known is None else TokenDoor(known)
        self._superuser = Identity(superuser)
        self._live = LiveParts(clock)
        self._traffic = Traffic(vitals, clock)
        self._bulk = DataClient(congestion_control="")
        self._ending = asyncio.Event()
        self._renderer = Renderer()
        self._static = StaticFiles()
        pages = [
            *cluster_pages(self._traffic.series),
            *chunk_pages(rpc),
            *file_pages(Previewer(self._bulk)),
            *diagnosis_pages(settings),
        ]
        self._pages = {page.place: page for page in pages}
        self._menu = [(page.place, page.menu) for page in pages if page.menu]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._to_overview),
            web.get("/ui", self._to_overview),
            web.get("/favicon.ico", self._favicon),
            web.get("/ui/static/{name}", self._file),
            web.get("/ui/sign-in", self._guarded(self._sign_in_form)),
            web.post("/ui/sign-in", self._guarded(self._sign_in)),
            web.post("/ui/sign-out", self._guarded(self._sign_out)),
            web.get("/ui/act/{action}", self._guarded(self._confirm)),
            web.post("/ui/act/{action}", self._guarded(self._act)),
            web.get("/ui/live/{place:[a-z]*}", self._guarded(self._stream)),
            web.get("/ui/{place:[a-z]*}", self._guarded(self._page)),
        ]

    async def alongside(self, _application: web.Application) -> AsyncIterator[None]:
        """As aiohttp's cleanup contexts: what goes on while the routes are served."""
        sampling = asyncio.get_running_loop().create_task(self._traffic.run(), name="console traffic")
        try:
            yield
        finally:
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling
            self._bulk.close()

    def end_streams(self) -> None:
        """The server is about to stop: whoever looks at a live page must not hold it up."""
        self._ending.set()

    # --- pages ---------------------------------------------------------------------------------

    async def _page(self, http: web.Request) -> web.StreamResponse:
        page = self._find(http)
        view = await page.gather(self._asked(http))
        if wants_json(http):
            return _json(view)
        live = f"/ui/live/{page.place}?{http.query_string}" if page.live else ""
        frame = await self._frame(http, f"{http.path_qs}")
        return _html(await self._renderer.whole(page, frame, view, live=live))

    async def _stream(self, http: web.Request) -> web.StreamResponse:
        """The page's changing part as server-sent events, until the reader has gone."""
        page = self._find(http)
        if not page.live:
            raise NotFound(f"{page.title} is no live page")
        caller = self._caller(http)
        here = f"/ui/{page.place}?{http.query_string}".removesuffix("?")

        async def render() -> bytes:
            view = await page.gather(self._asked(http))
            return await self._renderer.part(page, await self._frame(http, here), view)

        await self._live.part((here, caller), render)  # refused before a stream is begun
        self._live.enter()
        try:
            response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
            await response.prepare(http)
            while not self._ending.is_set():
                await response.write(await next_event(self._live, (here, caller), render))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LIVE_SECONDS):
                        await self._ending.wait()
            return response
        except ConnectionError:
            return response
        finally:
            self._live.leave()

    def _find(self, http: web.Request) -> Page:
        page = self._pages.get(http.match_info["place"])
        if page is None:
            raise NotFound(f"the console has no page {http.path}")
        return page

    def _asked(self, http: web.Request) -> Asked:
        return Asked(self._asker, dict(http.query), self._caller(http))

    def _caller(self, http: web.Request) -> Caller:
        return self._door.caller(_bearer(http) or http.cookies.get(COOKIE, ""), self._superuser)

    async def _frame(self, http: web.Request, here: str) -> Frame:
        caller = self._caller(http)
        status = await self._asker.status(caller)
        mine = next((master for master in status.masters if master.id == self._me), None)
        leader = next((m for m in status.masters if m.id == status.leader and m.id != self._me), None)
        return Frame(
            status=status,
            me=self._me,
            role=mine.role if mine is not None else "no member",
            scheme=http.scheme,
            leader_at=f"{http.scheme}://{leader.control}" if leader is not None else "",
            lag_entries=mine.lag_entries if mine is not None else 0,
            lag_seconds=mine.lag_seconds if mine is not None else 0.0,
            here=here,
            signed_in=caller.signed_in,
            wants_token=self._door.wants_token,
            can_sign_in=self._door.can_sign_in,
            menu=self._menu,
        )

    # --- acting --------------------------------------------------------------------------------

    async def _sign_in_form(self, http: web.Request) -> web.StreamResponse:
        return await self._sign_in_page(http, _within(http.query.get("back", "")), "")

    async def _sign_in(self, http: web.Request) -> web.StreamResponse:
        _require_same_origin(http)
        form = await _form(http)
        back = _within(form.get("back", ""))
        try:
            token = await self._door.sign_in(form.get("secret", ""))
        except (PermissionDenied, Unauthenticated) as error:
            if wants_json(http):
                raise
            return await self._sign_in_page(http, back, error.message, status=403)
        response = web.Response(status=303, headers={**_HEADERS, "Location": back})
        response.set_cookie(
            COOKIE,
            token,
            max_age=SESSION_SECONDS,
            path="/ui",
            httponly=True,
            samesite="Strict",
            secure=http.secure,
        )
        return response

    async def _sign_in_page(
        self, http: web.Request, back: str, refused: str, *, status: int = 200
    ) -> web.StreamResponse:
        frame = None
        with suppress(GfsError):
            frame = await self._frame(http, "/ui/sign-in")
        body = await self._renderer.plain(
            "sign_in.html", frame=frame, back=back, refused=refused, door=self._door
        )
        return _html(body, status=status)

    async def _sign_out(self, http: web.Request) -> web.StreamResponse:
        _require_same_origin(http)
        response = web.Response(status=303, headers={**_HEADERS, "Location": PLACE})
        response.del_cookie(COOKIE, path="/ui")
        return response

    async def _confirm(self, http: web.Request) -> web.StreamResponse:
        name, action = _action(http)
        fields = _fields(action, dict(http.query))
        frame = await self._frame(http, http.path_qs)
        question = action.question.format(**fields)
        return _html(
            await self._renderer.plain(
                "confirm.html", frame=frame, name=name, action=action, fields=fields, question=question
            )
        )

    async def _act(self, http: web.Request) -> web.StreamResponse:
        """Raises: Unauthenticated, PermissionDenied; what the request is refused with."""
        _, action = _action(http)
        if bearer := _bearer(http):
            await self._door.check(bearer)  # a program: no browser sends this along by itself
            caller = self._door.caller_of_program(bearer, self._superuser)
        else:
            _require_same_origin(http)
            caller = self._caller(http)
            if not caller.signed_in:
                raise Unauthenticated("nobody is signed in, so nothing is done", hint="Sign in first.")
        request = action.request(_fields(action, await _form(http)))
        reply = await self._asker.ask(request, request.reply, caller, seconds=ACT_SECONDS)
        self._asker.forget_status()  # what was done is to be seen on the next page
        if wants_json(http):
            return _json(reply)
        frame = await self._frame(http, http.path)
        return _html(
            await self._renderer.plain("done.html", frame=frame, action=action, notes=outcome(reply))
        )

    # --- the rest ------------------------------------------------------------------------------

    async def _to_overview(self, _http: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={**_HEADERS, "Location": PLACE})

    async def _favicon(self, http: web.Request) -> web.StreamResponse:
        return self._static.answer("icon.svg", http.headers.get("If-None-Match", ""), _HEADERS)

    async def _file(self, http: web.Request) -> web.StreamResponse:
        name = http.match_info["name"]
        return self._static.answer(name, http.headers.get("If-None-Match", ""), _HEADERS)

    def _guarded(self, handler: _Answer) -> _Answer:
        """Refusals become pages for people, ErrorReply for programs. Faults of ours go on to the server's
        guard, which tells the log."""

        async def answer(http: web.Request) -> web.StreamResponse:
            try:
                return await handler(http)
            except GfsError as error:
                return await self._refusal(http, error)

        return answer

    async def _refusal(self, http: web.Request, error: GfsError) -> web.StreamResponse:
        status = status_of(error.code)
        if wants_json(http):
            return _json(error_reply(error), status=status)
        frame = None
        with suppress(GfsError):
            frame = await self._frame(http, http.path_qs)
        here = http.path_qs if http.method == "GET" else PLACE
        body = await self._renderer.plain(
            "refused.html", frame=frame, error=error, here=here, door=self._door
        )
        return _html(body, status=status)


def _bearer(http: web.Request) -> str:
    scheme, _, shown = http.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else ""


def wants_json(http: web.Request) -> bool:
    """Whether a program asks: a browser names text/html first."""
    accept = http.headers.get(hdrs.ACCEPT, "")
    return "application/json" in accept and "text/html" not in accept


def _require_same_origin(http: web.Request) -> None:
    """Raises: PermissionDenied. A browser names the origin of every page that posts."""
    origin = http.headers.get(hdrs.ORIGIN)
    if origin is None or urlsplit(origin).netloc != http.host:
        raise PermissionDenied(
            f"a page of {origin or 'an origin that is not told'} may not act on {http.host}",
            hint="Programs send the cluster's secret as 'Authorization: Bearer …' instead of a cookie.",
        )


async def _form(http: web.Request) -> dict[str, str]:
    """Raises: InvalidArgument."""
    if (http.content_length or 0) > FORM_BYTES_MAX:
        raise InvalidArgument(f"a form of {http.content_length} bytes: {FORM_BYTES_MAX} at most")
    if http.content_type != "application/x-www-form-urlencoded":
        raise InvalidArgument(f"{http.content_type} is no form", hint="application/x-www-form-urlencoded is.")
    return {name: value for name, value in (await http.post()).items() if isinstance(value, str)}


def _action(http: web.Request) -> tuple[str, Action]:
    name = http.match_info["action"]
    action = ACTIONS.get(name)
    if action is None:
        raise NotFound(f"the console has no action {name[:64]!r}", hint=f"It has: {', '.join(ACTIONS)}.")
    return name, action


def _fields(action: Action, given: dict[str, str]) -> dict[str, str]:
    missing = [name for name in action.fields if not given.get(name)]
    if missing:
        raise InvalidArgument(f"the action wants {', '.join(missing)}")
    return {name: given[name] for name in action.fields}


def _within(back: str) -> str:
    """A page of the console to go on at, whatever a link says."""
    return back if back.startswith(PLACE) and "\\" not in back and "\n" not in back else PLACE


def _json(told: msgspec.Struct, *, status: int = 200) -> web.Response:
    body = msgspec.json.encode(told, enc_hook=repr) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json", headers=_HEADERS)


def _html(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="text/html", charset="utf-8", headers=_HEADERS)
