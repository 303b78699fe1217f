"""`gfs admin recover`: the cluster goes on from one surviving master when a majority is gone for good."""

from __future__ import annotations

import time

import click

from gfs.cli.render import counted, emit_one, human_time, note
from gfs.errors import InvalidArgument


@click.command()
@click.argument("directory")
@click.option("--accept-data-loss", is_flag=True, help="Do it; else it is only told what may be lost.")
@click.option("--to", metavar="DIR", help="Make one directory for each new master below DIR.")
@click.option("--masters", metavar="M1,M2,…", help="Names of the new masters, with --to.")
@click.option("--replace", is_flag=True, help="Move aside what is in the new masters' directories.")
@click.pass_context
def recover(
    ctx: click.Context,
    directory: str,
    accept_data_loss: bool,
    to: str | None,
    masters: str | None,
    replace: bool,
) -> None:
    """Go on from one master's DIRECTORY when a majority of masters is gone for good.

    First it tells what the survivor has. What the lost masters acknowledged and this one never heard of is
    lost. With --accept-data-loss it makes directories for a new set of masters from the survivor's whole log
    (as 'gfs backup restore' does from a backup; DIRECTORY itself stays as it is, or is moved aside). They
    begin a new life of the cluster: should a lost master come back, they refuse it. If a backup is newer
    than the survivor, restore that instead. All masters must be stopped.

    \b
    gfs admin recover /srv/gfs/m2
    gfs --config gfs.toml admin recover /srv/gfs/m2 --accept-data-loss --replace
    gfs admin recover /srv/gfs/m2 --accept-data-loss --to /srv/new --masters m1,m2,m3
    """
    from gfs.backups.recovery import open_survivor
    from gfs.cli.new_masters import as_text, directories_for, told
    from gfs.master.new_life import begin_life

    with open_survivor(directory) as (survivor, pieces):
        last_at = human_time(survivor.last_at_ms) + " UTC" if survivor.last_at_ms else "an unknown time"
        unsure = max(0, survivor.last - survivor.committed)
        note(
            f"{directory} holds {counted(survivor.files, 'file')}, {counted(survivor.chunks, 'chunk')} of "
            f"cluster {survivor.cluster}, up to log entry {survivor.last} (term {survivor.last_term}), "
            f"logged at {last_at}"
        )
        note(
            f"  {unsure} of its entries are not known to be committed; they are kept, acknowledged or not"
            if unsure
            else "  all its entries are known to be committed"
        )
        note(
            f"  lost is what the other masters acknowledged after entry {survivor.last} without this one; "
            "nobody can say how much that is"
        )
        if not accept_data_loss:
            raise InvalidArgument(
                "nothing was changed: a recovery may lose acknowledged changes",
                hint="Compare other masters' directories and 'gfs backup ls' first; then say "
                "--accept-data-loss.",
            )
        life = begin_life(
            pieces,
            cluster=survivor.cluster,
            position=survivor.position,
            directories=directories_for(
                ctx.obj, to, masters, known=survivor.masters, cluster=survivor.cluster
            ),
            replace=replace,
            now_ms=time.time_ns() // 1_000_000,
        )
    made = told(life, survivor.cluster)
    emit_one(made, ctx.obj.output, as_text(made))
