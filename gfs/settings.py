"""Configuration and limits: one typed `gfs.toml`, `GFS__SECTION__KEY` over it. Nothing else is tunable.

Precedence: command-line flag > environment > file > default here. Durations are in seconds, sizes in
bytes; a size may be written "64MiB", a duration "500ms". Unknown keys are refused with their path.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from gfs.errors import ConfigInvalid
from gfs.vocabulary import CHUNK_BYTES, MIB, RECORD_BYTES_MAX, Address

# --- limits that are part of the design, not of a configuration --------------------------------

FRAME_BYTES_MAX = 4 * MIB  # one control message
CALLS_IN_FLIGHT_MAX = 1024  # per connection; more wait at the sender
SEND_QUEUE_BYTES_MAX = 8 * MIB  # per connection; more is back-pressure
CONNECTIONS_MAX = 4096  # per program
CONNECT_SECONDS_MAX = 2.0  # to connect and say hello, unless the call's deadline is nearer
HELLO_SECONDS_MAX = 5.0  # a connection that has not asked anything by then is closed
PING_BUSY_SECONDS = 0.5  # of silence with calls in flight
PING_IDLE_SECONDS = 5.0  # of silence without
SILENCE_BUSY_SECONDS_MAX = 2.0  # with calls in flight: the connection is dead
SILENCE_IDLE_SECONDS_MAX = 15.0  # without, and at the server: the peer is gone
HTTP_CALL_SECONDS = 30.0  # deadline of a plain POST that names none
HTTP_CALL_SECONDS_MAX = 300.0
HTTP_HEAD_BYTES_MAX = 16 * 2**10  # bulk wire
PUSH_BYTES_MAX = 16 * MIB  # one pushed piece; larger writes are split by the client (GFS §3.1)
LIST_PAGE_MAX = 4096
GATEWAY_REQUESTS_MAX = 256  # under way in one gateway; more are refused
GATEWAY_STALL_SECONDS = 60.0  # without a byte of a body, in either direction: the connection is dead
GATEWAY_LISTED_MAX = 10_000  # entries of a directory on one page for a browser
STATS_TOGETHER_MAX = 64  # paths in one StatMany: the master's loop does nothing else while it looks them up
GLOB_SCAN_MAX = 20_000  # entries looked at for one page of a glob
CHANGES_KEPT_MAX = 50_000  # the latest changes that a master remembers for watchers
CHANGES_KEPT_BYTES_MAX = 16 * MIB
CHANGES_PAGE_MAX = 256  # changes looked at for one answer to a watcher, unless one log entry has more
WATCHERS_MAX = 1024  # that wait at one master; more are sent away
WATCH_SECONDS_MAX = 60.0  # for one answer, if an empty one
TRASH_SCAN_MAX = 5000  # entries looked at for one page of the trash
TRASH_SUM_MAX = 1000  # entries whose bytes are added up for 'gfs status'
PURGE_ENTRIES_MAX = 256  # of the trash, by one operation
RECLAIM_ROWS_MAX = 500  # rows of the tables that one Reclaim takes away: keeps its apply short
FIND_CHUNKS_MAX = 256
REPORT_PAGE_CHUNKS = 20_000  # chunks in one page of a full report
MUTATIONS_IN_FLIGHT_MAX = 256  # of one chunk version, at its primary and held at its secondaries
ANSWERED_WRITES_KEPT = 256  # of one chunk version: a repeated write is answered as the first was
APPLIED_MUTATIONS_KEPT = 1024  # of one chunk version: a repeated mutation is recognised, not applied again
INLINE_RECORD_BYTES_MAX = 64 * 2**10  # a record up to this comes with its request, a longer one is pushed
INLINE_WRITE_BYTES_MAX = 64 * 2**10  # and so does a write: a push down the chain costs more than the bytes
RECORD_BATCH_MAX = 512  # records that one mutation takes to the secondaries
RECORD_BATCH_BYTES_MAX = MIB
RECORD_GATHER_SECONDS = 0.001  # how long records may wait for others to make up a batch with
RECORDS_WAITING_MAX = 4096  # for their place in one chunk; more are refused
RECORDS_WAITING_BYTES_MAX = 16 * MIB
RECORDS_REMEMBERED_MAX = 4096  # identified records of one chunk whose clients may still repeat them (I9)
MUTATION_RUN_MAX = 8  # consecutive mutations of one chunk written in one visit to a worker thread
STORE_THREADS = 8  # worker threads of a chunk server's storage
CHUNK_ORDERS_KEPT = 65_536  # chunks whose order of mutations is in memory; idle ones beyond it are forgotten
LEASES_NAMED_MAX = 20_000  # in one heartbeat
CORRUPT_NAMED_MAX = 1000  # in one heartbeat
GARBAGE_REPLICAS_PER_HEARTBEAT = 512  # of a server's replicas, looked at by the leader (GFS §4.4: a subset)
MASTERS_NAMED_MAX = 16  # addresses of masters that a program takes from an answer and goes on to dial
GARBAGE_NAMED_MAX = 1000  # for each reason, in the answer to one heartbeat
GUESTS_NAMED_MAX = 1000  # in one heartbeat
UNSETTLED_NAMED_MAX = 1000  # replicas that may be short since a power cut, in one heartbeat
DELETIONS_WAITING_MAX = 10_000  # replicas a leader has named and that are not deleted yet
CHECKS_RUNNING_MAX = 2  # replicas that one chunk server verifies or mends at once because somebody asks
CHECK_PAGE_CHUNKS = 250  # files and chunks looked at for one page of fsck: a few milliseconds
REPAIR_FILES_MAX = 1000  # paths in one request to repair them first
CHUNK_HOMES_KEPT = 65_536  # chunks of which a master remembers the file
SCRUB_PIECE_BYTES = MIB  # verified in one visit to the scrubber's thread
SCRUB_BUSY_DIVISOR = 8  # how much slower a scrubber goes while its server has work from clients
SCRUB_SAVE_SECONDS = 10.0  # how much of a pass a kill may make a scrubber repeat
CLONES_RUNNING_MAX = 8  # copies one chunk server receives at once; more are refused
CLONE_PIECE_BYTES = MIB  # fetched in one read of a source
CLONE_ROUNDS_MAX = 5  # copies of what a writer has changed meanwhile, before the chunk is fenced all the same
CLONE_BYTES_LEFT_MAX = 4 * MIB  # so little is copied while the chunk is fenced
GUEST_IDLE_SECONDS = 600.0  # a copy that nobody has gone on with for so long is deleted, unless it is whole
GUESTS_NAMED_MAX = 1000  # whole guests in one heartbeat
REVOKED_CHUNKS_MAX = 10_000  # leases one message takes back
CLONES_WAITING_MAX = 20_000  # chunks a leader remembers as short of replicas; the next walk finds the rest
CLONE_FAILURES_KEPT = 20_000  # chunks for which it remembers why the last clone failed
SHORTAGES_KEPT = 4096  # chunks it remembers as lately wanted by a client and short of replicas
SESSION_WINDOW = 1024  # outcomes kept per client
SESSION_IDLE_SECONDS = 3600.0
RETRY_SECONDS_MAX = 120.0
CLIENT_WORKERS_MAX = 16  # threads of one client that move bulk bytes
CLIENT_CALLS_IN_FLIGHT_MAX = 1024  # requests of one client to the masters; more wait in the client
READ_RANGE_BYTES = 4 * MIB  # one bulk read; larger reads are split
READ_LONG_RANGE_BYTES = 16 * MIB  # one bulk read of a read so long that several of these are in it
READ_RANGES_IN_FLIGHT = 4  # per read
READ_AHEAD_RANGES = 3  # ranges of a sequential reader that are on their way before they are asked for
CACHED_PLACES_MAX = 65_536  # chunk places one client remembers
LOOKUP_CHUNKS = 16  # places per lookup (GFS §2.3: several at once, and those after)
BACKUPS_OPEN_MAX = 2  # of one master at once
BACKUP_PIECE_BYTES = MIB  # of a checkpoint, in one answer
BACKUP_IDLE_SECONDS = 60.0  # a backup nobody has read from for so long may be closed
assert BACKUP_PIECE_BYTES < FRAME_BYTES_MAX // 2
assert PUSH_BYTES_MAX <= CHUNK_BYTES
APPEND_BYTES_MAX = min(RECORD_BYTES_MAX, PUSH_BYTES_MAX)  # one record: it is pushed in one piece (GFS §3.3)
assert PING_BUSY_SECONDS * 2 < SILENCE_BUSY_SECONDS_MAX  # one lost ping is not a dead peer
assert PING_IDLE_SECONDS * 2 < SILENCE_IDLE_SECONDS_MAX
assert SESSION_IDLE_SECONDS > 10 * RETRY_SECONDS_MAX  # a retry always finds its first outcome
assert SESSION_WINDOW >= CALLS_IN_FLIGHT_MAX
assert READ_RANGES_IN_FLIGHT <= CLIENT_WORKERS_MAX
assert READ_LONG_RANGE_BYTES % READ_RANGE_BYTES == 0 and CHUNK_BYTES % READ_LONG_RANGE_BYTES == 0
assert LOOKUP_CHUNKS <= FIND_CHUNKS_MAX
assert INLINE_RECORD_BYTES_MAX <= RECORD_BATCH_BYTES_MAX < FRAME_BYTES_MAX // 2
assert INLINE_WRITE_BYTES_MAX < FRAME_BYTES_MAX // 2
assert APPLIED_MUTATIONS_KEPT > MUTATIONS_IN_FLIGHT_MAX  # whatever a primary may still repeat is known


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ClusterSettings(_Section, frozen=True, kw_only=True):
    """`id` keeps the chunk servers of two clusters apart; `secret_file` authenticates masters."""

    name: str = "gfs"
    id: str = ""
    secret_file: str = ""
    allow_insecure_network: bool = False  # listen beyond loopback although nothing is encrypted


class MasterNode(_Section, frozen=True, kw_only=True):
    """One master: control and Raft addresses, and where it keeps its log, checkpoints and state."""

    control: Address
    raft: Address
    directory: str = ""
    dial: dict[str, Address] = {}  # peer id -> address to reach its Raft port by (a proxy), default its own
    joins: bool = False  # an existing cluster: with an empty directory it waits for 'gfs admin members add'


class ChunkServerNode(_Section, frozen=True, kw_only=True):
    control: Address
    data: Address
    directory: str = ""
    rack: str = ""
    store: str = ""  # of this one; default: chunkserver.store
    tier: bool = True  # whether this one has the object service of chunkserver.tier


class RaftSettings(_Section, frozen=True, kw_only=True):
    election_seconds_min: float = 0.25
    election_seconds_max: float = 0.5
    heartbeat_seconds: float = 0.05
    checkpoint_log_bytes: int = 64 * MIB
    checkpoints_kept: int = 3
    segment_bytes: int = 64 * MIB
    proposals_waiting_max: int = 8192


class MasterSettings(_Section, frozen=True, kw_only=True):
    replication_goal: int = 3
    lease_seconds: float = 60.0
    trash_seconds: float = 3 * 86400.0
    chunkserver_dead_seconds: float = 5.0
    repair_delay_seconds: float = 30.0  # a chunk server may be away so long before it is replaced; or 0
    clones_max: int = 16  # under way at once in the cluster (§4.3)
    clones_per_server_max: int = 2  # … given and received by one chunk server
    rebalancing_max: int = 2  # … of them to level out disks and load; 0 leaves that to the operator
    bump_seconds: float = 0.7  # a replica that does not answer a version bump in time is left out
    clone_bytes_per_second: int = 64 * MIB  # of one copy of a chunk, while writers go on (GFS §4.3)
    restore_patience_seconds: float = 30.0  # after a restore chunk servers are awaited so long before files
    # of before are served without them
    state_bytes_max: int = 64 * 2**30  # LMDB map size: address space, not memory
    loop: str = "auto"  # auto, uvloop or asyncio


class AccessSettings(_Section, frozen=True, kw_only=True):
    """Owner and mode of files are checked for everybody but `superuser` (empty: who runs the masters).

    `tokens`: whoever calls must show a user's token ('gfs token'), or know the cluster's secret as a program
    of it; and chunk servers want a capability of a master for each chunk. The token whose SHA-256 is
    `first_token_sha256` is an admin's without being in the masters' state.
    """

    check: bool = True
    superuser: str = ""
    tokens: bool = False
    first_token_sha256: str = ""
    capability_seconds: float = 600.0  # for so long a client may use what a master has told it of a chunk
    key_rotation_seconds: float = 86400.0  # a key signs so long; what it signed holds as long again at most


class TlsSettings(_Section, frozen=True, kw_only=True):
    """Made by 'gfs cert'. With `ca_file` every control and Raft connection is TLS 1.3, and programs of the
    cluster show certificates to each other; clients need `ca_file` alone. Bulk bytes are not encrypted.

    `{node}` in a path is the name of the program that is started. The files are read again when they change.
    `denied_file`: nodes not to be believed any more, one on a line.
    """

    ca_file: str = ""
    certificate_file: str = ""  # of the program that is started
    key_file: str = ""
    denied_file: str = ""
    plain_data: bool = False  # chunk bytes may go beyond loopback, unencrypted as they are


class TierSettings(_Section, frozen=True, kw_only=True):
    """Chunks nobody has used for `idle_seconds` go to an object service; `recall`: all come back instead.

    Credentials come from the environment, as for the provider's own tools.
    """

    url: str = ""  # for example s3://bucket/prefix; empty: there is none
    recall: bool = False
    idle_seconds: float = 7 * 86400.0
    chunk_bytes_min: int = 4 * MIB  # shorter chunks stay
    cache_bytes: int = 64 * MIB  # of what was read from there, in memory
    bytes_per_second: int = 32 * MIB  # out and back, of one chunk server
    collect_seconds: float = 3600.0  # between two looks for objects that are not needed, or lost


class ChunkServerSettings(_Section, frozen=True, kw_only=True):
    store: str = "file"
    store_options: dict[str, dict[str, Any]] = {}  # by store; Any: checked by the store when it is opened
    durability: str = "flush"  # flush: synced within a second; sync: before the acknowledgement
    heartbeat_seconds: float = 0.5
    flush_seconds: float = 1.0
    push_buffer_bytes: int = 256 * MIB
    push_seconds: float = 60.0  # pushed bytes nobody ordered are dropped after this
    data_connections_max: int = 64
    forward_seconds: float = 0.8  # a mutation a secondary has not acknowledged by then has failed
    free_bytes_min: int = 64 * MIB
    congestion_control: str = "cubic"  # "" leaves the system's (BBR paces loopback to a third)
    scrub_bytes_per_second: int = 16 * MIB  # at most; an eighth of it while clients are served
    scrub_pass_seconds: float = (
        3 * 86400.0
    )  # at least, from the begin of one pass over all chunks to the next
    migrate_bytes_per_second: int = 64 * MIB  # at most, while chunks move to another store
    loop: str = "auto"
    tier: TierSettings = TierSettings()


class ClientSettings(_Section, frozen=True, kw_only=True):
    user: str = ""  # on whose behalf; empty: of whoever runs the program
    groups: str = ""  # of that user, separated by commas; empty: those the system knows
    token_file: str = ""  # holds the user's token, readable by nobody else; GFS_TOKEN_FILE comes before it
    ca_file: str = ""  # of the authority of a cluster that wants TLS; GFS_CA_FILE comes before it
    piece_bytes: int = 4 * MIB  # one push
    pieces_in_flight: int = 3
    metadata_cache_seconds: float = 5.0
    call_seconds: float = 5.0
    retry_seconds: float = 60.0
    quorum_seconds: float = 20.0  # give up after so long already, when a majority of masters is missing
    data_seconds: float = 10.0
    congestion_control: str = "cubic"


class TelemetrySettings(_Section, frozen=True, kw_only=True):
    level: str = "info"
    format: str = "auto"  # auto: json unless standard error is a terminal
    rpc_log_bytes: int = 32 * MIB  # of each program's ring of calls on disk; 0: only the newest, in memory
    event_log_bytes: int = 4 * MIB
    audit_log_bytes: int = 64 * MIB  # of each master that wants tokens, in all files; 0: none


class Settings(_Section, frozen=True, kw_only=True):
    cluster: ClusterSettings = ClusterSettings()
    masters: dict[str, MasterNode] = {}
    chunkservers: dict[str, ChunkServerNode] = {}
    raft: RaftSettings = RaftSettings()
    master: MasterSettings = MasterSettings()
    access: AccessSettings = AccessSettings()
    tls: TlsSettings = TlsSettings()
    chunkserver: ChunkServerSettings = ChunkServerSettings()
    client: ClientSettings = ClientSettings()
    telemetry: TelemetrySettings = TelemetrySettings()


S = TypeVar("S", bound=msgspec.Struct)

_SIZE_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*$")


def local_data_directory() -> str:
    """Where 'gfs up' has the cluster of this machine when nobody says otherwise; it need not exist."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "gfs", "local")


