"""Every workload by its name."""

from __future__ import annotations

from collections.abc import Mapping

from gfs.verification.workloads.append import AppendWorkload
from gfs.verification.workloads.churn import ChurnWorkload
from gfs.verification.workloads.interface import Workload
from gfs.verification.workloads.leases import LeasesWorkload
from gfs.verification.workloads.mix import MixWorkload
from gfs.verification.workloads.namespace import NamespaceWorkload
from gfs.verification.workloads.regions import RegionsWorkload
from gfs.verification.workloads.snapshot import SnapshotWorkload
from gfs.verification.workloads.stream import StreamWorkload
from gfs.verification.workloads.trash import TrashWorkload

WORKLOADS: Mapping[str, type[Workload]] = {
    "namespace": NamespaceWorkload,
    "append": AppendWorkload,
    "regions": RegionsWorkload,
    "stream": StreamWorkload,
    "snapshot": SnapshotWorkload,
    "trash": TrashWorkload,
    "leases": LeasesWorkload,
    "churn": ChurnWorkload,
    "mix": MixWorkload,
}
