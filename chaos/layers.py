"""The three layers by name: how each runs a body of work over its testbed. Imports a layer only when asked.

Each layer's package (`chaos.simulation`, `chaos.toxiproxy`, `chaos.kernel`) offers in its module `entry`:

    powers: frozenset[Power]          what it can do to a cluster on this machine
    missing: dict[str, str]           why it cannot do the rest: power -> reason ("": none of it, because)
    def run(plan, directory, body):   make a testbed of plan.configuration (not started) with its files below
                                      `directory`, run `await body(testbed)` to its end in the layer's own
                                      time (virtual or real), take all down, and return what body returned

`run` is called once in a process or often, one after the other, and leaves nothing behind but `directory`.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar, cast

from chaos.plan import Plan
from chaos.testbed import Layer, Power, Testbed

T = TypeVar("T")

LAYERS: dict[Layer, str] = {
    "sim": "chaos.simulation.entry",
    "toxi": "chaos.toxiproxy.entry",
    "kernel": "chaos.kernel.entry",
}


class LayerEntry(Protocol):
    @property
    def powers(self) -> frozenset[Power]: ...

    @property
    def missing(self) -> Mapping[str, str]: ...

    def run(self, plan: Plan, directory: str, body: Callable[[Testbed], Awaitable[T]]) -> T: ...


class NoSuchLayer(Exception):
    """This installation has no such layer; the text says what is missing."""


def entry(layer: Layer) -> LayerEntry:
    """Raises: NoSuchLayer."""
    try:
        module = importlib.import_module(LAYERS[layer])
    except ImportError as error:
        raise NoSuchLayer(f"layer {layer} cannot be loaded here: {error}") from error
    return cast(LayerEntry, module)
