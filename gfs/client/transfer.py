"""Whole files between the cluster and the local disk. One file at a time; trees are the command line's."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from functools import partial

from gfs.client.connections import Connections
from gfs.client.core.striping import split_range
from gfs.client.file import AsyncWriter
from gfs.client.publishing import hidden_name
from gfs.client.reader import Reader
from gfs.errors import DataUnavailable
from gfs.settings import READ_RANGE_BYTES, READ_RANGES_IN_FLIGHT

Progress = Callable[[int], None]
"""Called with the number of bytes done in addition to those told before."""


async def put(connections: Connections, source: str, file: AsyncWriter, progress: Progress | None) -> int:
    """Copy a local file into `file`, straight into the memory it is sent from; returns its length."""
    local = await connections.to_its_end(lambda: io.FileIO(source, "rb"))
    try:
        while True:
            space = file.space()
            count = await connections.to_its_end(partial(local.readinto, space))
            if not count:
                break
            await file.advance(count)
            if progress is not None:
                progress(count)
        await file.flush()
        return file.tell()
    finally:
        local.close()


async def get(connections: Connections, reader: Reader, destination: str, progress: Progress | None) -> int:
    """Copy an opened file to `destination`, several ranges side by side; returns its length.

    It is written under a hidden name and renamed when every byte has come.
    """
    length = await reader.exact_length()
    folder, name = os.path.split(destination)
    hidden = os.path.join(folder, hidden_name(name))
    try:
        local = await connections.to_its_end(lambda: io.FileIO(hidden, "xb"))
    except OSError as error:
        raise OSError(error.errno, error.strerror, destination) from error  # nobody knows the hidden name
    try:
        try:
            await _copy_ranges(connections, reader, local.fileno(), length, progress)
        finally:
            local.close()
        await connections.to_its_end(lambda: os.replace(hidden, destination))
    except BaseException as error:
        os.unlink(hidden)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, destination) from error  # no write names its file
        raise
    return length


async def _copy_ranges(
    connections: Connections, reader: Reader, descriptor: int, length: int, progress: Progress | None
) -> None:
    ranges = iter(split_range(0, length, part_bytes=READ_RANGE_BYTES))

    async def worker() -> None:
        memory = memoryview(bytearray(min(READ_RANGE_BYTES, length)))
        for span in ranges:
            view = memory[: span.length_bytes]
            part = await reader.read_into(span.at, view)
            if part.length_bytes < span.length_bytes:
                end = span.at + part.length_bytes
                raise DataUnavailable(f"{reader.entry.path} ends at byte {end}, but has {length} bytes")
            await connections.to_its_end(partial(_write_at, descriptor, view, span.at))
            if progress is not None:
                progress(span.length_bytes)

    workers = [asyncio.ensure_future(worker()) for _ in range(READ_RANGES_IN_FLIGHT)]
    try:
        await asyncio.gather(*workers)
    finally:
        # Before the descriptor is closed no thread may use it any more.
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
