"""`gfs demo`: a real cluster stores a real tree, loses leader and chunk server, gives every byte back."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence

import click
import msgspec

from gfs.cli.render import emit_one, human_bytes, note
from gfs.cli.transfer import Job, progress, transfer_all
from gfs.client.client import AsyncClient
from gfs.errors import ChecksumMismatch, InvalidArgument, NotFound, PartlyDone
from gfs.local import layout as local_layout
from gfs.local.supervisor import Supervisor, wait_until_ready
from gfs.vocabulary import MIB

MASTERS, CHUNKSERVERS = 3, 4
BIG_FILE_BYTES = 256 * MIB
AFTER_LOSS_BYTES = 32 * MIB
STREAM_BYTES = 4 * MIB
SEED = 2003
TREE, BIG, AFTER_LOSS, PROBES = "/demo/tree", "/demo/big.bin", "/demo/after-loss.bin", "/demo/probes"


class DemoReport(msgspec.Struct, kw_only=True):
    """What happened, in seconds, bytes and MiB/s. `differing` empty: every byte came back."""

    files: int = 0
    bytes_stored: int = 0
    ready_seconds: float = 0.0
    tree_files_per_second: float = 0.0
    big_write_mib_per_second: float = 0.0
    leader_killed: str = ""
    new_leader: str = ""
    failover_gap_seconds: float = 0.0
    chunkserver_killed: str = ""
    longest_stall_after_loss_seconds: float = 0.0
    read_mib_per_second: float = 0.0
    verified_files: int = 0
    differing: list[str] = []
    total_seconds: float = 0.0


@click.command()
@click.option("--source", metavar="DIR", help="The tree to store (default: this Python's standard library).")
@click.option("--keep", is_flag=True, help="Leave the cluster's directory behind for a look.")
@click.pass_context
def demo(ctx: click.Context, source: str | None, keep: bool) -> None:
    """Boot 3 masters and 4 chunk servers, store a tree and a 256 MiB file, kill -9 the leader in the
    middle of the write and a chunk server after it, then read everything back and compare SHA-256."""
    from gfs.transport.event_loop import run

    source = os.path.abspath(source or sysconfig.get_path("stdlib"))
    if not os.path.isdir(source):
        raise NotFound(f"there is no local directory {source!r}")
    directory = tempfile.mkdtemp(prefix="gfs-demo-")
    try:
        report = run(_Demo(directory, source, quiet=ctx.obj.quiet).run(), loop="auto")
    finally:
        if keep:
            note(f"the cluster's directory is {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    emit_one(report, ctx.obj.output, _summary(report))
    if report.differing:
        raise ChecksumMismatch(f"{len(report.differing)} files came back different: {report.differing[:5]}")


class _Demo:
    def __init__(self, directory: str, source: str, *, quiet: bool) -> None:
        self._directory = directory
        self._source = source
        self._quiet = quiet
        self._began = time.monotonic()
        self._report = DemoReport()
        self._digests: dict[str, str] = {}  # path in the cluster -> SHA-256 of the source

    async def run(self) -> DemoReport:
        layout = local_layout.make_layout(
            os.path.join(self._directory, "cluster"),
            masters=MASTERS,
            chunkservers=CHUNKSERVERS,
            first_port=0,
            tokens=True,
        )
        supervisor = Supervisor(layout, restart=False, say=note)
        from gfs import aio

        self._say(f"starting {MASTERS} masters and {CHUNKSERVERS} chunk servers on loopback")
        await supervisor.start()
        client = await aio.connect(
            [node.control for node in layout.settings.masters.values()],
            settings=layout.settings.client,
            cluster=layout.settings.cluster.id,
        )
        try:
            found = await wait_until_ready(
                client.cluster_status, chunkservers=CHUNKSERVERS, supervisor=supervisor
            )
            self._report.ready_seconds = self._elapsed()
            self._say(f"ready; the leader is {found.leader}")
            await client.mkdir(PROBES, parents=True)
            await self._store_tree(client)
            await self._write_through_the_death_of_the_leader(client, supervisor)
            await self._write_on_without_a_chunkserver(client, supervisor)
            await self._read_everything_back(client)
        finally:
            await client.close()
            await supervisor.stop()
        self._report.total_seconds = self._elapsed()
        return self._report

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _say(self, message: str) -> None:
        if not self._quiet:
            note(f"{self._elapsed():6.1f} s  {message}")

    async def _store_tree(self, client: AsyncClient) -> None:
        jobs, folders = _tree_jobs(self._source)
        if not jobs:
            raise InvalidArgument(f"there are no regular files below {self._source}")
        total = sum(job.length_bytes for job in jobs)
        self._say(f"storing {len(jobs)} files, {human_bytes(total)}, from {self._source}")
        began = time.monotonic()
        for folder in folders:
            await client.mkdir(folder, parents=True)
        with progress(total, "store tree", quiet=self._quiet) as advance:

            async def store(job: Job) -> None:
                with open(job.source, "rb") as file:
                    content = file.read()
                self._digests[job.destination] = hashlib.sha256(content).hexdigest()
                await client.write_bytes(job.destination, content)
                advance(len(content))

            failures = await transfer_all(jobs, store)
        if failures:
            raise PartlyDone(f"{len(failures)} files could not be stored; the first: {failures[0]}")
        took = time.monotonic() - began
        self._report.files += len(jobs)
        self._report.bytes_stored += total
        self._report.tree_files_per_second = len(jobs) / took
        self._say(f"stored the tree in {took:.1f} s ({len(jobs) / took:.0f} files/s, 3 copies each)")

    async def _write_through_the_death_of_the_leader(
        self, client: AsyncClient, supervisor: Supervisor
    ) -> None:
        leader = (await client.cluster_status()).leader
        probes = _Probes(client)
        probing = asyncio.create_task(probes.run())

        def halfway(written: int) -> None:
            if written >= BIG_FILE_BYTES // 2 and not self._report.leader_killed:
                supervisor.kill(leader)
                probes.mark_kill()
                self._report.leader_killed = leader
                self._say(f"kill -9 of the leader {leader}, in the middle of the write")

        self._say(f"writing one file of {human_bytes(BIG_FILE_BYTES)}")
        seconds, _ = await self._write_random(client, BIG, BIG_FILE_BYTES, SEED, halfway)
        await probes.stop_after_recovery()
        await probing
        found = await client.cluster_status()
        self._report.new_leader = found.leader
        self._report.failover_gap_seconds = probes.gap_seconds
        self._report.big_write_mib_per_second = BIG_FILE_BYTES / MIB / seconds
        self._say(
            f"the write ended after {seconds:.1f} s ({BIG_FILE_BYTES / MIB / seconds:.0f} MiB/s); "
            f"{found.leader} leads; no namespace write was answered for {probes.gap_seconds * 1000:.0f} ms"
        )

    async def _write_on_without_a_chunkserver(self, client: AsyncClient, supervisor: Supervisor) -> None:
        # A chunk made ahead of the writer may still be without replicas: take one that is read later on.
        victim = next(place.replicas[0] for place in await client.chunks(BIG) if place.replicas)
        layout_names = {
            node.control: name for name, node in supervisor.settings.chunkservers.items()
        }  # servers name themselves by their disk, not by the configuration
        name = layout_names[victim.control]

        def early(written: int) -> None:
            if written >= AFTER_LOSS_BYTES // 4 and not self._report.chunkserver_killed:
                supervisor.kill(name)
                self._report.chunkserver_killed = name
                self._say(f"kill -9 of the chunk server {name}; writes go on")

        seconds, stall = await self._write_random(client, AFTER_LOSS, AFTER_LOSS_BYTES, SEED + 1, early)
        self._report.longest_stall_after_loss_seconds = stall
        self._say(
            f"wrote {human_bytes(AFTER_LOSS_BYTES)} more in {seconds:.1f} s; "
            f"longest stall {stall * 1000:.0f} ms"
        )

    async def _write_random(
        self, client: AsyncClient, path: str, length: int, seed: int, at: Callable[[int], None]
    ) -> tuple[float, float]:
        """Write seeded random bytes; returns (seconds, longest time between two pieces taken)."""
        rng, digest = random.Random(seed), hashlib.sha256()
        pieces = [rng.randbytes(STREAM_BYTES) for _ in range(8)]  # made before the clock starts
        began = last = time.monotonic()
        stall = 0.0
        with progress(length, os.path.basename(path), quiet=self._quiet) as advance:
            async with await client.open(path, "xb") as file:
                for number in range(length // STREAM_BYTES):
                    # A different rotation each time: no two pieces of the file are equal.
                    cut = number * 4096 + 1
                    piece = pieces[number % 8][cut:] + pieces[number % 8][:cut]
                    digest.update(piece)
                    await file.write(piece)
                    now = time.monotonic()
                    stall, last = max(stall, now - last), now
                    advance(len(piece))
                    at((number + 1) * STREAM_BYTES)
        self._digests[path] = digest.hexdigest()
        self._report.files += 1
        self._report.bytes_stored += length
        return time.monotonic() - began, stall

    async def _read_everything_back(self, client: AsyncClient) -> None:
        self._say(f"reading {len(self._digests)} files back through {self._report.new_leader}")
        began = time.monotonic()
        jobs = [Job(path, path, 0) for path in self._digests]
        with progress(self._report.bytes_stored, "verify", quiet=self._quiet) as advance:

            async def verify(job: Job) -> None:
                digest = hashlib.sha256()
                async with await client.open(job.source, "rb") as file:
                    while data := await file.read(STREAM_BYTES):
                        digest.update(data)
                        advance(len(data))
                if digest.hexdigest() == self._digests[job.source]:
                    self._report.verified_files += 1
                else:
                    self._report.differing.append(job.source)

            failures = await transfer_all(jobs, verify)
        self._report.differing += failures
        took = time.monotonic() - began
        self._report.read_mib_per_second = self._report.bytes_stored / MIB / took
        self._say(
            f"{self._report.verified_files} of {len(jobs)} files have the SHA-256 of their source "
            f"({took:.1f} s, {self._report.read_mib_per_second:.0f} MiB/s)"
        )


class _Probes:
    """Directories made one after the other during the fail-over: the longest silence is the write gap."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._killed_at: float | None = None
        self._recovered = asyncio.Event()
        self._stop = False
        self.gap_seconds = 0.0

    def mark_kill(self) -> None:
        self._killed_at = time.monotonic()

    async def run(self) -> None:
        number = 0
        last_answer = time.monotonic()
        while not self._stop:
            await self._client.mkdir(f"{PROBES}/{number}")
            now = time.monotonic()
            if self._killed_at is not None:
                self.gap_seconds = max(self.gap_seconds, now - last_answer)
                self._recovered.set()
            last_answer = now
            number += 1
            await asyncio.sleep(0.005)

    async def stop_after_recovery(self) -> None:
        await self._recovered.wait()
        self._stop = True


