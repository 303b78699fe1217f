"""`python -m gfs.bench failover|metadata|io|append|recovery|snapshot`: measure on this machine."""

from __future__ import annotations

import argparse

from gfs.bench import append, failover, io, metadata, recovery, snapshot
from gfs.transport.event_loop import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gfs.bench", description=__doc__)
    parser.add_argument("what", choices=["failover", "metadata", "io", "append", "recovery", "snapshot"])
    parser.add_argument("--runs", type=int, default=20, help="runs of the fail-over (default 20)")
    parser.add_argument(
        "--entries",
        type=int,
        default=10**6,
        help="files of the largest tree (default 10^6)",
    )
    arguments = parser.parse_args()
    if arguments.what == "failover":
        run(failover.report(arguments.runs), loop="auto")
    elif arguments.what == "metadata":
        print(metadata.in_words(run(metadata.measure(), loop="auto")))
    elif arguments.what == "snapshot":
        run(snapshot.report(arguments.entries), loop="auto")
    elif arguments.what == "append":
        run(append.report(), loop="auto")
    elif arguments.what == "recovery":
        run(recovery.report(), loop="auto")
    else:
        run(io.report(), loop="auto")


if __name__ == "__main__":
    main()
