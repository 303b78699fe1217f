"""The first bytes of a file, as text or in hexadecimal, for a page. Reads one chunk's beginning only."""

from __future__ import annotations

import asyncio

import msgspec

from gfs.errors import GfsError
from gfs.messages.chunks import ChunkPlace
from gfs.transport.data_client import DataClient
from gfs.web.asking import told
from gfs.web.limits import PREVIEW_BYTES_MAX, PREVIEW_SECONDS, PREVIEWS_AT_ONCE_MAX

HEX_BYTES_SHOWN = 512
_HEX_WIDTH = 16


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """`kind`: text, bytes (`text` is a hex dump) or none; then `failure` says why, if it is one."""

    kind: str
    text: str
    shown_bytes: int
    failure: str = ""


class Previewer:
    def __init__(self, bulk: DataClient) -> None:
        self._bulk = bulk
        self._places = asyncio.Semaphore(PREVIEWS_AT_ONCE_MAX)

    async def first_bytes(self, chunk: ChunkPlace) -> Preview:
        failure = "no replica can be reached"
        async with self._places:
            for replica in chunk.replicas:
                buffer = bytearray(PREVIEW_BYTES_MAX)
                try:
                    length, _ = await asyncio.to_thread(
                        self._bulk.read_into,
                        replica.data,
                        chunk.handle,
                        chunk.version,
                        0,
                        memoryview(buffer),
                        deadline_seconds=PREVIEW_SECONDS,
                        capability=chunk.capability,
                    )
                except GfsError as error:
                    failure = told(error)
                    continue
                return as_preview(bytes(buffer[:length]))
        return Preview(kind="none", text="", shown_bytes=0, failure=failure)


def as_preview(data: bytes) -> Preview:
    if not data:
        return Preview(kind="none", text="", shown_bytes=0)
    text = _as_text(data)
    if text is not None:
        return Preview(kind="text", text=text, shown_bytes=len(data))
    shown = data[:HEX_BYTES_SHOWN]
    return Preview(kind="bytes", text=_dump(shown), shown_bytes=len(shown))


def _as_text(data: bytes) -> str | None:
    """None for what is no text. The last character may be cut off."""
    for cut in range(4):
        try:
            text = data[: len(data) - cut].decode()
        except UnicodeDecodeError:
            continue
        strange = sum(not (char.isprintable() or char in "\n\r\t") for char in text)
        return text if strange == 0 else None
    return None


def _dump(data: bytes) -> str:
    lines = []
    for at in range(0, len(data), _HEX_WIDTH):
        piece = data[at : at + _HEX_WIDTH]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{at:06x}  {piece.hex(' '):<{3 * _HEX_WIDTH}} {shown}")
    return "\n".join(lines)
