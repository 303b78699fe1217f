"""What holds for every test: none leaves its logging behind for the next one, and Ctrl-C can be tried."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import structlog


def pytest_configure() -> None:
    # A run started in the background ignores Ctrl-C, and so would all programs that its tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_as_imported() -> Iterator[None]:
    yield
    # A program started inside a test sets its level and form for the whole process.
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
