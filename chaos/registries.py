"""Workloads and checkers by name, looked up when they are wanted."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import cast

from gfs.verification.checkers.interface import Checker
from gfs.verification.workloads.interface import Workload


def checkers() -> Mapping[str, Checker]:
    module = importlib.import_module("gfs.verification.checkers.registry")
    return cast(Mapping[str, Checker], module.CHECKERS)


def workloads() -> Mapping[str, type[Workload]]:
    module = importlib.import_module("gfs.verification.workloads.registry")
    return cast(Mapping[str, type[Workload]], module.WORKLOADS)
