"""Every promise of the GFS paper (SOSP 2003) as a box, in our words; @keeps says which one a test checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

Test = TypeVar("Test", bound=Callable[..., object])


class Box(NamedTuple):
    """`section`: of the paper. `promise`: what must be true of the running system."""

    id: str
    section: str
    promise: str


BOXES = (
    # §2.1-2.2 assumptions and interface
    Box("failures-are-the-norm", "2.1", "Failures are noticed, borne and mended without an operator."),
    Box("many-and-small-files", "2.1", "Many files, large ones above all; small ones work too."),
    Box("streams-and-small-reads", "2.1", "Long streaming reads, small random reads, appends, small writes."),
    Box("hundreds-of-appenders", "2.1", "Hundreds append to one file at once, while a reader follows it."),
    Box(
        "bandwidth-over-latency",
        "2.1",
        "A stream keeps several pieces on their way instead of waiting for each.",
    ),
    Box(
        "operations",
        "2.2",
        "Hierarchical names; create, delete, open, close, read, write, snapshot, record append.",
    ),
    # §2.3-2.5 architecture
    Box(
        "user-level-programs",
        "2.3",
        "Masters, chunk servers and clients are plain programs that may share a machine.",
    ),
    Box(
        "chunk-handles",
        "2.3",
        "A chunk has a fixed size and a unique, immutable 64-bit handle; replicas are local files.",
    ),
    Box(
        "three-replicas", "2.3", "Three replicas by default; the number can be set per part of the namespace."
    ),
    Box(
        "master-duties",
        "2.3",
        "The master holds names, rights, the chunk map and places; heartbeats carry orders and state.",
    ),
    Box(
        "no-data-through-master",
        "2.3",
        "No file byte passes a master; clients cache metadata, for a limited time, never data.",
    ),
    Box(
        "chunk-lookup",
        "2.4",
        "An offset becomes a chunk index; one answer places several chunks, also those that follow.",
    ),
    Box("nearest-replica", "2.4", "A read goes to the nearest replica."),
    Box("chunk-size", "2.5", "Chunks of 64 MiB take only the space that was written; connections are kept."),
    Box(
        "hot-spots", "2.5", "A file that everyone reads gets more replicas, and its readers spread over them."
    ),
    # §2.6 metadata
    Box(
        "locations-not-persisted",
        "2.6.2",
        "Names and chunk map are in the log; places of chunks are asked of chunk servers.",
    ),
    Box(
        "metadata-size",
        "2.6.1",
        "Little metadata per file and chunk; common prefixes of names are stored once.",
    ),
    Box(
        "background-scan",
        "2.6.1",
        "The whole state is scanned in the background: garbage, re-replication, migration.",
    ),
    Box(
        "operation-log",
        "2.6.3",
        "The log is the only lasting record and the time line; ids come from logical time.",
    ),
    Box(
        "flushed-before-visible",
        "2.6.3",
        "A change is seen only when its record is on the disks of the masters; flushes are shared.",
    ),
    Box(
        "checkpoint-by-log-size",
        "2.6.3",
        "A checkpoint when the log has grown; recovery is the newest one and the log behind it.",
    ),
    Box(
        "checkpoint-form",
        "2.6.3",
        "A checkpoint is a compact B-tree, mapped into memory and read without parsing.",
    ),
    Box("checkpoint-aside", "2.6.3", "Making a checkpoint does not hold up mutations."),
    Box(
        "checkpoints-kept",
        "2.6.3",
        "A few old checkpoints are kept; incomplete ones are recognised and passed over.",
    ),
    # §2.7 consistency
    Box("namespace-atomic", "2.7.1", "Changes of the namespace are atomic and in one global order."),
    Box(
        "defined-regions",
        "2.7.1",
        "After successful mutations a region holds the last one, alike on every replica.",
    ),
    Box(
        "stale-replicas-out",
        "2.7.1",
        "Stale replicas take no part in mutations, are handed to nobody, and are collected.",
    ),
    Box(
        "stale-read-window",
        "2.7.1",
        "What a client may read late is bounded by its cache's time limit and the next open.",
    ),
    Box(
        "unavailable-never-corrupt",
        "2.7.1",
        "A chunk without good replica is an error that says so, never wrong bytes.",
    ),
    Box(
        "record-library",
        "2.7.2",
        "Write then rename; records that verify and name themselves; padding and fragments skipped.",
    ),
    # §3 interactions
    Box(
        "leases",
        "3.1",
        "A lease of 60 s makes a primary; extended by heartbeats, revoked early, granted anew after it ends.",
    ),
    Box(
        "mutation-order",
        "3.1",
        "Order is that of the grants, then of the primary's consecutive serial numbers.",
    ),
    Box(
        "write-steps",
        "3.1",
        "Data to all, then one request to the primary, in its order to all; any error is an error, retried.",
    ),
    Box(
        "push-buffer",
        "3.1",
        "Pushed data waits in a buffer, least recently used out first, until used or aged out.",
    ),
    Box(
        "large-writes-split",
        "3.1",
        "A large or straddling write is split; mixed with others it is consistent, if undefined.",
    ),
    Box(
        "data-chain",
        "3.2",
        "Data goes down a chain, nearest server next, each forwarding while it still receives.",
    ),
    Box(
        "record-append",
        "3.3",
        "Record append: atomic, offset chosen by the primary, padding at the end, a quarter chunk at most.",
    ),
    Box(
        "snapshot",
        "3.4",
        "Snapshot: leases revoked, metadata doubled, chunks shared and copied locally at the first write.",
    ),
    # §4 the master
    Box("namespace-table", "4.1", "Names are a lookup table, with read-write locks made when needed."),
    Box(
        "namespace-locks",
        "4.1",
        "Read locks on the ancestors, ordered by level, then name; creations in a directory go side by side.",
    ),
    Box(
        "placement",
        "4.2",
        "New replicas: below-average disks, few recent creations a server, spread over racks.",
    ),
    Box(
        "re-replication",
        "4.3",
        "Missing replicas are made again, the worst first, within limits on clones and bandwidth.",
    ),
    Box("rebalancing", "4.3", "Replicas move gradually to emptier servers; a new one is filled slowly."),
    Box(
        "garbage-collection",
        "4.4",
        "Deleted files stay readable and can be brought back for days; orphans go by heartbeat.",
    ),
    Box(
        "versions",
        "4.5",
        "A version rises with each grant, lasting before any client is told; it shows stale replicas.",
    ),
    # §5 fault tolerance
    Box("fast-recovery", "5.1.1", "Any stop is a kill; start-up takes seconds and no repair."),
    Box(
        "master-replication",
        "5.1.3",
        "Log and checkpoints on several machines; another master takes over by itself.",
    ),
    Box("shadow-masters", "5.1.3", "Shadow masters answer reads a little late, also when nobody can write."),
    Box(
        "checksums",
        "5.2",
        "Blocks of 64 KiB with 32-bit sums, checked at every read; a bad replica is cloned anew; idle scan.",
    ),
    Box(
        "diagnosis",
        "5.3",
        "Events and all requests but file data are logged; interactions can be rebuilt and played back.",
    ),
    Box("rights-and-quotas", "7", "Owners, modes and quotas keep users from each other's way."),
)
_IDS = frozenset(box.id for box in BOXES)
assert len(_IDS) == len(BOXES)


def keeps(*boxes: str) -> Callable[[Test], Test]:
    """Mark a test as one that fails when one of these promises is broken."""
    unknown = set(boxes) - _IDS
    assert boxes and not unknown, f"no such box: {', '.join(sorted(unknown))}"
    return lambda test: test
