"""Every fault of the product that a run has found: the plan that showed it, what it was, where it was.

One JSON file each under `chaos/regress/`. All of them are played first; each must hold for ever.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from chaos.plan import Plan
from gfs.errors import CorruptState

DIRECTORY = Path(__file__).parent / "regress"


class Regression(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`found_by`: the checkers that found it (or a test, for what no plan shows)."""

    name: str
    what: str  # what was wrong, in one or two sentences
    where: str  # module of gfs
    found_by: tuple[str, ...]
    plan: Plan | None = None  # None: a test shows it, and `found_by` names that


def load_all(directory: str | os.PathLike[str] = DIRECTORY) -> list[Regression]:
    """Raises: CorruptState, when one of the files is no such thing."""
    found = []
    for path in sorted(Path(directory).glob("*.json")):
        try:
            regression = msgspec.json.decode(path.read_bytes(), type=Regression)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptState(f"{path} is no regression: {error}") from error
        if regression.name != path.stem:
            raise CorruptState(f"{path} calls itself {regression.name!r}")
        found.append(regression)
    return found


def save(regression: Regression, directory: str | os.PathLike[str] = DIRECTORY) -> Path:
    path = Path(directory) / f"{regression.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(regression), indent=2) + b"\n")
    return path
