"""What is done in another network namespace without a program: rules by libnftables, the end of connections.

To start a program for each takes a busy machine tenths of a second, and faults of links come by the dozen.
"""

from __future__ import annotations

import ctypes
import functools
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from chaos.kernel.machine import CommandFailed

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
NFT_LIBRARY = "libnftables.so.1"
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
LISTENING = 10
_HEADER = "=IHHII"
_HEADER_BYTES = struct.calcsize(_HEADER)
_SOCKET_ID_BYTES = 48  # struct inet_diag_sockid
_SOCKET_ID_OFFSET = 4  # in struct inet_diag_msg


def within(namespace: str, what: Callable[[], T]) -> T:
    """Call it in a thread of its own in that namespace (its file; empty: our own). Raises: what it raises."""
    found: list[T] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            if namespace:
                _enter(namespace)
            found.append(what())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, name="inside")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]


def set_rules(text: str) -> None:
    """Commands of nft, all or none. Raises: CommandFailed with what it says to them."""
    library = _nft()
    context = library.nft_ctx_new(0)
    if not context:
        raise CommandFailed("nftables cannot be used: no netlink socket for it")
    try:
        library.nft_ctx_buffer_error(context)
        if library.nft_run_cmd_from_buffer(context, text.encode()) != 0:
            said = library.nft_ctx_get_error_buffer(context) or b""
            raise CommandFailed(f"nft: {said.decode(errors='replace').strip()}")
    finally:
        library.nft_ctx_free(context)


def end_connections(address: str) -> int:
    """Reset every TCP connection with this address at its other end. Returns how many there were."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        ids = _connections(netlink, socket.inet_aton(address))
        for socket_id in ids:
            netlink.send(_message(SOCK_DESTROY, REQUEST | ACK, socket_id))
            netlink.recv(65536)  # its end, or that it has ended already
    return len(ids)


def _connections(netlink: socket.socket, address: bytes) -> list[bytes]:
    """Their struct inet_diag_sockid, as the kernel tells it."""
    netlink.send(_message(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, bytes(_SOCKET_ID_BYTES)))
    found: list[bytes] = []
    while True:
        data = netlink.recv(1 << 20)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind == DONE:
                return found
            if kind == ERROR:
                code = struct.unpack_from("=i", data, _HEADER_BYTES)[0]
                raise CommandFailed(f"the kernel tells of no connections: {os.strerror(-code)}")
            start = _HEADER_BYTES + _SOCKET_ID_OFFSET
            socket_id = data[start : start + _SOCKET_ID_BYTES]
            if socket_id[20:24] == address:  # two ports, then the near and the far address of 16 bytes each
                found.append(socket_id)
            data = data[length + (-length % 4) :]


def _message(kind: int, flags: int, socket_id: bytes) -> bytes:
    states = 0xFFFFFFFF & ~(1 << LISTENING)
    content = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, states) + socket_id
    return struct.pack(_HEADER, _HEADER_BYTES + len(content), kind, flags, 0, 0) + content


def _enter(namespace: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
            raise CommandFailed(f"{namespace} cannot be entered: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


@functools.cache
def _nft() -> Any:  # Any: a library's functions, typed by ctypes at run time
    try:
        library = ctypes.CDLL(NFT_LIBRARY)
    except OSError as error:
        raise CommandFailed(f"{NFT_LIBRARY} is not installed") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    for name in ("nft_ctx_buffer_error", "nft_ctx_get_error_buffer", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