def _tree_jobs(source: str) -> tuple[list[Job], list[str]]:
    """Regular files below `source` and the directories they need; caches and installed packages left out."""
    jobs: list[Job] = []
    folders: list[str] = []
    for folder, below, files in os.walk(source):
        below[:] = sorted(set(below) - {"__pycache__", "site-packages", "dist-packages"})
        relative = os.path.relpath(folder, source)
        remote = TREE if relative == "." else f"{TREE}/{relative}"
        folders.append(remote)
        for name in sorted(files):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                jobs.append(Job(path, f"{remote}/{name}", os.path.getsize(path)))
    return jobs, folders


def _summary(report: DemoReport) -> str:
    verdict = (
        "EVERY BYTE CAME BACK" if not report.differing else f"{len(report.differing)} FILES DIFFER: FAILED"
    )
    rows: Sequence[tuple[str, str]] = (
        ("cluster ready after", f"{report.ready_seconds:.1f} s"),
        ("stored", f"{report.files} files, {human_bytes(report.bytes_stored)}, 3 copies of each chunk"),
        ("small files", f"{report.tree_files_per_second:.0f} per second"),
        ("big file, through the fail-over", f"{report.big_write_mib_per_second:.0f} MiB/s"),
        (
            "fail-over gap",
            f"{report.failover_gap_seconds * 1000:.0f} ms ({report.leader_killed} → {report.new_leader})",
        ),
        (
            f"stall when {report.chunkserver_killed} died",
            f"{report.longest_stall_after_loss_seconds * 1000:.0f} ms",
        ),
        (
            "read back and compared",
            f"{report.verified_files} files at {report.read_mib_per_second:.0f} MiB/s",
        ),
        ("whole demo", f"{report.total_seconds:.1f} s"),
    )
    width = max(len(name) for name, _ in rows)
    return "\n".join([verdict, *(f"  {name.ljust(width)}  {value}" for name, value in rows)])
