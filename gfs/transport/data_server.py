"""The bulk port: blocking threads that speak the HTTP subset of messages/data.py. Knows no chunks.

One thread for each live connection, kept and reused. What is pushed or read is the DataHandler's
business; this file moves bytes between a socket and the memory the handler gives.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections import OrderedDict
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Protocol

import msgspec

from gfs.errors import (
    ConfigInvalid,
    GfsError,
    InternalFault,
    InvalidArgument,
    NoSpace,
    Overloaded,
    ProtocolFault,
    Unavailable,
)
from gfs.messages.control import ErrorReply
from gfs.messages.data import PushAnswer
from gfs.settings import PUSH_BYTES_MAX
from gfs.telemetry import logger, trace_id
from gfs.transport.data_head import CONTINUE, PushHead, ReadHead, read_request, status_of, write_answer
from gfs.transport.data_socket import DATA_WINDOW_BYTES, DataSocket, set_congestion_control, shut
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, split_address

IDLE_SECONDS = 60.0  # a kept connection without a request
STALL_SECONDS = 10.0  # a head, or a body that makes no progress
LINGER_SECONDS = 1.0  # for a refused sender to see why
ACCEPT_BACKLOG = 256
ACCEPT_PAUSE_SECONDS = 0.1

_log = logger("data_server")


class PushSink(Protocol):
    """Where one push goes. The server calls arrived() as bytes come, then finish() or abandon(), once."""

    @property
    def memory(self) -> memoryview:
        """Exactly the memory the body is received into."""
        ...

    def arrived(self, end: int) -> None:
        """memory[:end] is there. Must not raise: what goes wrong downstream is told by finish()."""
        ...

    def finish(self) -> PushAnswer:
        """All has arrived. Raises: GfsError when this hop does not keep the bytes."""
        ...

    def abandon(self) -> None:
        """The sender went away or was cut off: keep nothing."""
        ...


class ChunkReader(Protocol):
    """Verified bytes of one chunk, from the offset asked for."""

    @property
    def length(self) -> int:
        """How many bytes there are to send: the range asked for, cut back to the committed length."""
        ...

    @property
    def committed_length(self) -> int: ...

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` with verified bytes from `offset` of the chunk; short only at the committed end.

        Raises: GfsError (ChecksumMismatch, StaleVersion …): no unverified byte is ever in the buffer's
        returned part.
        """
        ...


class DataHandler(Protocol):
    """What a chunk server does with the bulk port. Called from many threads."""

    def begin_push(self, head: PushHead) -> PushSink:
        """Raises: GfsError to refuse the push before its body is read."""
        ...

    def open_read(
        self, handle: ChunkHandle, version: ChunkVersion, first: int, last: int | None
    ) -> ChunkReader:
        """`last` is inclusive and may lie past the end; None reads to the end.

        Raises: NotFound, StaleVersion.
        """
        ...


