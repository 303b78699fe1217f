"""A log of records that never grows: numbered files of limited size, the oldest dropped. What is in a
record is its owner's affair.

    DIRECTORY/00000007.ring    record, record, …
    record:  payload length (4 bytes)  CRC32C of the payload (4 bytes)  payload      little endian

Nothing is synced: a crash of the machine may cost the last records. A start goes on in the newest file,
behind its last whole record. Positions (file number, offset) only ever grow.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence

from gfs.checksums import crc32c

_HEAD = struct.Struct("<II")
_NAME = re.compile(r"(\d{8})\.ring")
OFFSET_BITS = 32


class Ring:
    """For one writer; any number of readers, of this or another process, may iterate at the same time."""

    def __init__(self, directory: str, *, bytes_max: int, files_max: int) -> None:
        assert bytes_max > 0 and files_max >= 2
        self._directory = directory
        self._file_bytes_max = min(bytes_max // files_max, (1 << OFFSET_BITS) - 1)
        self._files_max = files_max
        self._descriptor = -1
        self._number = max(file_numbers(directory), default=0)
        self._offset = 0

    def append(self, payloads: Sequence[bytes]) -> list[int]:
        """Write records with one call; returns their positions. Raises: OSError, and then none is there."""
        if self._descriptor < 0 and self._number:
            self._resume_file()
        if self._descriptor < 0 or self._offset >= self._file_bytes_max:
            self._begin_file()
        positions: list[int] = []
        parts: list[bytes] = []
        offset = self._offset
        for payload in payloads:
            positions.append(self._number << OFFSET_BITS | offset)
            parts += (_HEAD.pack(len(payload), crc32c(payload)), payload)
            offset += _HEAD.size + len(payload)
        whole = b"".join(parts)
        try:
            if os.write(self._descriptor, whole) != len(whole):
                raise OSError("the record was written in part")
        except OSError:
            os.ftruncate(self._descriptor, self._offset)
            os.lseek(self._descriptor, self._offset, os.SEEK_SET)
            raise
        self._offset = offset
        return positions

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _resume_file(self) -> None:
        end = 0
        for position, payload in records_of_file(self._directory, self._number):
            end = (position & (1 << OFFSET_BITS) - 1) + _HEAD.size + len(payload)
        self._descriptor = os.open(self._path(self._number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._descriptor, end)
        self._offset = os.lseek(self._descriptor, end, os.SEEK_SET)

    def _begin_file(self) -> None:
        self.close()
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._path(self._number + 1), flags, 0o600)
        self._number += 1
        self._offset = 0
        for number in file_numbers(self._directory)[: -self._files_max]:
            os.unlink(self._path(number))

    def _path(self, number: int) -> str:
        return os.path.join(self._directory, f"{number:08}.ring")


def file_numbers(directory: str) -> list[int]:
    """Numbers of the files of a ring, ascending; none when it was never written."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def records_of_file(directory: str, number: int, *, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """(position, payload) of the whole records of one file, those behind position `after`."""
    try:
        with open(os.path.join(directory, f"{number:08}.ring"), "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return  # dropped meanwhile
    at = 0
    while at + _HEAD.size <= len(content):
        length, checksum = _HEAD.unpack_from(content, at)
        start = at + _HEAD.size
        payload = content[start : start + length]
        if len(payload) != length or crc32c(payload) != checksum:
            return
        position = number << OFFSET_BITS | at
        if position > after:
            yield position, payload
        at = start + length
