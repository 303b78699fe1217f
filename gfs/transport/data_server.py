"""The bulk port of a chunk server: listening, threads and limits. What is said on it is data_conversation's.

One blocking thread for each live connection, kept and reused: measured at the speed of C for bulk
bytes, where an event loop costs two to three times as much.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections import OrderedDict
from queue import SimpleQueue

import msgspec

from gfs.errors import ConfigInvalid, Overloaded, Unavailable
from gfs.messages.base import ErrorReply
from gfs.telemetry import logger
from gfs.transport.data_conversation import Conversation
from gfs.transport.data_handler import ChunkReader, DataGate, DataHandler, PushSink
from gfs.transport.data_head import write_answer
from gfs.transport.data_socket import DATA_WINDOW_BYTES, DataSocket, set_congestion_control, shut
from gfs.transport.interface import CallObserver
from gfs.vocabulary import Address, split_address

__all__ = ["ChunkReader", "DataHandler", "DataServer", "PushSink"]

IDLE_SECONDS = 60.0  # a kept connection without a request
STALL_SECONDS = 10.0  # a head, or a body that makes no progress
ACCEPT_BACKLOG = 256
ACCEPT_PAUSE_SECONDS = 0.1

_log = logger("data_server")


class DataServer:
    """Serves the bulk port of one chunk server between start() and stop()."""

    def __init__(
        self,
        address: Address,
        handler: DataHandler,
        *,
        connections_max: int,
        congestion_control: str,
        observer: CallObserver | None = None,
        gate: DataGate | None = None,
        idle_seconds: float = IDLE_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        assert connections_max > 0
        self._wanted_address, self._handler = address, handler
        self._connections_max, self._congestion_control = connections_max, congestion_control
        self._idle_seconds, self._stall_seconds = idle_seconds, stall_seconds
        self._observer, self._gate = observer, gate
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._bound_address: Address | None = None
        self._acceptor: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self._threads_waiting = 0
        self._accepted: SimpleQueue[socket.socket | None] = SimpleQueue()
        self._live: set[socket.socket] = set()
        self._between_requests: OrderedDict[socket.socket, None] = OrderedDict()  # longest idle first
        self._stopping = False
        self._stopped = threading.Event()

    @property
    def address(self) -> Address:
        """Where it listens; the port is the real one when port 0 was asked for."""
        assert self._bound_address is not None, "not started"
        return self._bound_address

    def start(self) -> None:
        """Listen. Raises: Unavailable when the port is in use, ConfigInvalid for an impossible address."""
        assert self._listener is None, "started twice"
        self._listener = _listen(self._wanted_address, self._congestion_control)
        host, port = self._listener.getsockname()[:2]
        self._bound_address = Address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        self._acceptor = threading.Thread(target=self._accept, name="data-accept", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Close the port and every connection, and wait for the threads. Pushes under way are abandoned."""
        with self._lock:
            if self._stopping or self._listener is None:
                return
            self._stopping = True
            self._stopped.set()
            live = list(self._live)
        shut(self._listener)  # wakes accept()
        assert self._acceptor is not None
        self._acceptor.join()
        self._listener.close()
        for connection in live:
            shut(connection)
        for _ in self._threads:
            self._accepted.put(None)
        for thread in self._threads:
            thread.join()

    # --- connections and threads ---------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    _log.error("cannot accept a bulk connection", problem=str(error))
                    with self._lock:
                        self._close_longest_idle()
                    self._stopped.wait(ACCEPT_PAUSE_SECONDS)  # it would fail again at once
                continue
            if not self._hand_over(connection):
                _log.warning("bulk connection refused: too many", connections_max=self._connections_max)
                _refuse_at_once(connection, self._connections_max)

    def _hand_over(self, connection: socket.socket) -> bool:
        """Give the connection to a thread; False when all are busy."""
        with self._lock:
            if self._stopping:
                connection.close()
                return True
            if len(self._live) >= self._connections_max and not self._close_longest_idle():
                return False
            if self._threads_waiting <= 0 and len(self._threads) < self._connections_max:
                if not self._start_thread():
                    return False
            else:
                # Below zero: the thread of the idle connection just closed takes this one next.
                self._threads_waiting -= 1
            self._live.add(connection)
            self._accepted.put(connection)
            return True

    def _start_thread(self) -> bool:
        name = f"data-{len(self._threads)}"
        thread = threading.Thread(target=self._serve_connections, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            _log.error("cannot start a thread", problem=str(error))
            return False
        self._threads.append(thread)
        return True

    def _close_longest_idle(self) -> bool:
        """Make room: an idle kept connection costs its client one reconnect, a refused one a retry."""
        if not self._between_requests:
            return False
        idle, _ = self._between_requests.popitem(last=False)
        self._live.discard(idle)
        shut(idle)
        return True

    def _serve_connections(self) -> None:
        scratch = memoryview(bytearray(DATA_WINDOW_BYTES))
        while (connection := self._accepted.get()) is not None:
            try:
                self._converse(DataSocket(connection), scratch)
            except OSError as error:
                _log.info("bulk connection lost", problem=str(error))
            except Exception as error:
                _log.error("a bulk connection failed", exc_info=error)
            finally:
                with self._lock:
                    self._live.discard(connection)
                    self._between_requests.pop(connection, None)
                    self._threads_waiting += 1
                connection.close()

    def _converse(self, connection: DataSocket, scratch: memoryview) -> None:
        conversation = Conversation(
            connection, self._handler, scratch, self._stall_seconds, self._observer, self._gate
        )
        asked_before = False
        while self._wait_for_request(connection, asked_before) and conversation.serve_one():
            asked_before = True

    def _wait_for_request(self, connection: DataSocket, asked_before: bool) -> bool:
        """Wait for the next request. A kept connection may be closed meanwhile to make room for another.

        A fresh one may not: its client would take that for a lost request, not for a stale connection.
        """
        with self._lock:
            if self._stopping or connection.socket not in self._live:
                return False
            if asked_before and not connection.has_early_bytes:
                self._between_requests[connection.socket] = None
        seconds = self._idle_seconds if asked_before else self._stall_seconds
        connection.allow(stall_seconds=seconds, total_seconds=seconds)
        try:
            return connection.wait_for_request()
        except OSError:
            return False  # closed, or idle for too long: nothing was asked, nothing is lost
        finally:
            with self._lock:
                self._between_requests.pop(connection.socket, None)


def _listen(address: Address, congestion_control: str) -> socket.socket:
    host, port = split_address(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigInvalid(f"cannot resolve the data address {address}: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        set_congestion_control(listener, congestion_control)  # accepted connections inherit it
        listener.bind(where)
        listener.listen(ACCEPT_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"cannot listen on the data address {address}: it is in use",
                hint="Another program, or another chunk server, has this port.",
            ) from error
        raise ConfigInvalid(f"cannot listen on the data address {address}: {error.strerror}") from error
    return listener


def _refuse_at_once(connection: socket.socket, connections_max: int) -> None:
    """503 without a thread: whatever the socket does not take at once is lost, and so be it."""
    error = Overloaded(f"all {connections_max} bulk connections of this chunk server are in use")
    body = msgspec.json.encode(ErrorReply(code=error.code, message=error.message))
    fields = {"Content-Type": "application/json", "Retry-After": "1"}
    try:
        connection.setblocking(False)
        connection.send(write_answer(503, len(body), fields, keep_alive=False) + body)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    finally:
        connection.close()
