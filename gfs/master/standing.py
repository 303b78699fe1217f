"""Whether this master may be used, and why not. Decides nothing: others find out, others obey.

full: the disk cannot take the state; reads go on from what was committed, everything else is refused.
untrusted: the state differs from the other masters' (I7); nothing is answered from it any more.
"""

from __future__ import annotations

from gfs.telemetry import logger

_log = logger("master")


class Standing:
    """Good until something is reported; then the first report stands until the process ends."""

    def __init__(self) -> None:
        self.reason = ""
        self.untrusted = False

    def next_step(self, me: str) -> str:
        """What an operator does about it."""
        if not self.untrusted:
            return "Free space on its disk; it then starts anew by itself"
        return (
            f"Its state differs from the others': stop it, empty its directory, start it, and run "
            f"'gfs admin members readmit {me}'"
        )

    def report_full(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            _log.critical("this master takes no more mutations: its disk is full", reason=reason)

    def report_untrusted(self, reason: str) -> None:
        self.untrusted = True
        if not self.reason:
            self.reason = reason
        _log.critical("ALERT: this master is out of service: its state differs", reason=reason)
