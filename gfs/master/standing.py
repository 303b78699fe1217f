"""Whether this master may be used, and why not. Decides nothing: others find out, others obey.

full: the disk cannot take the state; reads go on from what was committed, everything else is refused.
untrusted: the state may differ from the other masters' (I7); nothing is answered from it (see quarantine).
"""

from __future__ import annotations

from gfs.errors import Unavailable
from gfs.telemetry import logger

_log = logger("master")


class Standing:
    """Good until something is reported. A full disk stands until the process ends, distrust until it is
    lifted."""

    def __init__(self) -> None:
        self._full = ""
        self._quarantine = ""
        self._quarantine_step = ""

    @property
    def reason(self) -> str:
        """Why this master is out of service; empty when it is not."""
        return self._quarantine or self._full

    @property
    def untrusted(self) -> bool:
        return bool(self._quarantine)

    @property
    def role(self) -> str:
        """What a status page calls a master that is out of service."""
        return "quarantined" if self._quarantine else "out of service"

    def next_step(self) -> str:
        """What an operator does about it."""
        return self._quarantine_step or "Free space on its disk; it then starts anew by itself"

    def require_trust(self) -> None:
        """Raises: Unavailable while the state is not to be trusted."""
        if self._quarantine:
            raise Unavailable(
                f"this master is quarantined: {self._quarantine}", hint=f"{self._quarantine_step}."
            )

    def report_full(self, reason: str) -> None:
        if not self._full:
            self._full = reason
            _log.critical("this master takes no more mutations: its disk is full", reason=reason)

    def report_untrusted(self, reason: str, *, step: str) -> None:
        if reason != self._quarantine:
            _log.critical("ALERT: this master is quarantined", reason=reason, next=step)
        self._quarantine, self._quarantine_step = reason, step

    def report_trusted(self) -> None:
        if self._quarantine:
            _log.warning("this master is in service again", was=self._quarantine)
        self._quarantine = self._quarantine_step = ""
