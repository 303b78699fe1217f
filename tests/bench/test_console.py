"""`gfs bench console`, once through with few files: every page answers and is told of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfs.bench import console


@pytest.mark.processes
@pytest.mark.timeout(120)
async def test_every_page_of_the_console_is_asked_for_and_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "console.svg"
    said: list[str] = []
    found = json.loads(
        await console.report(
            files=60,
            rounds=2,
            directory=str(tmp_path),
            picture=str(picture),
            as_json=True,
            say=said.append,
        )
    )
    assert [page["page"] for page in found["pages"]] == console.pages_of(60)
    assert all(page["html_ms"] > 0 and page["json_ms"] > 0 and page["wait_ms"] > 0 for page in found["pages"])
    assert picture.read_text().startswith("<svg")
    assert list(tmp_path.iterdir()) == [picture]
