"""ARCHITECTURE.md tells of every module, and of none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

GFS = Path(__file__).parents[2] / "gfs"
TEXT = (GFS / "ARCHITECTURE.md").read_text()
NAMED = {part for word in re.findall(r"`([^`]+)`", TEXT) for part in re.findall(r"[a-z0-9_]+", word)}


def test_every_module_is_named() -> None:
    modules = {path.stem for path in GFS.rglob("*.py")} - {"__init__", "__main__"}
    assert modules - NAMED == set()


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)", TEXT)) | {
        f"master/{name}.py" for name in re.findall(r"`(replication/[a-z_]+)`", TEXT)
    }
    assert named
    known = [str(path.relative_to(GFS)) for path in GFS.rglob("*.py")]
    assert [name for name in named if not any(path.endswith(name) for path in known)] == []
