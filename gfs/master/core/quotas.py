"""Limits on how much may lie below a directory, checked before anything is added there. Sums are usage.py's.

A quota counts files and directories together, and bytes as far as the master knows them: a file whose length
is not exact (it is being written, or was left unclosed, or records are appended to it) counts with whole
chunks. A chunk is refused once no byte is left, so what is below a directory ends at most one chunk beyond
its quota, and what grows within its last chunk later; nothing acknowledged is ever taken back. What is in
the trash does not count.
"""

from __future__ import annotations

from collections.abc import Collection

from gfs.errors import QuotaExceeded
from gfs.master.core.lookup import path_of
from gfs.master.core.policies import UNSET
from gfs.master.core.records import PolicyRecord, decode_policy, read_id
from gfs.master.core.tables import Table
from gfs.master.core.usage import AccountedTables
from gfs.vocabulary import InodeId

NAME_SEARCH_ROWS_MAX = 1000  # to name a directory in a refusal: one record is applied in under 10 ms


class Quotas:
    """The limits in force, all in memory: few directories have one, and every creation asks."""

    def __init__(self, tables: AccountedTables) -> None:
        self._tables = tables
        self._limits: dict[int, tuple[int, int]] = {}  # entries, bytes; UNSET's value where there is none
        for key, row in tables.scan(Table.POLICIES):
            self.set_limits(read_id(key), decode_policy(row))

    def set_limits(self, directory: int, policy: PolicyRecord) -> None:
        if (policy.files_max, policy.bytes_max) == (UNSET.files_max, UNSET.bytes_max):
            self._limits.pop(directory, None)
        else:
            self._limits[directory] = policy.files_max, policy.bytes_max

    def check_entries(
        self, parent: int, entries: int, content_bytes: int = 0, *, already_in: Collection[int] = ()
    ) -> None:
        """Before `entries` files and directories with so many bytes come to be below `parent`.

        `already_in`: directories below which they are now, so that nothing changes for these.
        Raises: QuotaExceeded.
        """
        if not self._limits:
            return
        for directory in self._tables.directories_above(parent):
            limits = self._limits.get(directory)
            if limits is None or directory in already_in:
                continue
            entries_max, bytes_max = limits
            used = self._tables.usage(directory)
            if entries_max != UNSET.files_max and entries > 0 and used.entries + entries > entries_max:
                raise self._exceeded(
                    directory, f"{entries_max} files and directories, and has {used.entries}; {entries} more"
                )
            limited = bytes_max != UNSET.bytes_max and content_bytes > 0
            if limited and used.content_bytes + content_bytes > bytes_max:
                raise self._exceeded(
                    directory, f"{bytes_max} bytes, and has {used.content_bytes}; {content_bytes} more"
                )

    def check_chunk(self, parent: int, more_bytes: int) -> None:
        """Before a file in `parent` gets a chunk. `more_bytes`: by which its other chunks will count more.

        Raises: QuotaExceeded.
        """
        if not self._limits:
            return
        for directory in self._tables.directories_above(parent):
            bytes_max = self._limits.get(directory, (UNSET.files_max, UNSET.bytes_max))[1]
            if bytes_max != UNSET.bytes_max:
                used = self._tables.usage(directory).content_bytes
                if used + more_bytes >= bytes_max:
                    raise self._exceeded(directory, f"{bytes_max} bytes, all in use while files are written")

    def above(self, directory: int) -> frozenset[int]:
        """`directory` and those above it; nothing as long as there are no quotas."""
        return frozenset(self._tables.directories_above(directory)) if self._limits else frozenset()

    def _exceeded(self, directory: int, what: str) -> QuotaExceeded:
        path = path_of(self._tables, InodeId(directory), rows_max=NAME_SEARCH_ROWS_MAX)
        return QuotaExceeded(f"the quota of {path} is {what}")
