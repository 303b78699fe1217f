"""Setting policies of directories, and what a sound one is. What holds where is policies.py's to say.

Invariant: a directory that sets nothing has no row.
"""

from __future__ import annotations

import msgspec

from gfs.errors import InvalidArgument
from gfs.master.core.digest import DigestedTables
from gfs.master.core.lookup import find_directory, names_to_change
from gfs.master.core.policies import UNSET, InheritedPolicies, own_policy
from gfs.master.core.quotas import Quotas
from gfs.master.core.records import PolicyRecord, encode_policy, id_key
from gfs.master.core.tables import Table
from gfs.messages.operations import POLICY_FIELDS, SetPolicy
from gfs.vocabulary import REPLICATION_GOAL_MAX, InodeId

TRASH_MS_MAX = 100 * 366 * 86400 * 1000
QUOTA_MAX = 2**62
DURABILITIES = ("flush", "sync")
assert set(POLICY_FIELDS) == set(PolicyRecord.__struct_fields__)


class PolicyTable:
    """Every method checks first and writes after: when it raises, nothing was written."""

    def __init__(self, tables: DigestedTables, quotas: Quotas) -> None:
        self._tables = tables
        self._quotas = quotas

    def set_policy(self, operation: SetPolicy) -> InodeId:
        """Raises: InvalidPath, NotFound, NotADirectory, InvalidArgument."""
        directory = find_directory(self._tables, names_to_change(operation.path))
        policy = changed(own_policy(self._tables, directory), operation)
        above = InheritedPolicies(self._tables).of_directory(directory)
        replicas, racks = policy.replicas or above.replicas, policy.racks or above.racks
        if 0 < replicas < racks and (operation.replicas > 0 or operation.racks > 0):
            raise InvalidArgument(f"{replicas} replicas cannot be in {racks} racks")
        key = id_key(directory)
        row = self._tables.get(Table.POLICIES, key)
        if policy == UNSET:
            if row is not None:
                self._tables.remove(Table.POLICIES, key, old=row)
        elif row is None:
            self._tables.insert(Table.POLICIES, key, encode_policy(policy))
        else:
            self._tables.replace(Table.POLICIES, key, old=row, new=encode_policy(policy))
        self._quotas.set_limits(directory, policy)
        return directory


def changed(own: PolicyRecord, operation: SetPolicy) -> PolicyRecord:
    """`own` with what the operation sets and unsets. Raises: InvalidArgument for a value without sense."""
    unknown = [name for name in operation.unset if name not in POLICY_FIELDS]
    if unknown:
        raise InvalidArgument(f"a policy has no {unknown[0][:40]!r}; it has {', '.join(POLICY_FIELDS)}")
    given = {
        name: value
        for name in POLICY_FIELDS
        if (value := getattr(operation, name)) != ("" if name == "durability" else -1)
    }
    for name in given:
        if name in operation.unset:
            raise InvalidArgument(f"{name} cannot be set and unset at once")
    _check_range("replicas", given, 1, REPLICATION_GOAL_MAX)
    _check_range("racks", given, 1, REPLICATION_GOAL_MAX)
    _check_range("trash_ms", given, 0, TRASH_MS_MAX)
    _check_range("files_max", given, 0, QUOTA_MAX)
    _check_range("bytes_max", given, 0, QUOTA_MAX)
    if operation.durability and operation.durability not in DURABILITIES:
        raise InvalidArgument(
            f"{operation.durability[:40]!r} is no durability; there are {', '.join(DURABILITIES)}"
        )
    given |= {name: getattr(UNSET, name) for name in operation.unset}
    return msgspec.structs.replace(own, **given)


def _check_range(name: str, given: dict[str, int], low: int, high: int) -> None:
    if name in given and not low <= given[name] <= high:
        raise InvalidArgument(f"{name} cannot be {given[name]}: it is within {low}..{high}")
