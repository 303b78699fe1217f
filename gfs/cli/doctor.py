"""`gfs doctor`: is this machine fit for gfs, and is the cluster well; in words, with what to do about it.

It looks and changes nothing, but for a small file beside each node's data whose sync is timed.
"""

from __future__ import annotations

import http.client
import os
import resource
import shutil
import ssl
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Literal, NamedTuple

import click

from gfs.cli.cluster_address import load_settings, run_with_client
from gfs.cli.render import emit_many, human_bytes, note
from gfs.client.client import AsyncClient
from gfs.errors import GfsError, Unauthenticated
from gfs.messages.cluster import ClusterStatusReply
from gfs.settings import ChunkServerNode, MasterNode, Settings
from gfs.tls import TlsIdentity
from gfs.tls_files import tls_of_client
from gfs.vocabulary import MIB, Address, split_address

EXIT_DAMAGE = 7
OPEN_FILES_MIN = 4096  # chunk files, connections and logs of one busy chunk server
FREE_BYTES_MIN = 1024 * MIB
FREE_SHARE_MIN = 0.05
SYNC_TRIES = 5
SYNC_SLOW_SECONDS = 0.05  # a write waits for two of these
SYNC_HOLLOW_SECONDS = 20e-6  # no disk can be that quick: nothing was asked of one
SKEW_SECONDS_MAX = 3.0  # a Date header has whole seconds
ASK_SECONDS = 2.0

Verdict = Literal["good", "note", "bad"]


class Finding(NamedTuple):
    verdict: Verdict
    what: str
    meaning: str = ""
    to_do: str = ""


@click.command(epilog="Example: gfs doctor; gfs doctor --local on a machine before it joins")
@click.option("--local", is_flag=True, help="This machine only; no cluster is asked.")
@click.pass_context
def doctor(ctx: click.Context, local: bool) -> None:
    """Say what is wrong here and in the cluster, what it means and what to do. Exits 7 when something is."""
    findings = list(_machine())
    settings = _settings(ctx, findings, needed=not local)
    if settings is not None:
        findings += _disks(settings)
        if not local:
            findings += programs(settings)
            findings += _cluster(ctx)
    documents = [finding._asdict() for finding in findings]
    rows = ([f.verdict, f.what, f.meaning or "-", f.to_do or "-"] for f in findings)
    emit_many(documents, ctx.obj.output, ["", "what", "what it means", "what to do"], rows)
    bad = sum(finding.verdict == "bad" for finding in findings)
    if bad:
        note(f"gfs: {bad} of {len(findings)} checks found something that has to be mended")
        ctx.exit(EXIT_DAMAGE)


def _settings(ctx: click.Context, findings: list[Finding], *, needed: bool) -> Settings | None:
    try:
        settings = load_settings(ctx.obj)
    except GfsError as error:
        if needed:
            findings.append(Finding("bad", "configuration", error.message, error.hint))
        return None
    findings.append(Finding("good", "configuration", f"{len(settings.masters)} masters named"))
    return settings


# --- this machine -----------------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("good", "Python", version)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES_MIN:
        yield Finding(
            "bad",
            "open files",
            f"a program may open {soft} files; a busy chunk server needs {OPEN_FILES_MIN}",
            "raise it: ulimit -n 65536, or LimitNOFILE= in the unit",
        )
    else:
        yield Finding("good", "open files", f"{soft} allowed")
    for module, gain in (("uvloop", "metadata calls cost less"), ("awscrt", "checksums cost less")):
        if find_spec(module) is None:
            yield Finding("note", module, f"not installed; with it {gain}", "pip install 'pygfs[speed]'")


def _disks(settings: Settings) -> Iterator[Finding]:
    """Of the nodes whose directories are on this machine."""
    nodes: dict[str, MasterNode | ChunkServerNode] = {**settings.masters, **settings.chunkservers}
    for name, node in sorted(nodes.items()):
        directory = node.directory
        if not directory or not os.path.isdir(directory):
            continue
        usage = shutil.disk_usage(directory)
        least = max(FREE_BYTES_MIN, int(usage.total * FREE_SHARE_MIN))
        if usage.free < least:
            yield Finding(
                "bad",
                f"disk of {name}",
                f"{human_bytes(usage.free)} free in {directory}",
                "free space or add chunk servers: a full master takes no mutations",
            )
        else:
            yield Finding("good", f"disk of {name}", f"{human_bytes(usage.free)} free in {directory}")
        yield _sync(name, directory)
    secret = settings.cluster.secret_file
    if secret and os.path.exists(secret) and stat.S_IMODE(os.stat(secret).st_mode) & 0o077:
        yield Finding("bad", "cluster secret", f"others may read {secret}", f"chmod 600 {secret}")


