"""Sequential write and read with three replicas and one client, as a share of the limit of the same run."""

from __future__ import annotations

import os
import statistics
import time

from gfs.bench import limit
from gfs.bench.fixture import local_cluster
from gfs.client.client import AsyncClient
from gfs.vocabulary import MIB

FILE_BYTES = 512 * MIB
CALL_BYTES = 4 * MIB
READ_CALL_BYTES = 32 * MIB
ROUNDS = 5


async def write_rate(client: AsyncClient, path: str) -> float:
    """MiB/s of one streaming writer, from open to a closed, acknowledged file."""
    piece = os.urandom(CALL_BYTES)
    began = time.monotonic()
    async with await client.open(path, "xb") as file:
        for _ in range(FILE_BYTES // CALL_BYTES):
            await file.write(piece)
    return FILE_BYTES / MIB / (time.monotonic() - began)


async def read_rate(client: AsyncClient, path: str) -> float:
    """MiB/s of one sequential reader into memory of its own, used again and again."""
    memory = bytearray(READ_CALL_BYTES)
    began = time.monotonic()
    seen = 0
    async with await client.open(path, "rb") as file:
        while count := await file.readinto(memory):
            seen += count
    assert seen == FILE_BYTES, seen
    return FILE_BYTES / MIB / (time.monotonic() - began)


async def read_copies_rate(client: AsyncClient, path: str) -> float:
    """MiB/s of one sequential reader that wants new bytes objects."""
    began = time.monotonic()
    seen = 0
    async with await client.open(path, "rb") as file:
        while data := await file.read(CALL_BYTES):
            seen += len(data)
    assert seen == FILE_BYTES, seen
    return FILE_BYTES / MIB / (time.monotonic() - began)


async def report() -> None:
    shares: dict[str, list[float]] = {"write": [], "read": [], "read in copies": []}
    async with local_cluster(chunkservers=3) as (_, client):
        await client.mkdir("/io")
        for number in range(ROUNDS):
            write_limit = limit.write_limit(FILE_BYTES)
            wrote = await write_rate(client, f"/io/{number}")
            read_limit = limit.read_limit(FILE_BYTES)
            read = await read_rate(client, f"/io/{number}")
            copies = await read_copies_rate(client, f"/io/{number}")
            await client.delete(f"/io/{number}")
            for name, share in zip(
                shares, (wrote / write_limit, read / read_limit, copies / read_limit), strict=True
            ):
                shares[name].append(share)
            print(
                f"  round {number + 1}: write {wrote:.0f} of {write_limit:.0f} MiB/s, "
                f"read {read:.0f} (copies {copies:.0f}) of {read_limit:.0f} MiB/s"
            )
    for name, values in shares.items():
        print(f"{name}: median {100 * statistics.median(values):.0f} % of the limit, 3 replicas, one client")
