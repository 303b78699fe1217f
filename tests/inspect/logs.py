"""Real operation logs on a real disk, and ways to damage them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from gfs.disk import SystemDisk
from gfs.master.replication.group_commit import encode_entry
from gfs.master.replication.log import OperationLog, segment_path
from gfs.master.replication.log_format import Kind, Record, encode_header, encode_records
from gfs.messages.operations import LogRecord
from gfs.vocabulary import LogIndex, Term
from tests.core.master_records import create, record


def payload(*records: LogRecord) -> bytes:
    return encode_entry([msgspec.msgpack.encode(found) for found in records])


def write_log(
    directory: Path,
    entries: Sequence[bytes],
    *,
    segment_bytes: int = 400,
    term: int = 1,
    close: bool = True,
    batch: int = 2,
) -> Path:
    """A log of `entries`, some to a sync, in the log/ of `directory`; returns that."""
    path = directory / "log"
    log = OperationLog(str(path), SystemDisk(), segment_bytes=segment_bytes)
    log.setCurrentTerm(term, "m1")
    for position, entry in enumerate(entries):
        log.add(entry, position + 2, term)
        if position % batch == batch - 1:
            log.flush()
    log.flush()
    if close:
        log.close()
    return path


def some_log(directory: Path, count: int = 20, *, close: bool = True, segment_bytes: int = 400) -> Path:
    entries = [payload(record(create(f"/f{number}"), sequence=number)) for number in range(count)]
    return write_log(directory, entries, close=close, segment_bytes=segment_bytes)


def segments(log: Path) -> list[Path]:
    return sorted(log.glob("*.oplog"))


def write_segment(log: Path, number: int, records: Sequence[Record]) -> Path:
    """A segment whose bytes are sound, whatever its records say."""
    log.mkdir(parents=True, exist_ok=True)
    path = Path(segment_path(str(log), number))
    content = encode_records(list(records), segment_number=number, synced_bytes=0)
    path.write_bytes(encode_header(number) + content)
    return path


def start(index: int = 1, term: int = 0) -> Record:
    return Record(Kind.START, LogIndex(index), Term(term), b"")


def entry(index: int, term: int = 1, content: bytes | None = None) -> Record:
    content = payload(record(create(f"/e{index}"))) if content is None else content
    return Record(Kind.ENTRY, LogIndex(index), Term(term), content)


def vote(term: int, name: str | bytes) -> Record:
    return Record(Kind.VOTE, LogIndex(0), Term(term), name.encode() if isinstance(name, str) else name)


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(bytes(content))
