"""Each promise of the paper has a test that keeps it: a box without one fails the build."""

from __future__ import annotations

from tests.paper.table import keepers


def test_every_box_of_the_paper_is_kept_by_a_test() -> None:
    empty = [box for box, tests in keepers().items() if not tests]
    assert not empty, f"promises that no test keeps: {', '.join(empty)}"
