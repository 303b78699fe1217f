"""What holds for every test: it leaves no logging behind, takes no other one's ports, and Ctrl-C works."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import structlog

from gfs.local import ports


def pytest_configure() -> None:
    # A run started in the background ignores Ctrl-C, and so would all programs that its tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _take_ports_of_its_own()


def _take_ports_of_its_own() -> None:
    """The clusters of one worker get ports that no other worker gives away while they start or are down."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker:
        return
    number, workers = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    share = (ports.FREE_LAST - ports.FREE_FIRST + 1) // workers
    first = ports.FREE_FIRST + number * share
    os.environ[ports.ENVIRONMENT_KEY] = f"{first}-{first + share - 1}"


@pytest.fixture(autouse=True)
def _logging_as_imported() -> Iterator[None]:
    yield
    # A program started inside a test sets its level and form for the whole process.
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
