"""`gfs backup`: the masters' state saved elsewhere while the cluster runs, and put back. No file data."""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING

import click
import msgspec

from gfs.cli.cluster_address import consistency_option, run_with_client
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import counted, emit_many, emit_one, human_bytes, human_time, note
from gfs.errors import GfsError

if TYPE_CHECKING:
    from gfs.backups.manifest import BackupManifest
    from gfs.client.client import AsyncClient

EXIT_DAMAGE = 7


@click.group(cls=CommandGroup)
def backup() -> None:
    """Save the masters' state while the cluster runs, and put it back.

    A backup holds all metadata: names, owners, policies, which chunks a file has. It holds no byte of any
    file: those stay on the chunk servers. DEST is a directory, or an object store by its URL
    (s3://bucket/prefix …, with pygfs[object]; credentials from the environment).

    \b
    gfs backup create /mnt/backups --keep 24
    gfs backup ls /mnt/backups
    gfs backup verify s3://bucket/gfs
    gfs backup restore /mnt/backups --replace
    """


@backup.command()
@click.argument("dest")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Then remove all but the newest N.")
@consistency_option
@click.pass_context
def create(ctx: click.Context, dest: str, keep: int | None) -> None:
    """Save the state as it is now, with everything acknowledged before.

    With --consistency stale any master will do, also without a quorum: then what it lacks is missing.

    \b
    gfs backup create /mnt/backups --keep 24
    gfs backup create s3://bucket/gfs
    """
    from gfs.backups.catalogue import retain
    from gfs.backups.places import open_place
    from gfs.backups.taking import take

    place = open_place(dest)

    async def work(client: AsyncClient) -> BackupManifest:
        return await take(
            client.backups,
            place,
            consistency=ctx.obj.consistency,
            now_ms=_now_ms,
            say=lambda what: note(f"gfs: {what}"),
        )

    manifest = run_with_client(ctx, work)
    text = (
        f"{manifest.name} in {place.url}: {_count(manifest.files, 'file')}, "
        f"{_count(manifest.chunks, 'chunk')}, {human_bytes(manifest.length_bytes)}, all up to log entry "
        f"{manifest.index}"
    )
    emit_one(manifest, ctx.obj.output, text)
    if keep is not None:
        for name in retain(place, keep=keep, cluster=manifest.cluster, now_ms=_now_ms()):
            note(f"removed {name}")


@backup.command("ls")
@click.argument("dest")
@click.pass_context
def list_(ctx: click.Context, dest: str) -> None:
    """List the backups in DEST, with their age and what is wrong with them. Exits 7 when none is whole.

    Manifests and lengths are looked at; 'gfs backup verify' reads the bytes.
    """
    from gfs.backups.catalogue import rows
    from gfs.backups.places import open_place

    found = rows(open_place(dest))
    now_ms = _now_ms()
    emit_many(
        found,
        ctx.obj.output,
        ["backup", "taken at (UTC)", ">age", ">index", ">files", ">size", "state"],
        (
            [
                row.name,
                human_time(row.taken_at_ms) if row.taken_at_ms else "-",
                _age(now_ms - row.taken_at_ms) if row.taken_at_ms else "-",
                str(row.index) if row.index else "-",
                str(row.files) if row.files >= 0 else "-",
                human_bytes(row.length_bytes),
                f"{row.state}: {row.why}" if row.why else row.state,
            ]
            for row in found
        ),
    )
    if not any(row.state == "whole" for row in found):
        ctx.exit(EXIT_DAMAGE)


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """`findings`: what is wrong, the first of it; none when it is sound."""

    name: str
    sound: bool
    findings: list[str]
    files: int
    seconds: float


@backup.command()
@click.argument("dest")
@click.argument("name", required=False, default="")
@click.pass_context
def verify(ctx: click.Context, dest: str, name: str) -> None:
    """Read one backup to its end, compare its checksum, and check every rule about its rows.

    NAME is one of 'gfs backup ls'; without it, the newest whole one. Exits 7 when anything is wrong.
    One in an object store is fetched to this machine's temporary directory for it.
    """
    from gfs.backups.catalogue import choose
    from gfs.backups.manifest import STATE_SUFFIX
    from gfs.backups.places import open_place
    from gfs.inspect.checkpoint_files import CheckpointFile
    from gfs.inspect.verify import verify as verify_file

    began = time.monotonic()
    chosen = choose(open_place(dest), name)
    manifest = chosen.manifest
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gfs-backup-") as work:
        path = os.path.join(work, manifest.name + STATE_SUFFIX)
        try:
            with open(path, "wb") as file:
                for piece in chosen.pieces():
                    file.write(piece)
        except GfsError as error:
            findings.append(error.message)
        if not findings:
            verdict = verify_file(CheckpointFile(path, manifest.as_checkpoint()))
            findings = [f"{found.table} {found.key}: {found.message}".strip() for found in verdict.findings]
    seconds = round(time.monotonic() - began, 3)
    result = Verified(
        name=manifest.name, sound=not findings, findings=findings, files=manifest.files, seconds=seconds
    )
    text = f"{manifest.name} is " + ("sound" if result.sound else "damaged:\n  " + "\n  ".join(findings[:50]))
    emit_one(result, ctx.obj.output, text)
    if not result.sound:
        ctx.exit(EXIT_DAMAGE)


@backup.command()
@click.argument("dest")
@click.argument("name", required=False, default="")
@click.option("--to", metavar="DIR", help="Make one directory for each master below DIR.")
@click.option("--masters", metavar="M1,M2,…", help="Names of the masters, with --to.")
@click.option("--replace", is_flag=True, help="Move aside what is in the masters' directories.")
@click.pass_context
def restore(
    ctx: click.Context, dest: str, name: str, to: str | None, masters: str | None, replace: bool
) -> None:
    """Make directories for a new set of masters from a backup. All masters must be stopped.

    NAME is one of 'gfs backup ls'; without it, the newest whole one. Without --to the directories are those
    of the configuration (--config, --data, or the cluster of 'gfs up'). What was changed after the backup was
    taken is lost; chunk servers keep their chunks, and those unknown to the backup are not collected until
    'gfs admin gc resume'. Masters of before are refused by the new ones.

    \b
    gfs down; gfs backup restore /mnt/backups --replace; gfs up --detach
    gfs backup restore s3://bucket/gfs --to /tmp/new --masters m1,m2,m3
    """
    from gfs.backups.catalogue import choose
    from gfs.backups.places import open_place
    from gfs.cli.new_masters import as_text, directories_for, told
    from gfs.master.new_life import begin_life

    chosen = choose(open_place(dest), name)
    manifest = chosen.manifest
    directories = directories_for(ctx.obj, to, masters, known=manifest.masters, cluster=manifest.cluster)
    life = begin_life(
        chosen.pieces(),
        cluster=manifest.cluster,
        position=(manifest.index, manifest.term),
        directories=directories,
        replace=replace,
        now_ms=_now_ms(),
    )
    note(f"restored {manifest.name}, {_age(_now_ms() - manifest.taken_at_ms)} old; what came later is lost")
    made = told(life, manifest.cluster)
    emit_one(made, ctx.obj.output, as_text(made))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _count(number: int, noun: str) -> str:
    return counted(number, noun) if number >= 0 else f"an unknown number of {noun}s"


def _age(ms: int) -> str:
    seconds = max(0, ms) // 1000
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
