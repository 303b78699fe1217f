"""`gfs admin`: what an operator does to a running cluster."""

from __future__ import annotations

import click

from gfs.cli.command_group import CommandGroup
from gfs.cli.compare import compare
from gfs.cli.garbage import gc
from gfs.cli.members import members
from gfs.cli.placement import chunkservers, rebalance, replication
from gfs.cli.recover import recover
from gfs.cli.restart import restart_masters_


@click.group(cls=CommandGroup)
def admin() -> None:
    """Operate the cluster: its masters, chunk servers and replicas."""


admin.add_command(chunkservers)
admin.add_command(rebalance)
admin.add_command(replication)
admin.add_command(members)
admin.add_command(compare)
admin.add_command(restart_masters_)
admin.add_command(gc)
admin.add_command(recover)
