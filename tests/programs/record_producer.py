"""A producer of a queue: appends numbered records to a file of the cluster and notes each acknowledged one.

    python -m tests.programs.record_producer MASTERS PATH NAME COUNT ACKNOWLEDGED

Each record is "NAME-NUMBER-" and then dots. ACKNOWLEDGED, a local file, gets a line "NUMBER OFFSET" after
each acknowledgement, before the next record is sent: what it says survives kill -9 of this program.
"""

from __future__ import annotations

import sys

import gfs

PAYLOAD_BYTES = 1024


def payload(name: str, number: int) -> bytes:
    return f"{name}-{number}-".encode().ljust(PAYLOAD_BYTES, b".")


def main() -> None:
    masters, path, name, count, acknowledged = sys.argv[1:]
    with gfs.connect(masters) as client, open(acknowledged, "w", buffering=1) as notes:
        for number in range(int(count)):
            offset = client.record_append(path, payload(name, number), framed=True)
            notes.write(f"{number} {offset}\n")


if __name__ == "__main__":
    main()
