"""Whole programs that stand still, as when their machine does: by control groups, or else by SIGSTOP."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from chaos.kernel import machine
from chaos.kernel.machine import CommandFailed, Run

FROZEN_SECONDS_MAX = 5.0


class Freezer:
    """`has_groups`: a freezer of version 1 is there; without one, every thread is stopped by SIGSTOP."""

    def __init__(self, run: Run, *, has_groups: bool) -> None:
        self._run, self._has_groups = run, has_groups

    def freeze(self, node: str, process: int) -> None:
        """Returns once nothing of it runs. Raises: CommandFailed."""
        if not self._has_groups:
            os.kill(process, signal.SIGSTOP)
            return
        group = machine.freezer_group(self._run, node)
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(f"{process}")
        (group / "freezer.state").write_text("FROZEN")
        deadline = time.monotonic() + FROZEN_SECONDS_MAX
        while (group / "freezer.state").read_text().strip() != "FROZEN":
            if time.monotonic() > deadline:
                raise CommandFailed(f"{node} has not frozen in {FROZEN_SECONDS_MAX:.0f} s")
            time.sleep(0.002)

    def thaw(self, node: str, process: int) -> None:
        if not self._has_groups:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
            return
        with contextlib.suppress(FileNotFoundError):
            (machine.freezer_group(self._run, node) / "freezer.state").write_text("THAWED")
