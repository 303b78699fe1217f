"""All faults by name. What they do stands in `links`, `shapes`, `programs` and `disks`."""

from __future__ import annotations

from chaos.faults.disks import DISK_FAULTS
from chaos.faults.interface import Fault
from chaos.faults.links import LINK_FAULTS
from chaos.faults.programs import PROGRAM_FAULTS
from chaos.faults.shapes import SHAPE_FAULTS

FAULTS: dict[str, Fault] = {
    fault.name: fault for fault in (*LINK_FAULTS, *SHAPE_FAULTS, *PROGRAM_FAULTS, *DISK_FAULTS)
}
