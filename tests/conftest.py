"""What holds for every test: none leaves its logging behind for the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_as_imported() -> Iterator[None]:
    yield
    # A program started inside a test sets its level and form for the whole process.
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
