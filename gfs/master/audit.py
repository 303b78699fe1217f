"""The audit log of one master: who asked for which change, when, and what became of it. Decides nothing.

Lines of JSON in a few files of limited size, the newest in audit.jsonl. They are written together, a moment
later, by a thread of their own: an answer does not wait for them. No line has a credential, or file data.
"""

from __future__ import annotations

import asyncio
import datetime
import os
from concurrent.futures import ThreadPoolExecutor

import msgspec

from gfs.clock import Clock
from gfs.credentials import PROOF_STEM, token_digest, token_id
from gfs.errors import PermissionDenied, Unauthenticated
from gfs.master.gate import needed_role
from gfs.messages.base import Request, method_name
from gfs.messages.chunks import AcquireLease
from gfs.messages.cluster import StateDigest
from gfs.messages.diagnosis import ReadEvents, ReadRpcLog
from gfs.messages.heartbeat import Heartbeat
from gfs.messages.namespace import SetLengthHint
from gfs.messages.security import ListTokens
from gfs.telemetry import logger
from gfs.transport.interface import CallContext

FILE = "audit.jsonl"
FILES_KEPT = 4  # audit.jsonl, audit.1.jsonl …
WRITE_SECONDS = 0.05
WAITING_BYTES_MAX = 8 * 2**20  # not on their way to the disk yet; what comes beyond is counted, not kept
LINE_CHARS_MAX = 4096
IDS_KEPT = 1024

# Parts of writing a file that its creation has told of, and questions that only an admin may ask.
_UNTOLD = frozenset((AcquireLease, SetLengthHint, Heartbeat, ListTokens, ReadRpcLog, ReadEvents, StateDigest))
_REFUSALS = frozenset((Unauthenticated.code, PermissionDenied.code))

_log = logger("master.audit")
_encode = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, frozen=True):
    time: str
    request_id: str
    user: str
    token: str  # its id
    peer: str
    method: str
    asked: Request | dict[str, str]
    outcome: str


class AuditLog:
    """Use from one event loop. close() once; what was noted by then is in the file."""

    def __init__(self, directory: str, clock: Clock, *, bytes_max: int) -> None:
        """`bytes_max`: of all its files together."""
        assert bytes_max > 0
        self._directory, self._clock = directory, clock
        self._file_bytes_max = bytes_max // FILES_KEPT
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._second, self._second_text = -1, ""
        self._ids: dict[str, str] = {}  # of credentials shown lately
        self._told: dict[type[Request], bool] = {}

    def note(self, request: Request, context: CallContext, code: str) -> None:
        """A call was answered with `code`. Never waits, never raises."""
        kind = type(request)
        told = self._told.get(kind)
        if told is None:
            told = self._told[kind] = kind not in _UNTOLD and needed_role(kind) != "reader"
        by_program = context.credential.startswith(PROOF_STEM)
        if code not in _REFUSALS and (not told or by_program):
            return
        line = self._line(request, context, code) + b"\n"
        if self._waiting_bytes + len(line) > WAITING_BYTES_MAX:
            self._lost += 1
            return
        self._lines.append(line)
        self._waiting_bytes += len(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._hand_over)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._hand_over()
        self._writer.shutdown()

    def _line(self, request: Request, context: CallContext, code: str) -> bytes:
        line = _Line(
            time=self._moment(),
            request_id=context.trace,
            user=context.identity.user,
            token=self._token_of(context.credential),
            peer=context.node.uri if context.node.node else context.peer,
            method=method_name(type(request)),
            asked=request,
            outcome=code,
        )
        encoded = _encode(line)
        if len(encoded) <= LINE_CHARS_MAX:
            return encoded
        start = _encode(request)[: LINE_CHARS_MAX // 2].decode("utf-8", "replace")
        return _encode(msgspec.structs.replace(line, asked={"cut": start}))

    def _moment(self) -> str:
        second, ms = divmod(self._clock.wall_ms(), 1000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.datetime.fromtimestamp(second, tz=datetime.UTC).isoformat()[:19]
        return f"{self._second_text}.{ms:03d}Z"

    def _token_of(self, credential: str) -> str:
        found = self._ids.get(credential)
        if found is None:
            is_users = credential and not credential.startswith(PROOF_STEM)
            found = token_id(token_digest(credential)) if is_users else ""
            if len(self._ids) >= IDS_KEPT:
                self._ids.clear()
            self._ids[credential] = found
        return found

    def _hand_over(self) -> None:
        self._timer = None
        lines, self._lines, self._waiting_bytes = self._lines, [], 0
        if self._lost:
            lines.append(_encode({"lost_lines": self._lost}) + b"\n")
            self._lost = 0
        if lines:
            self._writer.submit(self._write, b"".join(lines))

    def _write(self, content: bytes) -> None:
        """On the writer's thread."""
        path = os.path.join(self._directory, FILE)
        try:
            if os.path.exists(path) and os.path.getsize(path) + len(content) > self._file_bytes_max:
                self._shift()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, content)
            finally:
                os.close(descriptor)
        except OSError as error:
            _log.error("lines of the audit log are lost", reason=error.strerror)

    def _shift(self) -> None:
        names = [FILE, *(f"audit.{number}.jsonl" for number in range(1, FILES_KEPT))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            if os.path.exists(os.path.join(self._directory, newer)):
                os.replace(os.path.join(self._directory, newer), os.path.join(self._directory, older))
