"""Workload: many append to one chunk at once, so that all depends on who is its primary (GFS §3.1)."""

from __future__ import annotations

from gfs.verification.workloads.append import AppendWorkload


class LeasesWorkload(AppendWorkload):
    """As `append`, with more writers and a single file: whoever is its primary orders all of it."""

    name = "leases"
    checkers: tuple[str, ...] = ("append", "leases")
    writers, files = 6, 1
