"""`python -m tests.chaos.planted [NAME…]`: plants each bug and says by what, and how soon, it was noticed."""

from __future__ import annotations

import logging
import sys

import structlog

from chaos.planted.all_bugs import BUGS
from chaos.planted.bug import Seen
from chaos.planted.catching import catch
from tests.chaos.planted.trials import TRIALS


def main(names: list[str]) -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)  # what a broken product complains of is no news here
    unknown = [name for name in names if name not in BUGS]
    if unknown:
        sys.stderr.write(f"no planted bug {', '.join(unknown)}; there are {', '.join(BUGS)}\n")
        return 2
    missed = 0
    for name in names or list(BUGS):
        caught, seen = BUGS[name].caught, BUGS[name].seen
        if caught is None:
            assert isinstance(seen, Seen)
            sys.stdout.write(
                f"{name} has no trial: python -m chaos planted {name} --scenario {seen.scenario}\n"
            )
            continue
        found = catch(BUGS[name], TRIALS)
        missed += found is None
        if found is None:
            how = "NOT NOTICED"
        else:
            how = f"seed {found.seed}, {found.cpu_seconds:.1f} s: {' '.join(found.said.split())[:200]}"
        sys.stdout.write(f"{name} [{caught.trial}] {how}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
