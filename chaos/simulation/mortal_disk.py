"""A process's view of its disk at which the process can die: between any two calls, or as one has been done.

What has died runs no more. In one thread that can only be an exception, and one that no program catches:
to a program an OSError would be a disk that answers, and it would still write down what it thinks of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chaos.simulation.disk import PoweredOff
from chaos.simulation.stepped_work import ProcessDisk


class Died(BaseException):
    """The process that made this call is dead; its work ends here."""


class MortalDisk(ProcessDisk):
    """Implements gfs.disk.Disk. Every call of a process that has died raises Died."""

    _calls_left: int | None = None
    _is_done_first = False
    _on_death: Callable[[], None]

    def die_at_call(self, calls: int, *, is_done_first: bool, on_death: Callable[[], None]) -> None:
        """After `calls` more, die in the next one, before or after it is done: `on_death` ends the process.

        It is called in the middle of the program's work, which may hold locks.
        """
        self._calls_left, self._is_done_first, self._on_death = calls, is_done_first, on_death

    def live_on(self) -> None:
        """Forget die_at_call()."""
        self._calls_left = None

    def call(self, change: Callable[..., Any], *arguments: Any) -> Any:  # Any: as ProcessDisk's
        if self.is_dead:
            raise Died
        if self._calls_left is not None:
            self._calls_left -= 1
        is_last = self._calls_left is not None and self._calls_left < 0
        try:
            result = super().call(change, *arguments) if not is_last or self._is_done_first else None
        except PoweredOff as error:
            raise Died from error
        except OSError:
            if not is_last:
                raise
        if is_last:
            self._calls_left = None
            self._on_death()
            assert self.is_dead
            raise Died
        return result
