"""A run that takes far longer than it should, in real time, ends: virtual time may stand still for ever."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Overdue(KeyboardInterrupt):
    """An event loop lets nothing else out of a callback. The text is where the program was."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises: Overdue, in what runs within, after so many seconds. Only the main thread can be limited."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        where = "".join(traceback.format_stack(frame)[-12:])
        raise Overdue(f"not done after {seconds:.0f} s of real time; it was at\n{where}")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
