"""The stand-in's API, as Toxiproxy 2 has it: `python -m chaos.toxiproxy.standin --port N`."""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from chaos.toxiproxy.standin.pipes import Proxy
from chaos.toxiproxy.standin.toxics import KINDS, STREAMS, ToxicSpec

VERSION = "2.12.0-standin"


class _ProxyInput(msgspec.Struct):
    name: str = ""
    upstream: str = ""
    listen: str = ""
    enabled: bool = True


class _ProxyChange(msgspec.Struct):
    upstream: str = ""
    listen: str = ""
    enabled: bool | None = None


class _ToxicChange(msgspec.Struct):
    attributes: dict[str, int] = {}
    toxicity: float | None = None


class _Refused(Exception):
    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class StandIn:
    """All proxies, and the handlers of the API."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._proxies: dict[str, Proxy] = {}

    def application(self) -> web.Application:
        made = web.Application(middlewares=[_answered])
        routes = made.router
        routes.add_get("/version", self._version)
        routes.add_post("/reset", self._reset)
        routes.add_get("/proxies", self._list)
        routes.add_post("/proxies", self._create)
        routes.add_get("/proxies/{proxy}", self._show)
        routes.add_post("/proxies/{proxy}", self._update)
        routes.add_patch("/proxies/{proxy}", self._update)
        routes.add_delete("/proxies/{proxy}", self._delete)
        routes.add_get("/proxies/{proxy}/toxics", self._list_toxics)
        routes.add_post("/proxies/{proxy}/toxics", self._create_toxic)
        routes.add_get("/proxies/{proxy}/toxics/{toxic}", self._show_toxic)
        routes.add_post("/proxies/{proxy}/toxics/{toxic}", self._update_toxic)
        routes.add_patch("/proxies/{proxy}/toxics/{toxic}", self._update_toxic)
        routes.add_delete("/proxies/{proxy}/toxics/{toxic}", self._delete_toxic)
        return made

    # --- proxies --------------------------------------------------------------------------------

    async def _version(self, _request: web.Request) -> web.Response:
        return _json({"version": VERSION})

    async def _reset(self, _request: web.Request) -> web.Response:
        for proxy in self._proxies.values():
            if not proxy.enabled:
                await proxy.enable()
            for toxic in _toxics(proxy):
                proxy.remove(toxic)
        return web.Response(status=204)

    async def _list(self, _request: web.Request) -> web.Response:
        return _json({name: _described(proxy) for name, proxy in self._proxies.items()})

    async def _create(self, request: web.Request) -> web.Response:
        asked = await _body(request, _ProxyInput)
        for field in ("name", "upstream"):
            if not getattr(asked, field):
                raise _Refused(400, f"missing required field: {field}")
        if asked.name in self._proxies:
            raise _Refused(409, "proxy already exists")
        proxy = Proxy(asked.name, asked.listen or "127.0.0.1:0", asked.upstream, self._chance)
        if asked.enabled:
            await proxy.enable()
        self._proxies[asked.name] = proxy
        return _json(_described(proxy), status=201)

    async def _show(self, request: web.Request) -> web.Response:
        return _json(_described(self._proxy(request)))

    async def _update(self, request: web.Request) -> web.Response:
        proxy, asked = self._proxy(request), await _body(request, _ProxyChange)
        enabled = proxy.enabled if asked.enabled is None else asked.enabled
        listen, upstream = asked.listen or proxy.listen, asked.upstream or proxy.upstream
        if proxy.enabled and (not enabled or (listen, upstream) != (proxy.listen, proxy.upstream)):
            await proxy.disable()
        proxy.listen, proxy.upstream = listen, upstream
        if enabled and not proxy.enabled:
            await proxy.enable()
        return _json(_described(proxy))

    async def _delete(self, request: web.Request) -> web.Response:
        proxy = self._proxy(request)
        await proxy.disable()
        del self._proxies[proxy.name]
        return web.Response(status=204)

    # --- toxics ---------------------------------------------------------------------------------

    async def _list_toxics(self, request: web.Request) -> web.Response:
        return _json(_toxics(self._proxy(request)))

    async def _create_toxic(self, request: web.Request) -> web.Response:
        proxy, asked = self._proxy(request), await _body(request, ToxicSpec)
        stream = asked.stream.lower()
        if stream not in STREAMS:
            raise _Refused(400, "stream was invalid, can be either upstream or downstream")
        if asked.type not in KINDS:
            raise _Refused(400, "invalid toxic type")
        toxic = msgspec.structs.replace(asked, stream=stream, name=asked.name or f"{asked.type}_{stream}")
        if proxy.toxic(toxic.name) is not None:
            raise _Refused(409, "toxic already exists")
        proxy.add(toxic)
        return _json(toxic)

    async def _show_toxic(self, request: web.Request) -> web.Response:
        return _json(self._toxic(request)[1])

    async def _update_toxic(self, request: web.Request) -> web.Response:
        proxy, toxic = self._toxic(request)
        asked = await _body(request, _ToxicChange)
        changed = msgspec.structs.replace(
            toxic,
            attributes={**toxic.attributes, **asked.attributes},
            toxicity=toxic.toxicity if asked.toxicity is None else asked.toxicity,
        )
        proxy.update(toxic, changed)
        return _json(changed)

    async def _delete_toxic(self, request: web.Request) -> web.Response:
        proxy, toxic = self._toxic(request)
        proxy.remove(toxic)
        return web.Response(status=204)

    def _proxy(self, request: web.Request) -> Proxy:
        proxy = self._proxies.get(request.match_info["proxy"])
        if proxy is None:
            raise _Refused(404, "proxy not found")
        return proxy

    def _toxic(self, request: web.Request) -> tuple[Proxy, ToxicSpec]:
        proxy = self._proxy(request)
        toxic = proxy.toxic(request.match_info["toxic"])
        if toxic is None:
            raise _Refused(404, "toxic not found")
        return proxy, toxic


async def _body(request: web.Request, kind: type[Any]) -> Any:  # Any: msgspec makes a `kind`
    try:
        return msgspec.json.decode(await request.read(), type=kind, strict=False)
    except msgspec.DecodeError as error:
        raise _Refused(400, f"bad request body: {error}") from error


def _json(value: Any, status: int = 200) -> web.Response:  # Any: what msgspec encodes
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _toxics(proxy: Proxy) -> list[ToxicSpec]:
    return [toxic for stream in STREAMS for toxic in proxy.toxics[stream]]


def _described(proxy: Proxy) -> dict[str, Any]:  # Any: JSON
    return {
        "name": proxy.name,
        "listen": proxy.listen,
        "upstream": proxy.upstream,
        "enabled": proxy.enabled,
        "toxics": _toxics(proxy),
    }


@web.middleware
async def _answered(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.headers.get("User-Agent", "").startswith("Mozilla/"):
        return web.Response(status=403)  # a page in a browser must not reach it
    try:
        return await handler(request)
    except _Refused as error:
        return _json({"error": str(error), "status": error.status}, status=error.status)
    except OSError as error:
        return _json({"error": str(error), "status": 500}, status=500)


async def _serve(port: int, seed: int) -> None:
    runner = web.AppRunner(StandIn(seed).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.toxiproxy.standin", description=__doc__)
    parser.add_argument("--port", type=int, default=8474, help="of the API, on loopback")
    parser.add_argument("--seed", type=int, default=0, help="of jitter, toxicity and slices")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, arguments.seed))


if __name__ == "__main__":
    main()
