"""Ports of a cluster on one machine: free, different, and out of the way of outgoing connections."""

from __future__ import annotations

import socket

import pytest

from gfs.errors import Unavailable
from gfs.local import ports
from gfs.local.ports import FREE_FIRST, free_ports


def test_they_differ_are_free_and_no_connection_is_given_them() -> None:
    found = free_ports(50)
    assert len(set(found)) == 50
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as text:
        outgoing_first = int(text.read().split()[0])
    assert all(FREE_FIRST <= port < outgoing_first for port in found)
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()


def test_one_that_is_taken_or_excluded_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_ports(1)[0]
    monkeypatch.setattr(ports, "FREE_FIRST", first)
    monkeypatch.setattr(ports, "FREE_LAST", first)
    with pytest.raises(Unavailable, match="1 free ports were not found"):
        free_ports(1, but=[first])
    with socket.create_server(("127.0.0.1", first)), pytest.raises(Unavailable):
        free_ports(1)
    assert free_ports(1) == [first]
