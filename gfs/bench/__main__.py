"""`python -m gfs.bench failover|metadata|io`: measure on this machine, beside the limit of the same run."""

from __future__ import annotations

import argparse

from gfs.bench import failover, io, metadata
from gfs.transport.event_loop import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gfs.bench", description=__doc__)
    parser.add_argument("what", choices=["failover", "metadata", "io"])
    parser.add_argument("--runs", type=int, default=20, help="runs of the fail-over (default 20)")
    arguments = parser.parse_args()
    if arguments.what == "failover":
        run(failover.report(arguments.runs), loop="auto")
    elif arguments.what == "metadata":
        run(metadata.report(), loop="auto")
    else:
        run(io.report(), loop="auto")


if __name__ == "__main__":
    main()
