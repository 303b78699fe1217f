"""Where programs can be told to die: the named failpoints, by program, as the code has them. Arms none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gfs
from gfs import failpoints

# Whose code lies in which room; what lies in none of them is run by every program that writes files.
_ROOMS = {"master": "master", "chunkserver": "chunkserver", "backups": "backup commands"}
EVERY = "every program"
PROGRAMS = ("master", "chunkserver", "backup commands", EVERY)


class Place(NamedTuple):
    """A module that passes a failpoint."""

    failpoint: str
    program: str
    module: str


def places() -> list[Place]:
    """Sorted by program, then name. A name that no module passes is not among them."""
    root = Path(gfs.__file__).parent
    found = {place for path in root.rglob("*.py") for place in _places_in(path, root)}
    return sorted(found, key=lambda place: (PROGRAMS.index(place.program), place.failpoint, place.module))


def _places_in(path: Path, root: Path) -> Iterator[Place]:
    """Every name that stands in the code of a module, but for the list of all names."""
    if path == Path(failpoints.__file__):
        return
    parts = path.relative_to(root).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and node.value in failpoints.NAMES:
            yield Place(str(node.value), _ROOMS.get(parts[0], EVERY), ".".join(("gfs", *parts)))
