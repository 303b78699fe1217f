"""Whether a checkpoint is sound: manifest, bytes, every rule about rows, the digest. Rules are the core's.

What is found is reported, not raised; the rows of a file whose bytes are wrong are looked at all the same.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator

import msgspec

from gfs.errors import GfsError
from gfs.inspect.checkpoint_files import CheckpointFile, bytes_fault
from gfs.inspect.checkpoint_tables import CheckpointTables
from gfs.inspect.disk_sorter import DiskSorter
from gfs.inspect.guarded import GuardedReader
from gfs.inspect.row_names import row_name
from gfs.master.core.digest import digest_rows
from gfs.master.core.invariants import find_faults
from gfs.master.core.list_rules import check_digest
from gfs.master.core.records import APPLIED_KEY
from gfs.master.core.soundness import Report
from gfs.master.core.tables import Table
from gfs.master.replication.checkpoints import CheckpointManifest

FINDINGS_KEPT = 1000  # the others are counted


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong. `table` and `key`: of the row; both empty when it is the file itself."""

    rule: str
    table: str = ""
    key: str = ""
    message: str


class Verdict(msgspec.Struct, kw_only=True):
    """The result for one checkpoint. `findings` holds the first of them, `counts` all by rule."""

    path: str
    index: int = 0
    term: int = 0
    rows: dict[str, int] = msgspec.field(default_factory=dict)
    findings: list[Finding] = msgspec.field(default_factory=list)
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        return not self.counts

    def add(self, finding: Finding) -> None:
        self.counts[finding.rule] = self.counts.get(finding.rule, 0) + 1
        self.findings.append(finding)


class _Told(msgspec.Struct, array_like=True):
    """What a child tells: a finding; how many rows there are; how many findings there were of each rule."""

    finding: Finding | None = None
    rows: dict[str, int] = msgspec.field(default_factory=dict)
    counts: dict[str, int] = msgspec.field(default_factory=dict)


class _Findings:
    """Of the findings of one child so many as are shown; the others are counted."""

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self._counts: dict[str, int] = {}

    def add(self, rule: str, table: Table, key: bytes, told: str) -> None:
        self._counts[rule] = self._counts.get(rule, 0) + 1
        if len(self._kept) < FINDINGS_KEPT:
            name = table.value.decode()
            self._kept.append(Finding(rule=rule, table=name, key=row_name(table, key), message=told))

    def told(self) -> Iterator[bytes]:
        for finding in self._kept:
            yield _encode(_Told(finding=finding))
        yield _encode(_Told(counts=self._counts))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Told).decode


def verify(file: CheckpointFile) -> Verdict:
    """Look at everything. Raises: OSError; never for what the file holds."""
    began = time.monotonic()
    verdict = Verdict(path=file.path)
    if file.manifest is not None:
        verdict.index, verdict.term = file.manifest.index, file.manifest.term
    elif file.fault is not None:
        verdict.add(Finding(rule="manifest", message=file.fault.message))
    fault = bytes_fault(file)
    if fault is not None and file.manifest is not None:
        verdict.add(Finding(rule="bytes", message=fault))
    name = os.path.basename(file.path)
    # Each takes a core: the digest costs as much as all rules together.
    digest = GuardedReader(lambda: _digest_findings(file.path), name)
    rules = GuardedReader(lambda: _rule_findings(file.path, file.manifest), name)
    for reader in (rules, digest):
        try:
            for body in reader:
                told = _decode(body)
                if told.finding is not None:
                    verdict.findings.append(told.finding)
                for rule, count in told.counts.items():
                    verdict.counts[rule] = verdict.counts.get(rule, 0) + count
                verdict.rows = told.rows or verdict.rows
        except GfsError as error:
            finding = Finding(rule="unreadable", message=error.message)
            if finding not in verdict.findings:
                verdict.add(finding)
    verdict.seconds = round(time.monotonic() - began, 3)
    return verdict


def _rule_findings(path: str, manifest: CheckpointManifest | None) -> Iterator[bytes]:
    found = _Findings()
    try:
        tables = CheckpointTables(path, any_format=True)
        yield _encode(_Told(rows={table.value.decode(): tables.rows(table) for table in Table}))
        for table in tables.missing:
            found.add("missing table", table, b"", f"there is no table {table.value.decode()}")
        for name in tables.unknown:
            found.add("unknown table", Table.META, name, f"nothing is known of a table {name!r}")
        if manifest is not None:
            _check_applied(tables, manifest, found.add)
        find_faults(tables, found.add, sorter=DiskSorter)
    finally:
        yield from found.told()


def _digest_findings(path: str) -> Iterator[bytes]:
    found = _Findings()
    tables = CheckpointTables(path, any_format=True, any_order=True)  # a sum; the rules see to the order
    check_digest(tables, found.add, digest_rows(tables))
    yield from found.told()


def _check_applied(tables: CheckpointTables, manifest: CheckpointManifest, report: Report) -> None:
    try:
        applied = struct.unpack(">QQ", tables.get(Table.META, APPLIED_KEY) or b"")
    except struct.error:
        applied = (0, 0)
    if applied != (manifest.index, manifest.term):
        told = f"the state is at {applied}, its manifest says ({manifest.index}, {manifest.term})"
        report("applied", Table.META, APPLIED_KEY, told)