def _sync(name: str, directory: str) -> Finding:
    what = f"sync of {name}"
    try:
        seconds = _sync_seconds(directory)
    except OSError as error:
        return Finding("bad", what, f"cannot write in {directory}: {error.strerror}", "see who owns it")
    shown = f"{seconds * 1000:.2f} ms to sync 4 KiB"
    if seconds > SYNC_SLOW_SECONDS:
        return Finding("bad", what, f"{shown}: each mutation waits for that", "use a faster disk")
    if seconds < SYNC_HOLLOW_SECONDS:
        return Finding(
            "note",
            what,
            f"{shown}: in memory, or a disk that says so too early",
            "what is acknowledged may not outlive a power cut: keep data on a disk",
        )
    return Finding("good", what, shown)


def _sync_seconds(directory: str) -> float:
    """The median of some."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-") as file:
        for _ in range(SYNC_TRIES):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return sorted(taken)[SYNC_TRIES // 2]


# --- the cluster ------------------------------------------------------------------------------------


def programs(settings: Settings) -> Iterator[Finding]:
    """Does each answer, is it ready, and is its clock right?"""
    tls = tls_of_client(settings.client)
    if tls is None and settings.tls.ca_file:  # on a machine of the cluster
        tls = TlsIdentity(ca_file=settings.tls.ca_file)
    nodes: dict[str, MasterNode | ChunkServerNode] = {**settings.masters, **settings.chunkservers}
    for name, node in sorted(nodes.items()):
        try:
            status, body, skew = _ask(node.control, tls, settings.cluster.id)
        except Unauthenticated as error:
            yield Finding(
                "bad", name, f"{node.control} has another certificate: {error.message}", "gfs cert show FILE"
            )
            continue
        except (OSError, http.client.HTTPException) as error:
            yield Finding(
                "bad",
                name,
                f"{node.control} does not answer: {error}",
                f"start it, and see its log; gfs events {name}",
            )
            continue
        if status != 200:
            yield Finding("bad", name, f"not ready: {body}", "wait some seconds; then see its log")
        elif abs(skew) > SKEW_SECONDS_MAX:
            yield Finding(
                "bad",
                name,
                f"its clock is {skew:+.0f} s off the one here",
                "run chrony or systemd-timesyncd on both: trash is kept by the wall clock",
            )
        else:
            yield Finding("good", name, f"ready at {node.control}")


def _ask(address: str, tls: TlsIdentity | None, cluster: str) -> tuple[int, str, float]:
    """Status and text of /readyz, and how many seconds the program's clock is ahead.

    Raises: OSError, HTTPException; Unauthenticated when its certificate is of no node of the cluster.
    """
    host, port = split_address(Address(address))
    connection = http.client.HTTPConnection(host, port, timeout=ASK_SECONDS)
    if tls is not None:
        connection = http.client.HTTPSConnection(
            host, port, timeout=ASK_SECONDS, context=tls.client_context()
        )
    try:
        connection.connect()
        if tls is not None:
            assert isinstance(connection.sock, ssl.SSLSocket)
            tls.require_node(connection.sock.getpeercert(), cluster=cluster)
        connection.request("GET", "/readyz")
        reply = connection.getresponse()
        body = reply.read(4096).decode("utf-8", "replace").strip()
        date = reply.getheader("Date")
        skew = parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0
        return reply.status, body, skew
    finally:
        connection.close()


def _cluster(ctx: click.Context) -> Iterator[Finding]:
    async def work(client: AsyncClient) -> ClusterStatusReply:
        return await client.cluster_status()

    try:
        found = run_with_client(ctx, work)
    except GfsError as error:
        yield Finding("bad", "cluster", error.message, error.hint)
        return
    verdict: Verdict = {"ok": "good", "degraded": "note"}.get(found.health, "bad")  # type: ignore[assignment]
    yield Finding(verdict, "cluster", f"{found.cluster or '(unnamed)'} is {found.health}")
    for reason in found.reasons:
        yield Finding("note" if found.health != "down" else "bad", "cluster", reason, "gfs status; gfs fsck")
    versions = sorted({server.version for server in found.chunkservers if server.version})
    if len(versions) > 1:
        yield Finding("note", "versions", "different: " + ", ".join(versions), "finish the upgrade")
