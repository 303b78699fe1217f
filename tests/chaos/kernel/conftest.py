"""What tests of layer K share: skipped by name where the machine lacks a tool, and machines in namespaces."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from chaos.kernel import machine
from chaos.kernel.network import Network
from chaos.kernel.tools import why_not

ECHO_PORT = 7000
ECHO = f"""
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            pass
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
with Server(("ADDRESS", {ECHO_PORT}), Echo) as server:
    print("listening", flush=True)
    server.serve_forever()
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("needs_tools"):
            for name in mark.args:
                if reason := why_not(name):
                    item.add_marker(pytest.mark.skip(reason=f"{name}: {reason}"))


class Echoing:
    """Two hosts, `near` and `far`; the far one sends back what it gets."""

    def __init__(self, run: machine.Run, network: Network) -> None:
        self.run, self.network = run, network
        network.add_client("client")
        network.add("far")
        network.add_client("other")

    def dial(self, seconds: float = 2.0, client: str = "client") -> socket.socket:
        address = self.network.address("far", client)
        connection = socket.create_connection((address, ECHO_PORT), seconds)
        connection.settimeout(seconds)
        return connection


@pytest.fixture
def far() -> Iterator[Echoing]:
    with machine.taken() as run:
        network = Network(run, seed=1)
        echoing = Echoing(run, network)
        server = subprocess.Popen(
            [*run.inside("far"), sys.executable, "-c", ECHO.replace("ADDRESS", network.address("far"))],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "listening\n"
            yield echoing
        finally:
            network.close()
            server.kill()
            server.wait()
            server.stdout.close()


def said(connection: socket.socket, data: bytes) -> bytes:
    """What comes back of `data`."""
    connection.sendall(data)
    answer = b""
    while len(answer) < len(data):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"closed after {len(answer)} of {len(data)} bytes")
        answer += piece
    return answer
