"""Each fault of a link is seen to bite real connections between namespaces, and to be gone when healed."""

from __future__ import annotations

import socket
import time

import pytest

from chaos.kernel.network import HARNESS
from tests.chaos.kernel.conftest import Echoing, said

CLIENT = "client"

pytestmark = [pytest.mark.needs_tools("namespaces"), pytest.mark.timeout(60)]
HELLO = b"hello" * 200


@pytest.mark.needs_tools("nft", "reset")
def test_a_cut_link_resets_connections_and_refuses_new_ones(far: Echoing) -> None:
    connection = far.dial()
    assert said(connection, HELLO) == HELLO
    far.network.cut(CLIENT, "far")
    with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
        said(connection, HELLO)
    with pytest.raises(ConnectionRefusedError):
        far.dial()
    far.network.heal(CLIENT, "far")
    assert said(far.dial(), HELLO) == HELLO


@pytest.mark.needs_tools("nft", "reset")
def test_a_dropped_direction_is_silent_and_its_connections_end_when_it_is_healed(far: Echoing) -> None:
    connection = far.dial(0.3)
    far.network.drop(CLIENT, "far")
    with pytest.raises(TimeoutError):
        said(connection, HELLO)
    with pytest.raises(TimeoutError):
        far.dial(0.3)
    far.network.heal(CLIENT, "far")
    with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
        said(connection, HELLO)
    assert said(far.dial(), HELLO) == HELLO


@pytest.mark.needs_tools("nft")
def test_what_is_held_back_arrives_late(far: Echoing) -> None:
    connection = far.dial(0.3)
    far.network.hold("far", CLIENT)
    with pytest.raises(TimeoutError):
        said(connection, HELLO)
    far.network.heal_all()
    connection.settimeout(10)
    assert connection.recv(len(HELLO), socket.MSG_WAITALL) == HELLO


@pytest.mark.needs_tools("shaping")
@pytest.mark.parametrize(("source", "target"), [(CLIENT, "far"), ("far", CLIENT)])
def test_a_throttled_link_is_as_slow_as_asked(far: Echoing, source: str, target: str) -> None:
    connection = far.dial(10)
    far.network.throttle(source, target, bytes_per_second=200_000)
    began = time.monotonic()
    said(connection, bytes(150_000))
    assert 0.5 < time.monotonic() - began < 5
    far.network.throttle(source, target, bytes_per_second=100_000_000)  # changed while it holds
    said(connection, bytes(150_000))
    far.network.heal(source, target)
    began = time.monotonic()
    said(connection, bytes(150_000))
    assert time.monotonic() - began < 0.5


@pytest.mark.needs_tools("nfqueue")
def test_a_slow_link_delays_every_packet(far: Echoing) -> None:
    connection = far.dial()
    far.network.slow(CLIENT, "far", seconds=0.15, jitter=0.02)
    began = time.monotonic()
    assert said(connection, HELLO) == HELLO
    assert 0.13 <= time.monotonic() - began < 1
    far.network.heal_all()
    assert said(connection, HELLO) == HELLO


@pytest.mark.needs_tools("nfqueue")
def test_packets_are_lost_doubled_reordered_and_spoilt_and_tcp_delivers_all_the_same(far: Echoing) -> None:
    connection = far.dial(20)
    far.network.packets(CLIENT, "far", loss=0.05, reorder=0.1, duplicate=0.1, corrupt=0.05)
    data = bytes(range(256)) * 1000
    assert said(connection, data) == data
    counts = far.network.counts(CLIENT, "far")
    assert min(counts.values()) > 0, counts
    far.network.heal_all()
    assert said(far.dial(), HELLO) == HELLO


@pytest.mark.needs_tools("nft", "reset")
def test_a_connection_ends_at_its_limit_or_when_it_is_reset(far: Echoing) -> None:
    connection = far.dial()
    far.network.limit(CLIENT, "far", limit_bytes=50_000)
    assert said(connection, bytes(10_000)) == bytes(10_000)
    with pytest.raises((ConnectionError, TimeoutError)):
        said(connection, bytes(200_000))
    far.network.heal(CLIENT, "far")
    connection = far.dial()
    far.network.reset("far", CLIENT)
    with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
        said(connection, HELLO)


@pytest.mark.needs_tools("nft")
def test_a_slicing_link_takes_small_pieces_only(far: Echoing) -> None:
    far.network.slice(CLIENT, "far", piece_bytes=100)
    connection = far.dial()
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 100
    assert said(connection, HELLO) == HELLO
    far.network.heal(CLIENT, "far")
    assert far.dial().getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > 500


@pytest.mark.needs_tools("nft", "reset", "nfqueue", "shaping")
def test_one_fault_of_a_pair_leaves_other_pairs_alone(far: Echoing) -> None:
    far.network.add("near")
    far.network.drop("near", "far")
    far.network.throttle("near", "far", bytes_per_second=2000)
    far.network.packets("near", "far", loss=1.0)
    assert said(far.dial(), HELLO) == HELLO


@pytest.mark.needs_tools("nft", "reset", "nfqueue", "shaping")
def test_clients_of_one_process_are_told_apart_and_the_harness_is_never_hurt(far: Echoing) -> None:
    other, own = far.dial(client="other"), far.dial(client=HARNESS)
    hurt = far.dial(0.3)
    far.network.drop(CLIENT, "far")
    far.network.hold("far", CLIENT)
    far.network.throttle(CLIENT, "far", bytes_per_second=2000)
    far.network.packets(CLIENT, "far", loss=1.0)
    with pytest.raises(TimeoutError):
        said(hurt, HELLO)
    far.network.reset(CLIENT, "far")
    assert said(other, HELLO) == HELLO
    assert said(own, HELLO) == HELLO