class DataServer:
    """Serves the bulk port of one chunk server between start() and stop()."""

    def __init__(
        self,
        address: Address,
        handler: DataHandler,
        *,
        connections_max: int,
        congestion_control: str,
        idle_seconds: float = IDLE_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        assert connections_max > 0
        self._wanted_address, self._handler = address, handler
        self._connections_max, self._congestion_control = connections_max, congestion_control
        self._idle_seconds, self._stall_seconds = idle_seconds, stall_seconds
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
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
        assert self._listener is not None, "not started"
        host, port = self._listener.getsockname()[:2]
        return Address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def start(self) -> None:
        """Listen. Raises: Unavailable when the port is in use, ConfigInvalid for an impossible address."""
        assert self._listener is None, "started twice"
        self._listener = _listen(self._wanted_address, self._congestion_control)
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
                _Conversation(self, connection, scratch).run()
            except OSError as error:
                _log.info("bulk connection lost", problem=str(error))
            finally:
                with self._lock:
                    self._live.discard(connection)
                    self._between_requests.pop(connection, None)
                    self._threads_waiting += 1
                connection.close()

    def _wait_for_request(self, connection: DataSocket) -> bool:
        """Wait as idle: such a connection may be closed to make room for another."""
        with self._lock:
            if self._stopping or connection.socket not in self._live:
                return False
            if not connection.has_early_bytes:
                self._between_requests[connection.socket] = None
        connection.allow(stall_seconds=self._idle_seconds, total_seconds=self._idle_seconds)
        try:
            return connection.wait_for_request()
        except OSError:
            return False  # closed, or idle for too long: nothing was asked, nothing is lost
        finally:
            with self._lock:
                self._between_requests.pop(connection.socket, None)


class _Conversation:
    """The requests of one connection, one after the other."""

    __slots__ = ("_connection", "_handler", "_peer", "_scratch", "_server", "_stall_seconds")

    def __init__(self, server: DataServer, accepted: socket.socket, scratch: memoryview) -> None:
        self._server, self._scratch = server, scratch
        self._handler, self._stall_seconds = server._handler, server._stall_seconds
        self._connection = DataSocket(accepted)
        self._peer = _peer_name(accepted)

    def run(self) -> None:
        while self._server._wait_for_request(self._connection):
            if not self._serve_one():
                return

    def _serve_one(self) -> bool:
        """Read and answer one request; False when the connection is to be closed."""
        connection = self._connection
        connection.allow(stall_seconds=self._stall_seconds, total_seconds=self._stall_seconds)
        try:
            head = read_request(connection.receive_head())
        except GfsError as error:
            return self._refuse(error, body_unread=True)
        except TimeoutError:
            return self._refuse(ProtocolFault("the head did not come in time"), body_unread=True)
        trace_id.set(head.trace)
        try:
            answered = self._push(head) if isinstance(head, PushHead) else self._read(head)
        finally:
            trace_id.set("")
        return answered and head.keep_alive

    # --- PUT -----------------------------------------------------------------------------------

    def _push(self, head: PushHead) -> bool:
        try:
            sink = self._handler.begin_push(head)
        except Exception as error:
            return self._refuse(_as_ours(error, "begin_push"), body_unread=True)
        received = False
        try:
            self._receive_body(head, sink)
            received = True
        except TimeoutError:
            return self._refuse(ProtocolFault("the body did not come in time"), body_unread=True)
        finally:
            if not received:
                sink.abandon()
        try:
            answer = msgspec.json.encode(sink.finish())
        except Exception as error:
            return self._refuse(_as_ours(error, "finish of a push"), body_unread=False)
        fields = {"Content-Type": "application/json"}
        self._connection.allow(stall_seconds=self._stall_seconds, total_seconds=self._stall_seconds)
        self._connection.send_all(write_answer(200, len(answer), fields, keep_alive=head.keep_alive), answer)
        return True

    def _receive_body(self, head: PushHead, sink: PushSink) -> None:
        connection, memory, have = self._connection, sink.memory, 0
        assert len(memory) == head.length, (len(memory), head.length)
        connection.allow_transfer(head.length, self._stall_seconds)
        if head.expects_continue and not connection.has_early_bytes:
            connection.send_all(CONTINUE)
        while have < head.length:
            got = connection.receive_into(memory[have : have + DATA_WINDOW_BYTES])
            if got == 0:
                raise ConnectionResetError(f"{self._peer} closed after {have} of {head.length} bytes")
            have += got
            sink.arrived(have)

    # --- GET -----------------------------------------------------------------------------------

    def _read(self, head: ReadHead) -> bool:
        connection = self._connection
        try:
            reader = self._handler.open_read(head.handle, head.version, head.first, head.last)
            length, committed = reader.length, reader.committed_length
            # Before the head: a first window that does not verify is still an honest error.
            window = self._read_window(reader, head.first, head.first + length) if head.with_body else b""
        except Exception as error:
            return self._refuse(_as_ours(error, "read"), body_unread=False)
        fields = {"Content-Type": "application/octet-stream", "Gfs-Length": str(committed)}
        if length == 0 and not head.whole:
            fault = InvalidArgument(f"the chunk ends at {committed}, before the range begins")
            fields = {"Gfs-Length": str(committed), "Content-Range": f"bytes */{committed}"}
            return self._refuse(fault, body_unread=False, status=416, fields=fields)
        if not head.whole:
            last = head.first + length - 1
            fields["Content-Range"] = f"bytes {head.first}-{last}/{committed}"
        connection.allow_transfer(length, self._stall_seconds)
        status = 200 if head.whole else 206
        connection.send_all(write_answer(status, length, fields, keep_alive=head.keep_alive), window)
        if not head.with_body:
            return True
        return self._send_rest(reader, head, at=head.first + len(window), end=head.first + length)

    def _send_rest(self, reader: ChunkReader, head: ReadHead, *, at: int, end: int) -> bool:
        while at < end:
            try:
                window = self._read_window(reader, at, end)
            except Exception as error:
                # The head has promised these bytes. A cut connection is the only honest answer left.
                fault = _as_ours(error, "read")
                _log.warning("read cut off", handle=head.handle, code=fault.code, problem=fault.message)
                return False
            self._connection.send_all(window)
            at += len(window)
        return True

    def _read_window(self, reader: ChunkReader, at: int, end: int) -> memoryview:
        # Windows end on multiples of their length, so that no checksum block is read twice.
        wanted = min(end, at - at % DATA_WINDOW_BYTES + DATA_WINDOW_BYTES) - at
        window = self._scratch[:wanted]
        got = reader.read_into(window, at) if wanted else 0
        if got != wanted:
            raise InternalFault(f"read {got} of {wanted} bytes at {at}, within the committed length")
        return window

    # --- refusals ------------------------------------------------------------------------------

    def _refuse(
        self,
        error: GfsError,
        *,
        body_unread: bool,
        status: int = 0,
        fields: Mapping[str, str] | None = None,
    ) -> bool:
        """Answer with an error; the connection survives only when the next request's start is known."""
        _log.info("bulk request refused", peer=self._peer, code=error.code, problem=error.message)
        reply = ErrorReply(code=error.code, message=error.message, hint=error.hint, details=error.details)
        body = msgspec.json.encode(reply)
        fields = {"Content-Type": "application/json", **(fields or {})}
        answer = write_answer(status or status_of(error), len(body), fields, keep_alive=not body_unread)
        self._connection.allow(stall_seconds=LINGER_SECONDS, total_seconds=LINGER_SECONDS)
        self._connection.send_all(answer, body)
        if body_unread:
            self._connection.close_gently(LINGER_SECONDS, PUSH_BYTES_MAX, self._scratch)
        return not body_unread


def _as_ours(error: Exception, doing: str) -> GfsError:
    """What a handler raised, as an error that may cross the wire."""
    if isinstance(error, GfsError):
        return error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return NoSpace("no space is left on this chunk server")
    _log.error("a bulk handler failed", doing=doing, exc_info=error)
    return InternalFault(f"{doing} failed on this chunk server: {type(error).__name__}")


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


def _peer_name(connection: socket.socket) -> str:
    try:
        host, port = connection.getpeername()[:2]
    except OSError:
        return "a peer that has gone"
    return f"{host}:{port}"
