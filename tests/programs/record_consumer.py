"""The consumer of a queue: follows a file of the cluster and notes each record that its producers made.

    python -m tests.programs.record_consumer MASTERS PATH CONSUMED

CONSUMED, a local file, gets a line "NAME NUMBER OFFSET" for each record, in the order of the file. It runs
until it is killed: a queue has no end.
"""

from __future__ import annotations

import sys

import gfs
from tests.programs.record_producer import payload


def main() -> None:
    masters, path, consumed = sys.argv[1:]
    with gfs.connect(masters) as client, open(consumed, "w", buffering=1) as notes:
        for record in client.records(path, follow=True):
            name, number, _ = record.payload.decode().split("-")
            assert record.payload == payload(name, int(number)), record
            notes.write(f"{name} {number} {record.offset_bytes}\n")


if __name__ == "__main__":
    main()