def load(path: str | None, *, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read `path` (None: defaults only) and lay `GFS__…` variables over it.

    Raises: ConfigInvalid naming the file and the key's path, what was found and what is expected.
    """
    tree: dict[str, Any] = {}  # Any: untyped TOML until convert() has checked it
    source = "the defaults"
    if path is not None:
        source = path
        try:
            with open(path, "rb") as file:
                tree = tomllib.load(file)
        except FileNotFoundError as error:
            raise ConfigInvalid(f"the configuration file {path!r} does not exist") from error
        except OSError as error:
            raise ConfigInvalid(f"cannot read the configuration file {path!r}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{path}: not valid TOML: {error}") from error
    for name, value in sorted(environment.items()):
        if name.startswith("GFS__"):
            _overlay(tree, name, value)
            source += f" with {name}"
    _read_units(tree, Settings, "$")
    try:
        settings = msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"{source}: {error}") from error
    _check(settings, source)
    return settings


def section_of(kind: type[S], table: Mapping[str, Any], where: str) -> S:
    """What a plug-in finds in its own table of gfs.toml. Raises: ConfigInvalid with the key's path."""
    tree = dict(table)
    _read_units(tree, kind, f"$.{where}")
    try:
        return msgspec.convert(tree, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"$.{where}: {error}") from error


def _overlay(tree: dict[str, Any], name: str, value: str) -> None:
    keys = [part.lower() for part in name.removeprefix("GFS__").split("__")]
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigInvalid(f"environment variable {name}: {key!r} is a value, not a section")
        node = child
    node[keys[-1]] = value


def _read_units(tree: dict[str, Any], kind: type[msgspec.Struct], where: str) -> None:
    """Turn "64MiB" and "500ms" into numbers in place, by the unit the key's name ends in."""
    for field in msgspec.structs.fields(kind):
        value = tree.get(field.encode_name)
        if isinstance(value, dict) and isinstance(field.type, type) and issubclass(field.type, _Section):
            _read_units(value, field.type, f"{where}.{field.encode_name}")
        elif isinstance(value, str) and (match := _QUANTITY.match(value)):
            number, unit = float(match[1]), match[2].lower()
            name = field.encode_name
            if "_bytes" in name or name == "bytes":
                if unit not in _SIZE_UNITS:
                    raise ConfigInvalid(
                        f"{where}.{name}: {value!r} is not a size; use one of B, KiB, MiB, GiB, TiB"
                    )
                tree[name] = int(number * _SIZE_UNITS[unit])
            elif "_seconds" in name:
                if unit not in _TIME_UNITS:
                    raise ConfigInvalid(
                        f"{where}.{name}: {value!r} is not a duration; use one of ms, s, m, h, d"
                    )
                tree[name] = number * _TIME_UNITS[unit]


_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})$")
_NODE_ID = re.compile(r"^[a-z0-9][a-z0-9-]{0,31}$")
_MAY_BE_ZERO = ("repair_delay_seconds", "rebalancing_max")
_LOOPBACK = ("127.", "localhost:", "[::1]:")


