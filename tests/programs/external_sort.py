"""Sort more records than fit in memory: runs sorted one by one, stored in the cluster, then merged. No checks
of the cluster here, only of the result.

    python -m tests.programs.external_sort MASTERS MIB   # makes its input, sorts it, checks the output

A record is RECORD_BYTES long: a key of KEY_BYTES, then bytes that follow from the key. Prints one line for
each step on standard output, "done" at the end; exits 1 and says what is wrong with the output otherwise.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import sys
from collections.abc import Iterator
from typing import BinaryIO

import gfs

RECORD_BYTES = 1024
KEY_BYTES = 16
RUN_RECORDS = 64 * 1024
READ_RECORDS = 4 * 1024
INPUT, OUTPUT, RUNS = "/sort/input", "/sort/output", "/sort/runs"


def make_record(key: bytes) -> bytes:
    return key + hashlib.shake_128(key).digest(RECORD_BYTES - KEY_BYTES)


def make_input(client: gfs.Client, records: int, seed: int) -> int:
    """Write random records; the sum of their keys, by which none can be lost, doubled or changed unseen."""
    chance = random.Random(seed)
    total = 0
    with client.open(INPUT, "xb") as file:
        for _ in range(records):
            key = chance.randbytes(KEY_BYTES)
            total += int.from_bytes(key, "big")
            file.write(make_record(key))
    return total


def sort_runs(client: gfs.Client, records: int) -> list[str]:
    paths = []
    with client.open(INPUT, "rb") as source:
        for number in range(0, records, RUN_RECORDS):
            block = source.read(RUN_RECORDS * RECORD_BYTES)
            run = sorted(block[at : at + RECORD_BYTES] for at in range(0, len(block), RECORD_BYTES))
            path = f"{RUNS}/{number:010d}"
            with client.open(path, "wb", atomic=True) as file:
                file.writelines(run)
            paths.append(path)
            say(f"run {len(paths)}: {len(run)} records")
    return paths


def merge(client: gfs.Client, paths: list[str]) -> None:
    files = [client.open(path, "rb") for path in paths]
    with client.open(OUTPUT, "wb", atomic=True) as file:
        for record in heapq.merge(*map(read_records, files)):
            file.write(record)
    for opened in files:
        opened.close()


def read_records(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(READ_RECORDS * RECORD_BYTES):
        assert len(block) % RECORD_BYTES == 0, f"a file ends within a record: {len(block)} bytes"
        yield from (block[at : at + RECORD_BYTES] for at in range(0, len(block), RECORD_BYTES))


def check_output(client: gfs.Client, records: int, total: int) -> str:
    """What is wrong with the output; empty when nothing is."""
    seen, last = 0, b""
    with client.open(OUTPUT, "rb") as file:
        for record in read_records(file):
            key = record[:KEY_BYTES]
            if record != make_record(key):
                return f"record {seen} is damaged"
            if key < last:
                return f"record {seen} is out of order"
            seen, last, total = seen + 1, key, total - int.from_bytes(key, "big")
    if seen != records:
        return f"{seen} records and not {records}"
    return "other records than the input's" if total else ""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(masters: str, mib: str) -> int:
    records = int(mib) * 2**20 // RECORD_BYTES
    with gfs.connect(masters) as client:
        client.mkdir(RUNS, parents=True)
        total = make_input(client, records, seed=int(mib))
        say(f"input: {records} records")
        paths = sort_runs(client, records)
        client.delete(INPUT)
        merge(client, paths)
        say("merged")
        client.delete(RUNS, recursive=True)
        fault = check_output(client, records, total)
    say(fault or "done")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
