"""How a program reaches others and is reached: what its callers and ports are made of. Makes none itself.

The one seam under all wires: a harness that has many programs live in one process gives them others.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfs.transport.data_client import DataClient
from gfs.transport.data_server import DataServer
from gfs.transport.websocket_client import WebSocketCaller
from gfs.transport.websocket_server import ControlServer


@dataclass(frozen=True, slots=True)
class Wires:
    caller: type[WebSocketCaller] = WebSocketCaller
    control_server: type[ControlServer] = ControlServer
    bulk_client: type[DataClient] = DataClient
    bulk_server: type[DataServer] = DataServer


SOCKETS = Wires()
