"""A real gfs program with a bug planted in it: `GFS_PLANTED=NAME python -m chaos.planted.program master m1`.

What follows the module's name is what follows `gfs`. gfs itself knows no such variable.
"""

from __future__ import annotations

import os
import sys

from chaos.patches import Patches
from chaos.planted.all_bugs import BUGS
from gfs.cli.app import main

ENVIRONMENT_KEY = "GFS_PLANTED"


def plant_for_good(name: str) -> None:
    """Raises: SystemExit when there is no such bug."""
    bug = BUGS.get(name)
    if bug is None:
        raise SystemExit(f"{ENVIRONMENT_KEY}: there is no planted bug {name!r}; there are {', '.join(BUGS)}")
    sys.stderr.write(f"planted in this program on purpose: {bug.says}\n")
    bug.plant(Patches())


if __name__ == "__main__":
    plant_for_good(os.environ.get(ENVIRONMENT_KEY, ""))
    main()
