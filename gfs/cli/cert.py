"""`gfs cert`: the cluster's certificate authority and its nodes' certificates, as files. Asks no program."""

from __future__ import annotations

import os

import click

from gfs import certificates
from gfs.certificates import CA_CERTIFICATE, CA_DAYS, CERTIFICATE, NODE_DAYS
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import emit_one
from gfs.tls import NODE_ROLES, NodeName


@click.group(cls=CommandGroup)
def cert() -> None:
    """Make the certificates by which programs of a cluster know each other (mutual TLS).

    \b
    Example, on one host that is not online:
      gfs cert init-ca --dir ca
      gfs cert issue master m1 --cluster prod --dir ca --out m1
      gfs cert show m1/certificate.pem
    Then copy ca/ca.pem and m1/* to that master's host, and name them in [tls] of its gfs.toml.
    """


_DIR = click.option("--dir", "directory", required=True, metavar="DIR", help="Of the certificate authority.")


@cert.command("init-ca")
@_DIR
@click.option("--name", default="gfs", show_default=True, help="What to call the authority.")
@click.option("--days", type=click.IntRange(1, 36500), default=CA_DAYS, show_default=True)
@click.pass_context
def init_ca(ctx: click.Context, directory: str, name: str, days: int) -> None:
    """Make a new certificate authority in DIR: ca.pem for everybody, ca-key.pem for nobody else."""
    certificates.make_authority(directory, name=name, days=days)
    _tell(ctx, os.path.join(directory, CA_CERTIFICATE))


@cert.command()
@click.argument("role", type=click.Choice(NODE_ROLES))
@click.argument("node")
@_DIR
@click.option("--cluster", required=True, metavar="ID", help="cluster.id of the cluster that it is for.")
@click.option("--out", required=True, metavar="DIR", help="Where to put certificate.pem and key.pem.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or IP address by which browsers or Prometheus reach it; may be repeated. gfs needs none.",
)
@click.option("--days", type=click.IntRange(1, 36500), default=NODE_DAYS, show_default=True)
@click.pass_context
def issue(
    ctx: click.Context,
    role: str,
    node: str,
    directory: str,
    cluster: str,
    out: str,
    hosts: tuple[str, ...],
    days: int,
) -> None:
    """Make a key and a certificate for NODE, a master or chunkserver of the configuration."""
    certificates.issue(directory, NodeName(cluster, role, node), out, hosts=hosts, days=days)
    _tell(ctx, os.path.join(out, CERTIFICATE))


@cert.command()
@click.argument("certificate", type=click.Path(exists=True, dir_okay=False))
@_DIR
@click.option("--days", type=click.IntRange(1, 36500), default=NODE_DAYS, show_default=True)
@click.pass_context
def renew(ctx: click.Context, certificate: str, directory: str, days: int) -> None:
    """Replace CERTIFICATE and the key.pem beside it. Running programs use the new ones by themselves."""
    certificates.renew(directory, certificate, days=days)
    _tell(ctx, certificate)


@cert.command()
@click.argument("certificate", type=click.Path(exists=True, dir_okay=False))
@click.pass_context
def show(ctx: click.Context, certificate: str) -> None:
    """Say of whom CERTIFICATE is, who has signed it, and until when it holds."""
    _tell(ctx, certificate)


def _tell(ctx: click.Context, path: str) -> None:
    row = certificates.read(path)
    who = ", ".join([row.uri or row.subject, *row.hosts])
    text = f"{path}: {who}, signed by {row.issuer}, until {row.not_after} ({row.days_left} days left)"
    emit_one(row, ctx.obj.output, text)
