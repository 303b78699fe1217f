"""Which test keeps which box: read off the source of all tests, so that the table is never out of date."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.paper.boxes import BOXES

TESTS = Path(__file__).parents[1]


def keepers() -> dict[str, list[str]]:
    """Box id to the tests that keep it, as pytest names them."""
    found: dict[str, list[str]] = {box.id: [] for box in BOXES}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name, box in _marks(ast.parse(path.read_text())):
            found[box].append(f"{path.relative_to(TESTS.parent)}::{name}")
    return found


def lines() -> Iterator[str]:
    """The table in Markdown."""
    kept = keepers()
    yield "| § | promise | kept by |"
    yield "|---|---|---|"
    for box in BOXES:
        yield f"| {box.section} | {box.promise} | {'<br>'.join(kept[box.id]) or '**no test**'} |"


def _marks(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Test and box; methods as Class::test."""
    for node, name in _functions(module):
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "keeps":
                for argument in mark.args:
                    assert isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                    yield name, argument.value


def _functions(
    module: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{node.name}::")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, prefix + node.name
