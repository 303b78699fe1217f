"""The client of the bulk port: blocking pushes and reads over kept connections, for worker threads.

Used by the SDK and, down the chain, by push_chain. Retries nothing but a kept connection that had
gone stale before it answered a word; checksums are its callers' business.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

import msgspec

from gfs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    GfsError,
    ProtocolFault,
    Unavailable,
    from_code,
)
from gfs.messages.base import ErrorReply
from gfs.messages.data import PushAnswer
from gfs.settings import PUSH_BYTES_MAX
from gfs.telemetry import trace_id
from gfs.transport.data_head import AnswerHead, PushHead, ReadHead, read_answer, write_push, write_read
from gfs.transport.data_socket import DataSocket, set_congestion_control, shut
from gfs.transport.data_verify import receive_verifying
from gfs.transport.dial_map import Dial, dialled_address
from gfs.vocabulary import Address, ChunkHandle, ChunkVersion, PushId, split_address

CONNECTIONS_PER_ADDRESS_MAX = 64  # a chunk server's own default limit; more calls wait for one
ANSWER_BYTES_MAX = 64 * 2**10  # a PushAnswer or an ErrorReply


class _Lane:
    """The connections to one address: how many may be in use, and those kept for the next call."""

    __slots__ = ("kept", "places")

    def __init__(self, places: int) -> None:
        self.places = threading.BoundedSemaphore(places)
        self.kept: list[DataSocket] = []  # the last one was used last


class DataClient:
    """Pushes to and reads from any number of bulk ports, from any thread. close() ends calls under way."""

    def __init__(
        self,
        *,
        congestion_control: str,
        connections_per_address_max: int = CONNECTIONS_PER_ADDRESS_MAX,
        kept_seconds: float = 30.0,
        dial: Dial = dialled_address,
    ) -> None:
        assert connections_per_address_max > 0
        self._congestion_control, self._dial = congestion_control, dial
        self._connections_max, self._kept_seconds = connections_per_address_max, kept_seconds
        self._lock = threading.Lock()
        self._lanes: dict[Address, _Lane] = {}
        self._live: set[DataSocket] = set()
        self._closed = False

    def push(
        self,
        address: Address,
        push_id: PushId,
        data: memoryview,
        *,
        offset: int,
        chain: Sequence[Address],
        checksums: Sequence[int] | None,
        deadline_seconds: float,
        capability: bytes = b"",
    ) -> PushAnswer:
        """Push `data`, that will go to `offset` of a chunk, to `address` and down the `chain`.

        Blocks until the whole chain has answered. A hop that failed is named in the answer, not raised.
        Raises: Unavailable when no connection could be made; ConnectionLost or DeadlineExceeded when the
        first hop may have the bytes; what the first hop refused with (Overloaded, ChecksumMismatch …).
        A push changes no chunk: repeating it is always safe.
        """
        deadline = time.monotonic() + deadline_seconds
        with self.begin_push(
            address,
            push_id,
            data,
            offset=offset,
            chain=chain,
            checksums=checksums,
            connect_seconds=deadline_seconds,
            capability=capability,
        ) as outgoing:
            return outgoing.finish(within_seconds=deadline - time.monotonic())

    def begin_push(
        self,
        address: Address,
        push_id: PushId,
        data: memoryview,
        *,
        offset: int,
        chain: Sequence[Address],
        checksums: Sequence[int] | None,
        connect_seconds: float,
        capability: bytes = b"",
    ) -> OutgoingPush:
        """A push whose bytes may still be arriving in `data`; see OutgoingPush. Raises: Unavailable."""
        head = PushHead(
            push_id=push_id,
            length=len(data),
            offset=offset,
            chain=tuple(chain),
            checksums=None if checksums is None else tuple(checksums),
            trace=trace_id.get(),
            capability=capability,
        )
        return OutgoingPush(_Call(self, address, connect_seconds), write_push(head, address), data)

    def read_into(
        self,
        address: Address,
        handle: ChunkHandle,
        version: ChunkVersion,
        first: int,
        buffer: memoryview,
        *,
        deadline_seconds: float,
        verify_here: bool = False,
        capability: bytes = b"",
    ) -> tuple[int, int]:
        """Read from offset `first` of a chunk straight into `buffer`.

        Args:
            verify_here: have the server send the sums of its blocks and the bytes as its disk has them, and
                compare them as they arrive; it may still choose to verify them itself.
        Returns: bytes read (fewer than asked for only at the committed end, 0 at or past it) and the
        chunk's committed length. On an error the buffer's content is undefined.
        Raises: as push(); StaleVersion, NotFound, ChecksumMismatch … from the server; ConnectionLost
        when the server cut the answer short because the bytes did not verify. ChecksumMismatch also when they
        did not verify here: that is no proof of damage, for a writer may have changed them on their way.
        Asked without `verify_here` the server gives good ones, or finds the damage.
        """
        assert len(buffer) > 0
        head = ReadHead(
            handle=handle,
            version=version,
            first=first,
            last=first + len(buffer) - 1,
            verify_here=verify_here,
            trace=trace_id.get(),
            capability=capability,
        )
        request = write_read(head, address)
        with _Call(self, address, deadline_seconds) as call:
            while True:
                try:
                    call.connection.send_all(request)
                    answer = call.receive_answer()
                    break
                except OSError as error:
                    call.reconnect_or_raise(error)
            if answer.status == 416 and answer.chunk_length >= 0:
                call.skip_body(answer)
                return 0, answer.chunk_length
            if answer.status != 206:
                raise call.refusal(answer)
            if answer.content_length > len(buffer) or answer.first != first or answer.chunk_length < 0:
                raise ProtocolFault(f"{address} answered another range than the one asked for")
            body = buffer[: answer.content_length]
            try:
                if answer.checksums is None:
                    call.connection.receive_exactly(body)
                else:
                    receive_verifying(call.connection, first, body, answer.checksums)
            except OSError as error:
                raise call.failure(error) from error
            call.keep(answer)
            return answer.content_length, answer.chunk_length

    def close(self) -> None:
        """Close all connections; calls under way end with ConnectionLost, later ones with Unavailable."""
        with self._lock:
            self._closed = True
            lanes, self._lanes = list(self._lanes.values()), {}
            for connection in self._live:
                shut(connection.socket)
        for lane in lanes:
            for connection in lane.kept:
                connection.socket.close()

    # --- connections ---------------------------------------------------------------------------

    def _enter_lane(self, address: Address, deadline: float) -> _Lane:
        with self._lock:
            if self._closed:
                raise Unavailable("this client is closed")
            lane = self._lanes.setdefault(address, _Lane(self._connections_max))
        if not lane.places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unavailable(f"all {self._connections_max} connections to {address} stayed in use")
        return lane

    def _take_kept(self, lane: _Lane) -> DataSocket | None:
        while True:
            with self._lock:
                if not lane.kept:
                    return None
                connection = lane.kept.pop()
                if self._closed:
                    connection.socket.close()
                    raise Unavailable("this client is closed")
                self._live.add(connection)
            if not connection.is_stale() and connection.idle_seconds() < self._kept_seconds:
                return connection
            self._drop(connection)

    def _connect(self, address: Address, deadline: float) -> DataSocket:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Unavailable(f"out of time before {address} was reached")
        host, port = split_address(self._dial(address))
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            dialling = socket.socket(family, kind, protocol)
        except OSError as error:
            raise Unavailable(f"cannot reach {address}: {error.strerror}") from error
        try:
            set_congestion_control(dialling, self._congestion_control)
            dialling.settimeout(left)
            dialling.connect(where)
            connection = DataSocket(dialling)
        except OSError as error:
            dialling.close()
            raise Unavailable(f"cannot reach {address}: {error.strerror or 'no answer in time'}") from error
        with self._lock:
            if self._closed:
                dialling.close()
                raise Unavailable("this client is closed")
            self._live.add(connection)
        return connection

    def _keep(self, lane: _Lane, connection: DataSocket) -> None:
        with self._lock:
            self._live.discard(connection)
            if not self._closed:
                connection.mark_idle()
                lane.kept.append(connection)
                return
        connection.socket.close()

    def _drop(self, connection: DataSocket) -> None:
        with self._lock:
            self._live.discard(connection)
        connection.socket.close()


class _Call:
    """One request and its answer on one connection, taken from the kept ones or dialled."""

    def __init__(self, client: DataClient, address: Address, seconds: float) -> None:
        self._client, self._address, self._deadline = client, address, time.monotonic() + seconds
        self._lane = client._enter_lane(address, self._deadline)
        self._open: DataSocket | None = None
        self._ended = False
        try:
            kept = client._take_kept(self._lane)
            self._was_kept = kept is not None
            self._use(kept or client._connect(address, self._deadline))
        except BaseException:
            self._lane.places.release()
            raise

    def __enter__(self) -> _Call:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connection(self) -> DataSocket:
        assert self._open is not None, "the call has ended"
        return self._open

    def close(self) -> None:
        """Leave the lane. What was not kept by then is closed. May be called twice."""
        if self._open is not None:
            self._client._drop(self._open)
            self._open = None
        if not self._ended:
            self._lane.places.release()
            self._ended = True

    def allow(self, seconds: float) -> None:
        """From now on the call has `seconds` left."""
        self._deadline = time.monotonic() + seconds
        self.connection.allow(stall_seconds=max(seconds, 1e-3), total_seconds=seconds)

    def keep(self, answer: AnswerHead) -> None:
        """The answer was read to its end: the connection is good for another call."""
        if answer.keep_alive and not self.connection.has_early_bytes:
            self._client._keep(self._lane, self.connection)
            self._open = None
        self.close()

    def reconnect_or_raise(self, error: OSError) -> None:
        """After a failure before any answer: once over, when the connection was a kept one.

        Both requests are safe to repeat: a read changes nothing, a push replaces itself.
        """
        if not self._was_kept or isinstance(error, TimeoutError):
            raise self.failure(error) from error
        self._client._drop(self.connection)
        self._open, self._was_kept = None, False
        self._use(self._client._connect(self._address, self._deadline))

    def failure(self, error: OSError) -> GfsError:
        """What a broken connection means to the caller."""
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(f"{self._address} did not answer in time: {error}")
        return ConnectionLost(f"lost the connection to {self._address}: {error}")

    def receive_answer(self) -> AnswerHead:
        while True:
            answer = read_answer(self.connection.receive_head())
            if answer.status >= 200:
                return answer

    def receive_body(self, answer: AnswerHead) -> bytes:
        if answer.content_length > ANSWER_BYTES_MAX:
            raise ProtocolFault(f"{self._address} answered with {answer.content_length} bytes")
        body = bytearray(answer.content_length)
        try:
            self.connection.receive_exactly(memoryview(body))
        except OSError as error:
            raise self.failure(error) from error
        return bytes(body)

    def skip_body(self, answer: AnswerHead) -> None:
        self.receive_body(answer)
        self.keep(answer)

    def refusal(self, answer: AnswerHead) -> GfsError:
        """The error the server answered with."""
        body = self.receive_body(answer)
        self.keep(answer)
        try:
            reply = msgspec.json.decode(body, type=ErrorReply)
        except msgspec.DecodeError:
            return ProtocolFault(f"{self._address} answered with status {answer.status}")
        return from_code(reply.code, reply.message, hint=reply.hint, details=reply.details)

    def _use(self, connection: DataSocket) -> None:
        left = self._deadline - time.monotonic()
        connection.allow(stall_seconds=max(left, 1e-3), total_seconds=left)
        self._open = connection


class OutgoingPush:
    """A push under way. advance() sends what has arrived without waiting; finish() sends the rest.

    So a slow next hop never slows the receiver: its bytes wait in `data`, which is the push buffer.
    """

    def __init__(self, call: _Call, request: bytes, data: memoryview) -> None:
        assert 0 < len(data) <= PUSH_BYTES_MAX, len(data)
        self._call, self._request, self._data = call, request, data
        self._sent = -len(request)  # below zero: part of the request's head is still to go
        self._broken: OSError | None = None

    def __enter__(self) -> OutgoingPush:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, have: int) -> None:
        """data[:have] has arrived. Never waits, never raises: finish() tells what went wrong."""
        if self._broken is None and self._sent < have:
            try:
                self._sent += self._call.connection.send_without_waiting(self._unsent(have))
            except OSError as error:
                self._broken = error

    def finish(self, *, within_seconds: float) -> PushAnswer:
        """All of `data` has arrived: send what is left, and wait for the answer of the hops behind."""
        call = self._call
        call.allow(within_seconds)
        while True:
            try:
                answer = self._send_rest_and_receive()
                break
            except OSError as error:
                call.reconnect_or_raise(error)
                self._broken, self._sent = None, -len(self._request)
        if answer.status != 200:
            raise call.refusal(answer)
        body = call.receive_body(answer)
        call.keep(answer)
        try:
            return msgspec.json.decode(body, type=PushAnswer)
        except msgspec.DecodeError as error:
            raise ProtocolFault(f"the answer to a push cannot be read: {error}") from error

    def close(self) -> None:
        """Give up, when finish() has not been called; the receiver keeps nothing."""
        self._call.close()

    def _unsent(self, have: int) -> list[bytes | memoryview]:
        if self._sent < 0:
            return [self._request[self._sent :], self._data[:have]]
        return [self._data[self._sent : have]]

    def _send_rest_and_receive(self) -> AnswerHead:
        broken = self._broken
        if broken is None and self._sent < len(self._data):
            try:
                self._call.connection.send_all(*self._unsent(len(self._data)))
            except ConnectionError as error:
                broken = error
        try:
            # Also after a send that failed: a server that refuses a push says why before it hangs up.
            return self._call.receive_answer()
        except OSError as error:
            raise broken or error from None
