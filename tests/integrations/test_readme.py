"""What README shows to users of pandas and the like, run line by line against a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gfs.integrations.fsspec_filesystem import GFSFileSystem

README = Path(__file__).parents[2] / "README.md"


def test_the_example_with_pandas_pyarrow_and_duckdb_runs_as_it_stands(
    masters: str, filesystem: GFSFileSystem
) -> None:
    (block,) = re.findall(r"```python\n(import fsspec.*?)```", README.read_text(), re.DOTALL)
    example, replaced = re.subn(r'^masters = ".*"$', f"masters = {masters!r}", block, flags=re.MULTILINE)
    assert replaced == 1
    names: dict[str, Any] = {}  # Any: of an example
    exec(compile(example, "README.md", "exec"), names)
    assert names["table"]["visits"].sum() == 52
    assert filesystem.exists("/data/b")
