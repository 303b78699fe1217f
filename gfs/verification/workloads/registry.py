"""All workloads by name."""

from __future__ import annotations

from collections.abc import Mapping

from gfs.verification.workloads.append import AppendWorkload
from gfs.verification.workloads.interface import Workload
from gfs.verification.workloads.leases import LeasesWorkload
from gfs.verification.workloads.mix import MixWorkload
from gfs.verification.workloads.namespace import NamespaceWorkload
from gfs.verification.workloads.regions import RegionsWorkload
from gfs.verification.workloads.stream import StreamWorkload

_ALL: tuple[type[Workload], ...] = (
    NamespaceWorkload,
    AppendWorkload,
    RegionsWorkload,
    StreamWorkload,
    LeasesWorkload,
    MixWorkload,
)

WORKLOADS: Mapping[str, type[Workload]] = {workload.name: workload for workload in _ALL}
