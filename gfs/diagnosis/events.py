"""The events ring of one program: what its operator was, or should have been, told. Fed by gfs.telemetry."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gfs.diagnosis.recorder import UNENCODABLE, Recorder, plain
from gfs.messages.diagnosis import EventRecord, ReadEvents
from gfs.telemetry import trace_id

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EventRecord)
EVENT_BYTES_MAX = 8192  # of a longer one the fields are left out
_NOT_FIELDS = frozenset(("event", "room", "level", "ts", "request_id", "role", "node", "exc_info"))


class Events:
    """An EventSink (see gfs.telemetry)."""

    def __init__(self, directory: str, *, bytes_max: int) -> None:
        self.recorder = Recorder(directory, bytes_max=bytes_max)

    def note(self, level: str, room: str, event: str, fields: Mapping[str, Any]) -> None:  # Any: log fields
        record = EventRecord(
            at_us=time.time_ns() // 1000,
            level=level,
            room=room,
            event=event,
            request_id=str(fields.get("request_id") or trace_id.get()),
            fields={key: plain(value) for key, value in fields.items() if key not in _NOT_FIELDS},
        )
        try:
            payload = _encoder.encode(record)
            if len(payload) > EVENT_BYTES_MAX:
                cut = msgspec.structs.replace(record, fields={"left_out_bytes": len(payload)})
                payload = _encoder.encode(cut)
        except UNENCODABLE:
            self.recorder.dropped += 1  # whoever writes a log line must not fail for it
            return
        self.recorder.note(payload)
        if level == "critical":  # the last word of a program that is about to end itself
            self.recorder.flush()


def choose(query: ReadEvents) -> Callable[[bytes], bool]:
    """Which payloads answer the query."""

    def wanted(payload: bytes) -> bool:
        try:
            return _decoder.decode(payload).at_us >= query.since_us
        except msgspec.MsgspecError:
            return False  # of another version

    return wanted


def decode_record(payload: bytes) -> EventRecord:
    return _decoder.decode(payload)
