"""Orders to one Toxiproxy server, by toxiproxy-python: its only door. Blocking; from any thread.

What that library leaves open is closed here: it waits for ever for an answer, takes a refusal (403, 500) for
success or fails on it with KeyError, lets through raw errors of requests, answers no `add_toxic`, and takes
names that can never be read again.
The server's address is an attribute of a class of the library's: one server at a time in one process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import requests
import toxiproxy
from toxiproxy import api as library_api
from toxiproxy import exceptions as library_exceptions

# Removing a toxic may never be answered (the server's issue 558). Where it holds bytes for a connection whose
# end is gone, it is answered after 5 s for each piece that is held, of which there are up to three.
ANSWER_SECONDS_MAX = 20.0
NAME = re.compile(r"^[a-z0-9._-]{1,100}$")  # a name with a slash can never be deleted

STREAMS = ("upstream", "downstream")
TOXIC_KINDS = (
    "latency",
    "bandwidth",
    "slow_close",
    "timeout",
    "slicer",
    "limit_data",
    "reset_peer",
)
assert len(TOXIC_KINDS) == 7


class ToxiproxyFault(Exception):
    """The server refused an order; the text says which, and its words."""


class ToxiproxySilent(ToxiproxyFault):
    """The server cannot be reached, or does not answer: nobody knows whether the order was followed."""


class NoSuchThing(ToxiproxyFault):
    """The server knows no such proxy, or no such toxic of it."""


class Toxic(msgspec.Struct, frozen=True):
    """A fault of one direction of a proxy. `upstream`: what the dialling side sends."""

    name: str  # unique in its proxy, also over streams
    kind: str
    stream: str
    attributes: dict[str, int] = {}
    toxicity: float = 1.0  # drawn for each connection, not for each packet


class SeenProxy(msgspec.Struct, frozen=True):
    """A proxy as the server tells of it."""

    name: str
    listen: str
    upstream: str
    enabled: bool
    toxics: list[dict[str, Any]] = []  # Any: the server's JSON


class _Requests:
    """In place of the library's `requests`: each thread keeps its connection, and waits a limited time."""

    def __init__(self) -> None:
        self._local = threading.local()

    def get(self, **arguments: Any) -> requests.Response:  # Any: of requests
        return self._order("GET", **arguments)

    def post(self, **arguments: Any) -> requests.Response:
        return self._order("POST", **arguments)

    def delete(self, **arguments: Any) -> requests.Response:
        return self._order("DELETE", **arguments)

    def _order(self, method: str, **arguments: Any) -> requests.Response:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # no proxy of the user's between us and loopback
        try:
            response = session.request(method, timeout=ANSWER_SECONDS_MAX, **arguments)
        except requests.RequestException as error:
            raise ToxiproxySilent(f"{method} {arguments['url']} was not answered: {error}") from error
        if response.status_code == 403 or response.status_code >= 500:
            raise ToxiproxyFault(
                f"{method} {arguments['url']}: {response.status_code}: {response.text.strip()}"
            )
        return response


_requests = _Requests()
_REFUSALS: dict[type[Exception], type[ToxiproxyFault]] = {
    library_exceptions.ProxyExists: ToxiproxyFault,
    library_exceptions.InvalidToxic: ToxiproxyFault,
    library_exceptions.NotFound: NoSuchThing,
}


class Control:
    """Raises: ToxiproxyFault, ToxiproxySilent, from every method."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port = port
        library_api.requests = _requests
        self._server = toxiproxy.Toxiproxy()
        self._server.update_api_consumer(host, port)

    def version(self) -> str:
        """Of the server, such as `2.12.0`."""
        with _readable("ask for the version"):
            answer = library_api.APIConsumer.get("/version").content
        return str(msgspec.json.decode(answer)["version"])

    def proxies(self) -> dict[str, SeenProxy]:
        with _readable("list proxies"):
            answer = library_api.APIConsumer.get("/proxies").content
        return msgspec.json.decode(answer, type=dict[str, SeenProxy])

    def create(self, name: str, *, listen: str, upstream: str) -> None:
        """A proxy that passes everything on. `listen` must be free: the server's word on that is a 500."""
        assert NAME.match(name), name
        with _readable(f"create {name}"):
            self._server.create(upstream=upstream, name=name, listen=listen, enabled=True)

    def destroy(self, name: str) -> None:
        with _readable(f"delete {name}"):
            _proxy(name).destroy()

    def enable(self, name: str) -> None:
        with _readable(f"enable {name}"):
            _proxy(name).enable()

    def disable(self, name: str) -> None:
        """End all connections, and stop listening."""
        with _readable(f"disable {name}"):
            _proxy(name).disable()

    def add_toxic(self, proxy: str, toxic: Toxic) -> None:
        assert NAME.match(toxic.name), toxic.name
        assert toxic.kind in TOXIC_KINDS and toxic.stream in STREAMS, toxic
        with _readable(f"add {toxic.kind} to {proxy}"):
            _proxy(proxy).add_toxic(
                name=toxic.name,
                type=toxic.kind,
                stream=toxic.stream,
                toxicity=toxic.toxicity,
                attributes=toxic.attributes,
            )

    def change_toxic(self, proxy: str, name: str, **attributes: int) -> None:
        """Other attributes for a toxic that is there. The library has no word for it, but its own caller."""
        with _readable(f"change {name} of {proxy}"):
            library_api.APIConsumer.post(f"/proxies/{proxy}/toxics/{name}", json={"attributes": attributes})

    def remove_toxic(self, proxy: str, name: str) -> None:
        with _readable(f"remove {name} from {proxy}"):
            _proxy(proxy).destroy_toxic(name)


def _proxy(name: str) -> Any:  # Any: the library has no types
    # The library's own copy of listen, upstream and enabled goes stale; orders need the name only.
    return toxiproxy.proxy.Proxy(name=name, listen="", upstream="", enabled=True)


@contextmanager
def _readable(order: str) -> Iterator[None]:
    """Turns what the library raises into a ToxiproxyFault that names the order."""
    try:
        yield
    except tuple(_REFUSALS) as error:
        words = error.args[0] if error.args else ""
        text = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
        raise _REFUSALS[type(error)](f"could not {order}: {text.strip()}") from error
    except (KeyError, msgspec.DecodeError, requests.exceptions.JSONDecodeError) as error:
        raise ToxiproxyFault(f"could not {order}: the answer was not understood") from error
