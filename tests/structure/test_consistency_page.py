"""gfs/CONSISTENCY.md promises nothing that no test checks: each row names tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "gfs" / "CONSISTENCY.md").read_text()
ROWS = [
    line
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| mutation |", "| promise |"))
]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", PAGE)


def names_in(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for function in inner:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + function.name)
    return found


def test_every_row_names_a_test() -> None:
    assert len(ROWS) > 15
    assert [row for row in ROWS if "`tests/" not in row] == []


def test_every_named_test_exists() -> None:
    missing = [(path, name) for path, name in NAMED if name not in names_in(ROOT / path)]
    assert missing == []
    assert len(NAMED) == PAGE.count("`tests/")


def test_readme_and_architecture_lead_to_it() -> None:
    for document in ("README.md", "gfs/ARCHITECTURE.md"):
        assert "CONSISTENCY.md" in (ROOT / document).read_text(), document
