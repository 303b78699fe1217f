"""Ports of a cluster on one machine: free, different, and out of the way of outgoing connections."""

from __future__ import annotations

import socket

import pytest

from gfs.errors import ConfigInvalid, Unavailable
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
    monkeypatch.setenv(ports.ENVIRONMENT_KEY, f"{first}-{first}")
    with pytest.raises(Unavailable, match="1 free ports were not found"):
        free_ports(1, but=[first])
    with socket.create_server(("127.0.0.1", first)), pytest.raises(Unavailable):
        free_ports(1)
    assert free_ports(1) == [first]


@pytest.mark.parametrize("text", ["", "20000", "20999-20000", "0-5", "60000-65536", "-5-10", "a-b"])
def test_a_range_that_is_none_is_refused_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ports.ENVIRONMENT_KEY, text)
    with pytest.raises(ConfigInvalid, match="GFS_LOCAL_PORTS"):
        free_ports(1)
