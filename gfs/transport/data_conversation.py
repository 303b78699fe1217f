"""The requests of one bulk connection, one after the other: read the head, move the bytes, answer.

What is pushed or read is the DataHandler's business; threads and listening are data_server's.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from gfs.errors import GfsError, InternalFault, InvalidArgument, NoSpace, ProtocolFault
from gfs.messages.base import ErrorReply
from gfs.settings import PUSH_BYTES_MAX
from gfs.telemetry import logger, trace_id
from gfs.transport.data_handler import ChunkReader, DataGate, DataHandler, PushSink
from gfs.transport.data_head import (
    CONTINUE,
    PushHead,
    ReadHead,
    checksums_text,
    read_request,
    status_of,
    write_answer,
)
from gfs.transport.data_socket import DATA_WINDOW_BYTES, DataSocket
from gfs.transport.interface import CallObserver

LINGER_SECONDS = 1.0  # for a refused sender to see why

_log = logger("data_server")


class Conversation:
    """The requests of one connection, one after the other."""

    __slots__ = (
        "_code",
        "_connection",
        "_gate",
        "_handler",
        "_observer",
        "_peer",
        "_scratch",
        "_stall_seconds",
    )

    def __init__(
        self,
        connection: DataSocket,
        handler: DataHandler,
        scratch: memoryview,
        stall_seconds: float,
        observer: CallObserver | None = None,
        gate: DataGate | None = None,
    ) -> None:
        assert len(scratch) == DATA_WINDOW_BYTES
        self._connection, self._handler = connection, handler
        self._scratch, self._stall_seconds = scratch, stall_seconds
        self._peer = _peer_name(connection.socket)
        self._observer, self._gate = observer, gate
        self._code = "ok"  # of the request that is being answered

    def serve_one(self) -> bool:
        """Read and answer one request; False when the connection is to be closed.

        Raises: OSError when the peer is gone. Nothing of a broken push is kept by then.
        """
        connection = self._connection
        connection.allow(stall_seconds=self._stall_seconds, total_seconds=self._stall_seconds)
        try:
            head = read_request(connection.receive_head())
        except GfsError as error:
            return self._refuse(error, body_unread=True)
        except TimeoutError:
            return self._refuse(ProtocolFault("the head did not come in time"), body_unread=True)
        trace_id.set(head.trace)
        self._code, started = "connection_lost", time.perf_counter()
        try:
            answered = self._push(head) if isinstance(head, PushHead) else self._read(head)
        finally:
            trace_id.set("")
            if self._observer is not None:
                self._observe(self._observer, head, time.perf_counter() - started)
        return answered and head.keep_alive

    def _observe(self, observer: CallObserver, head: PushHead | ReadHead, seconds: float) -> None:
        if isinstance(head, PushHead):
            method, moved_bytes = "bulk_push", head.length
            told: dict[str, Any]  # Any: numbers, strings, addresses
            told = {"push": head.push_id, "offset": head.offset, "chain": list(head.chain)}
        else:
            method, moved_bytes = "bulk_read", 0 if head.last is None else head.last + 1 - head.first
            told = {"handle": head.handle, "version": head.version, "first": head.first, "last": head.last}
        observer.moved(
            method,
            told,
            peer=self._peer,
            trace=head.trace,
            code=self._code,
            seconds=seconds,
            moved_bytes=moved_bytes,
        )

    # --- PUT -----------------------------------------------------------------------------------

    def _push(self, head: PushHead) -> bool:
        try:
            if self._gate is not None:
                self._gate(head)
            sink = self._handler.begin_push(head)
        except Exception as error:
            return self._refuse(_as_ours(error, "begin_push"), body_unread=True)
        try:
            self._receive_body(head, sink)
        except TimeoutError:
            sink.abandon()
            return self._refuse(ProtocolFault("the body did not come in time"), body_unread=True)
        except BaseException:
            sink.abandon()
            raise
        try:
            answer = msgspec.json.encode(sink.finish())
        except Exception as error:
            return self._refuse(_as_ours(error, "finish of a push"), body_unread=False)
        fields = {"Content-Type": "application/json"}
        self._connection.allow(stall_seconds=self._stall_seconds, total_seconds=self._stall_seconds)
        self._connection.send_all(write_answer(200, len(answer), fields, keep_alive=head.keep_alive), answer)
        self._code = "ok"
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
        wants_sums = head.verify_here and head.with_body and not head.whole
        try:
            if self._gate is not None:
                self._gate(head)
            reader = self._handler.open_read(head.handle, head.version, head.first, head.last)
            length, committed = reader.length, reader.committed_length
            sums = reader.checksums() if wants_sums and length else None
            # Before the head: a first window that does not verify is still an honest error.
            is_verified_here = head.with_body and sums is None
            window = self._read_window(reader, head.first, head.first + length) if is_verified_here else b""
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
        if sums is not None:
            fields["Gfs-Checksums"] = checksums_text(sums)
        connection.allow_transfer(length, self._stall_seconds)
        status = 200 if head.whole else 206
        connection.send_all(write_answer(status, length, fields, keep_alive=head.keep_alive), window)
        if not head.with_body:
            self._code = "ok"
            return True
        at = head.first + len(window)
        if sums is not None:
            at += connection.send_by(reader.send_to, at, length)
        # What the disk did not give as it is: the verified read says why, and marks damage when that is it.
        return self._send_rest(reader, head, at=at, end=head.first + length)

    def _send_rest(self, reader: ChunkReader, head: ReadHead, *, at: int, end: int) -> bool:
        while at < end:
            try:
                window = self._read_window(reader, at, end)
            except Exception as error:
                # The head has promised these bytes. A cut connection is the only honest answer left.
                fault = _as_ours(error, "read")
                _log.warning("read cut off", handle=head.handle, code=fault.code, problem=fault.message)
                self._code = fault.code
                return False
            self._connection.send_all(window)
            at += len(window)
        self._code = "ok"
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
        self._code = error.code
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


def _peer_name(connection: socket.socket) -> str:
    try:
        host, port = connection.getpeername()[:2]
    except OSError:
        return "a peer that has gone"
    return f"{host}:{port}"
