"""One connection of the bulk wire: a blocking socket with time limits and what was received too early.

Both ends use it. It moves bytes and keeps time; heads are data_head's, meaning is its callers'.
The kernel keeps the limit of each call (SO_RCVTIMEO, SO_SNDTIMEO): a Python timeout would add a poll
to every call.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence

from gfs.errors import FrameTooLarge
from gfs.settings import HTTP_HEAD_BYTES_MAX
from gfs.transport.data_head import HEAD_END
from gfs.vocabulary import KIB

DATA_WINDOW_BYTES = 256 * KIB  # fits L2 beside its checksum work; measured best
BYTES_PER_SECOND_MIN = 256 * KIB  # a peer that moves less than this on the whole is cut off
LIMIT_SLACK_SECONDS = 0.05  # so much longer than allowed one call may wait
SEND_BY_BYTES_MAX = 1024 * KIB  # in one call, so that the time left is looked at between them
_HEAD_READ_BYTES = 4 * KIB
_TIMEVAL = struct.Struct("@ll")


class DataSocket:
    """Every call raises TimeoutError past its limit, ConnectionError or OSError when the peer is gone."""

    __slots__ = ("_deadline", "_early", "_idle_since", "_limit_set", "_stall_seconds", "socket")

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connected
        self._early = b""  # received behind the last head
        self._stall_seconds = self._deadline = self._limit_set = self._idle_since = 0.0

    def allow(self, *, stall_seconds: float, total_seconds: float) -> None:
        """From now on: a call may wait `stall_seconds` for progress, all calls together `total_seconds`."""
        assert stall_seconds > 0
        self._stall_seconds = stall_seconds
        self._deadline = time.monotonic() + total_seconds

    def allow_transfer(self, length: int, stall_seconds: float) -> None:
        """Limits for moving `length` bytes at no less than BYTES_PER_SECOND_MIN."""
        self.allow(stall_seconds=stall_seconds, total_seconds=stall_seconds + length / BYTES_PER_SECOND_MIN)

    def wait_for_request(self) -> bool:
        """Wait for the first byte of a head; False when the peer closed instead."""
        if not self._early:
            self._limit_call()
            try:
                self._early = self.socket.recv(_HEAD_READ_BYTES)
            except BlockingIOError as error:
                raise TimeoutError("no request came") from error
        return bool(self._early)

    @property
    def has_early_bytes(self) -> bool:
        return bool(self._early)

    def receive_head(self) -> bytes:
        """One head without the empty line that ends it.

        Raises: FrameTooLarge over HTTP_HEAD_BYTES_MAX; ConnectionResetError when it breaks off.
        """
        received = bytearray(self._early)
        self._early = b""
        looked_at = 0
        while (end := received.find(HEAD_END, max(0, looked_at - len(HEAD_END)))) < 0:
            looked_at = len(received)
            if looked_at > HTTP_HEAD_BYTES_MAX:
                raise FrameTooLarge(f"a head of more than {HTTP_HEAD_BYTES_MAX} bytes")
            self._limit_call()
            try:
                more = self.socket.recv(_HEAD_READ_BYTES)
            except BlockingIOError as error:
                raise TimeoutError("the head did not come to its end") from error
            if not more:
                raise ConnectionResetError(f"closed after {looked_at} bytes of a head")
            received += more
        if end > HTTP_HEAD_BYTES_MAX:
            raise FrameTooLarge(f"a head of more than {HTTP_HEAD_BYTES_MAX} bytes")
        self._early = bytes(received[end + len(HEAD_END) :])
        return bytes(received[:end])

    def receive_into(self, buffer: memoryview) -> int:
        """Receive what there is, at least one byte; 0 when the peer has closed."""
        if self._early:
            return self._take_early(buffer)
        self._limit_call()
        try:
            return self.socket.recv_into(buffer)
        except BlockingIOError as error:
            raise TimeoutError("the peer sends no more") from error

    def receive_exactly(self, buffer: memoryview) -> None:
        """Fill `buffer`. Raises: ConnectionResetError when the peer closes before that."""
        have = 0
        while have < len(buffer):
            got = self.receive_into(buffer[have:])
            if got == 0:
                raise ConnectionResetError(f"closed after {have} of {len(buffer)} bytes")
            have += got

    def send_all(self, *pieces: bytes | memoryview) -> None:
        """Send all pieces, one after the other, in as few calls as it takes."""
        waiting = [memoryview(piece) for piece in pieces]
        while waiting:
            self._limit_call()
            try:
                sent = self.socket.sendmsg(waiting) if len(waiting) > 1 else self.socket.send(waiting[0])
            except BlockingIOError as error:
                raise TimeoutError("the peer takes no more") from error
            while waiting and sent >= len(waiting[0]):
                sent -= len(waiting.pop(0))
            if sent:
                waiting[0] = waiting[0][sent:]

    def send_by(self, send: Callable[[int, int, int], int], offset: int, length: int) -> int:
        """Have `send(socket, offset, length)` send as often as it takes. Returns: bytes sent, all until it
        gave up by returning 0."""
        sent = 0
        while sent < length:
            self._limit_call()
            try:
                gone = send(self.socket.fileno(), offset + sent, min(length - sent, SEND_BY_BYTES_MAX))
            except BlockingIOError as error:
                raise TimeoutError("the peer takes no more") from error
            if gone == 0:
                break
            sent += gone
        return sent

    def send_without_waiting(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Send what the socket takes at once; may be 0. Needs no allow()."""
        try:
            return self.socket.sendmsg(pieces, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def mark_idle(self) -> None:
        self._idle_since = time.monotonic()

    def idle_seconds(self) -> float:
        return time.monotonic() - self._idle_since

    def is_stale(self) -> bool:
        """Whether a kept connection was closed, or spoke out of turn, while nobody used it."""
        if self._early:
            return True
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close_gently(self, linger_seconds: float, bytes_max: int, scratch: memoryview) -> None:
        """Close after the peer has had a chance to read our last words: unread input would reset it."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
            self.allow(stall_seconds=linger_seconds, total_seconds=linger_seconds)
            drained = 0
            while drained < bytes_max and (got := self.receive_into(scratch)):
                drained += got
        except OSError:
            pass  # gone already, which is what we wanted
        finally:
            self.socket.close()

    def _take_early(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._early))
        buffer[:count] = self._early[:count]
        self._early = self._early[count:]
        return count

    def _limit_call(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("out of time")
        limit = min(left, self._stall_seconds)
        # Time passes between any two windows; for so little of it the kernel need not be told again.
        if not limit <= self._limit_set < limit + LIMIT_SLACK_SECONDS:
            whole = int(limit)
            # A zero timeval means no limit at all.
            timeval = _TIMEVAL.pack(whole, max(1000, int((limit - whole) * 1e6)))
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
            self._limit_set = limit


def shut(connection: socket.socket) -> None:
    """Wake whoever waits on this socket, from another thread; they see it closed."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # not connected any more


def set_congestion_control(unconnected: socket.socket, name: str) -> None:
    """Ask for a TCP congestion control; "" leaves the system's. A name the kernel lacks is no error."""
    if not name:
        return
    try:
        unconnected.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode("ascii"))
    except OSError:
        pass  # a tuning, not a need: the system's own works too
