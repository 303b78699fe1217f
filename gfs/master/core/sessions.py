"""Which client requests were already carried out, and their outcomes. Says nothing about their meaning.

A client numbers its mutations; a repeat, also one that reaches a later leader, is answered with the first
outcome. Invariants: a request is never applied twice; what can no longer be told from new is refused; at most
SESSION_WINDOW outcomes are kept for a client, and `kept` of its header counts them.
"""

from __future__ import annotations

import msgspec

from gfs.master.core.digest import DigestedTables
from gfs.master.core.records import (
    SEQUENCE_MAX,
    Counters,
    SessionHeader,
    decode_session,
    encode_session,
    id_key,
    outcome_key,
    read_id,
    read_outcome_key,
)
from gfs.master.core.tables import Table
from gfs.messages.operations import AnyOutcome, Refused, RequestId
from gfs.settings import SESSION_WINDOW

DROP_BATCH = 64  # outcomes a client no longer needs are dropped this many at a time: one scan for all
FORGET_ROWS_MAX = 2048  # rows one ForgetSessions may drop: keeps its apply under 10 ms
FORGET_CLIENTS_MAX = 1024
CLIENT_MAX = 2**63 - 1
assert DROP_BATCH < SESSION_WINDOW < FORGET_ROWS_MAX

_encode_outcome = msgspec.msgpack.Encoder().encode
_decode_outcome = msgspec.msgpack.Decoder(AnyOutcome).decode


def request_fault(request: RequestId) -> str | None:
    """Say what is wrong with a request id, or None."""
    if not 0 <= request.client <= CLIENT_MAX:
        return f"client id {request.client} is not within 0..2**63-1"
    if not 0 <= request.first_open <= request.sequence <= SEQUENCE_MAX:
        return f"request {request.sequence} with first open {request.first_open} is out of order or range"
    return None


class Sessions:
    """The sessions table. Headers of clients seen since the last save() are held back in memory."""

    def __init__(self, tables: DigestedTables, counters: Counters) -> None:
        self._tables = tables
        self._counters = counters
        self._held: dict[int, tuple[SessionHeader, bytes | None]] = {}  # with the row as it is in the table

    def answered(self, request: RequestId) -> AnyOutcome | None:
        """The outcome to repeat, or None when this request is new."""
        header = self._header(request.client)
        if header is None or request.sequence > header.highest:
            return None
        if request.sequence < header.floor:
            # Applying it could be applying it twice: whether it once was, is no longer known.
            return Refused(
                code="outcome_unknown",
                message=f"request {request.sequence} is older than the outcomes kept for its client",
            )
        row = self._tables.get(Table.SESSIONS, outcome_key(request.client, request.sequence))
        return None if row is None else _decode_outcome(row)

    def remember(self, request: RequestId, outcome: AnyOutcome, *, at_ms: int) -> None:
        """Keep the outcome of a request that answered() called new, and drop what its client is done with."""
        header = self._header(request.client)
        if header is None:
            header = SessionHeader(last_ms=at_ms, floor=0, highest=0, kept=0)
            self._held[request.client] = (header, None)
            self._counters.sessions += 1
        self._tables.insert(
            Table.SESSIONS, outcome_key(request.client, request.sequence), _encode_outcome(outcome)
        )
        header.kept += 1
        if at_ms > header.last_ms:
            header.last_ms = at_ms
        if request.sequence > header.highest:
            header.highest = request.sequence
        if request.first_open > header.floor:
            header.floor = request.first_open
        # Those above the floor are at most `still_open`: when far more are kept, a scan is worth its cost.
        still_open = header.highest - header.floor + 1
        if header.kept > SESSION_WINDOW or header.kept >= still_open + DROP_BATCH:
            self._drop(request.client, header)

    def forget(self, *, idle_since_ms: int, limit: int) -> None:
        """Drop clients last seen before `idle_since_ms`.

        Looks at up to `limit` clients, beginning where the last call ended, and drops FORGET_ROWS_MAX rows
        at most.
        """
        self.save()
        rows_left = FORGET_ROWS_MAX
        client = self._counters.forget_after
        for _ in range(min(limit, FORGET_CLIENTS_MAX)):
            found = next(self._tables.scan(Table.SESSIONS, id_key(client)), None)
            if found is None:
                client = 0  # start over with the next call
                break
            client = read_id(found[0])
            header = self._header(client)
            assert header is not None, client
            if header.last_ms < idle_since_ms:
                if header.kept > rows_left:
                    break
                rows_left -= header.kept
                self._forget_client(client)
            client += 1
        self._counters.forget_after = client

    def save(self) -> None:
        """Write the headers held back."""
        for client, (header, row) in self._held.items():
            new = encode_session(header)
            if row is None:
                self._tables.insert(Table.SESSIONS, id_key(client), new)
            elif row != new:
                self._tables.replace(Table.SESSIONS, id_key(client), old=row, new=new)
        self._held.clear()

    def _header(self, client: int) -> SessionHeader | None:
        held = self._held.get(client)
        if held is not None:
            return held[0]
        row = self._tables.get(Table.SESSIONS, id_key(client))
        if row is None:
            return None
        header = decode_session(row)
        self._held[client] = (header, row)
        return header

    def _drop(self, client: int, header: SessionHeader) -> None:
        """Drop the outcomes below the floor and, beyond the window, the oldest."""
        excess = header.kept - SESSION_WINDOW
        doomed: list[tuple[bytes, bytes]] = []
        for key, row in self._tables.scan(Table.SESSIONS, outcome_key(client, 0), id_key(client + 1)):
            sequence = read_outcome_key(key)[1]
            if sequence >= header.floor:
                if len(doomed) >= excess:
                    break
                header.floor = sequence + 1
            doomed.append((key, row))
        for key, row in doomed:
            self._tables.remove(Table.SESSIONS, key, old=row)
        header.kept -= len(doomed)
        assert 0 < header.kept <= SESSION_WINDOW, header

    def _forget_client(self, client: int) -> None:
        rows = list(self._tables.scan(Table.SESSIONS, id_key(client), id_key(client + 1)))
        for key, row in rows:
            self._tables.remove(Table.SESSIONS, key, old=row)
        del self._held[client]
        self._counters.sessions -= 1
