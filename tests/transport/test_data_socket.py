"""One connection of the bulk wire: time limits that hold, and cost nothing while bytes flow."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from gfs.transport.data_socket import LIMIT_SLACK_SECONDS, DataSocket
from gfs.vocabulary import KIB


class CountingSocket(socket.socket):
    """A socket that counts how often its options are set."""

    options_set = 0

    def setsockopt(self, *arguments: object) -> None:  # type: ignore[override]  # counted, whatever they are
        self.options_set += 1
        super().setsockopt(*arguments)  # type: ignore[call-overload]


@pytest.fixture
def pair() -> Iterator[tuple[CountingSocket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener, CountingSocket() as near:
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        with far:
            yield near, far


def test_the_kernel_is_told_a_limit_once_while_bytes_flow(pair: tuple[CountingSocket, socket.socket]) -> None:
    near, far = pair
    connection = DataSocket(near)
    before = near.options_set
    connection.allow(stall_seconds=30.0, total_seconds=30.0)  # as for a read: less is left at every call
    buffer = memoryview(bytearray(KIB))
    for _ in range(100):
        far.sendall(bytes(KIB))
        connection.receive_exactly(buffer)
    assert near.options_set - before <= 2 * (1 + (30.0 - connection._limit_set) / LIMIT_SLACK_SECONDS + 1)


def test_a_limit_that_has_shrunk_by_more_than_a_moment_is_told_anew(
    pair: tuple[CountingSocket, socket.socket],
) -> None:
    near, _ = pair
    connection = DataSocket(near)
    connection.allow(stall_seconds=30.0, total_seconds=30.0)
    connection._limit_call()
    connection.allow(stall_seconds=30.0, total_seconds=0.2)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        connection.receive_exactly(memoryview(bytearray(1)))
    assert 0.15 < time.monotonic() - began < 5.0


def test_a_limit_that_has_grown_is_told_anew(pair: tuple[CountingSocket, socket.socket]) -> None:
    near, _ = pair
    connection = DataSocket(near)
    connection.allow(stall_seconds=0.2, total_seconds=0.2)
    connection._limit_call()
    connection.allow(stall_seconds=30.0, total_seconds=30.0)
    connection._limit_call()
    assert connection._limit_set > 29.0