def _check(settings: Settings, source: str) -> None:
    addresses: dict[str, str] = {}
    nodes: list[tuple[str, dict[str, Address]]] = [
        *((f"masters.{k}", {"control": n.control, "raft": n.raft}) for k, n in settings.masters.items()),
        *(
            (f"chunkservers.{k}", {"control": n.control, "data": n.data})
            for k, n in settings.chunkservers.items()
        ),
    ]
    for node, named in nodes:
        if not _NODE_ID.match(node.split(".", 1)[1]):
            raise ConfigInvalid(f"{source}: $.{node}: an id is 1-32 of a-z, 0-9 and '-'")
        for key, address in named.items():
            match = _ADDRESS.match(address)
            if match is None or not 0 < int(match[2]) < 65536:
                raise ConfigInvalid(f"{source}: $.{node}.{key}: {address!r} is not host:port")
            if address in addresses:
                raise ConfigInvalid(f"{source}: $.{node}.{key}: {address} is also {addresses[address]}")
            addresses[address] = f"$.{node}.{key}"
            if missing := _missing_beyond_loopback(settings, key, address):
                raise ConfigInvalid(
                    f"{source}: $.{node}.{key}: {address} is beyond loopback, and that needs {missing}",
                    hint="Or set cluster.allow_insecure_network = true if this network is yours alone.",
                )
    for key, value, allowed in (
        ("chunkserver.durability", settings.chunkserver.durability, ("flush", "sync")),
        ("master.loop", settings.master.loop, ("auto", "uvloop", "asyncio")),
        ("chunkserver.loop", settings.chunkserver.loop, ("auto", "uvloop", "asyncio")),
        ("telemetry.format", settings.telemetry.format, ("auto", "json", "text")),
        ("telemetry.level", settings.telemetry.level, ("debug", "info", "warning", "error")),
    ):
        if value not in allowed:
            raise ConfigInvalid(f"{source}: $.{key}: {value!r} is not one of {', '.join(allowed)}")
    for section_name in ("raft", "master", "access", "chunkserver", "client"):
        section = getattr(settings, section_name)
        for field in msgspec.structs.fields(section):
            number = getattr(section, field.name)
            if not isinstance(number, int | float) or isinstance(number, bool) or number > 0:
                continue
            if number < 0 or field.name not in _MAY_BE_ZERO:
                raise ConfigInvalid(f"{source}: $.{section_name}.{field.name}: {number} is not above zero")
    if not re.fullmatch(r"([0-9a-fA-F]{64})?", settings.access.first_token_sha256):
        raise ConfigInvalid(f"{source}: $.access.first_token_sha256: it is not 64 hexadecimal digits")
    if settings.access.tokens and not (settings.cluster.secret_file and settings.cluster.id):
        raise ConfigInvalid(
            f"{source}: $.access.tokens: programs of the cluster need cluster.id and cluster.secret_file to "
            "prove to each other who they are"
        )
    if not 0 < settings.client.piece_bytes <= PUSH_BYTES_MAX:
        raise ConfigInvalid(f"{source}: $.client.piece_bytes: at most {PUSH_BYTES_MAX} bytes")
    raft = settings.raft
    if raft.election_seconds_min >= raft.election_seconds_max:
        raise ConfigInvalid(f"{source}: $.raft.election_seconds_min: must be below election_seconds_max")
    if 3 * raft.heartbeat_seconds >= raft.election_seconds_min:
        raise ConfigInvalid(
            f"{source}: $.raft.heartbeat_seconds: three heartbeats must fit in election_seconds_min, "
            "or a busy leader is taken for a dead one"
        )


