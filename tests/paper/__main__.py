"""`python -m tests.paper`: the paper's promises and the tests that keep them."""

from __future__ import annotations

import sys

from tests.paper.table import lines

sys.stdout.writelines(f"{line}\n" for line in lines())