def _missing_beyond_loopback(settings: Settings, key: str, address: Address) -> str:
    """What a listener at `address` would need to be let be; empty: nothing, or somebody said it need not."""
    if settings.cluster.allow_insecure_network or address.startswith(_LOOPBACK):
        return ""
    if not settings.access.tokens:
        return "access.tokens = true, so that not everybody on the network may ask everything"
    if not (settings.tls.ca_file and settings.tls.certificate_file):
        return "the certificates of 'gfs cert' in [tls], so that tokens are not read on their way"
    if key == "data" and not settings.tls.plain_data:
        return (
            "tls.plain_data = true, which says by name that chunk bytes, and the capabilities shown for "
            "them, go over this network unencrypted"
        )
    return ""


def node_fault(node: str, *addresses: Address, allow_insecure_network: bool) -> str:
    """What is wrong with a master's or chunk server's id or addresses; empty: nothing, as in a gfs.toml."""
    if not _NODE_ID.match(node):
        return f"{node!r} is no id: an id is 1-32 of a-z, 0-9 and '-'"
    for address in addresses:
        match = _ADDRESS.match(address)
        if match is None or not 0 < int(match[2]) < 65536:
            return f"{address!r} is not host:port"
        if not allow_insecure_network and not address.startswith(_LOOPBACK):
            return f"{address} is beyond loopback, and this cluster's masters do not allow_insecure_network"
    return "" if len(set(addresses)) == len(addresses) else f"{addresses[0]} is given twice"


def schema() -> dict[str, Any]:
    """JSON schema of gfs.toml."""
    return msgspec.json.schema(Settings)
