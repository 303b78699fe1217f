"""`gfs gateway http|webhdfs|s3`: files for software that speaks HTTP. What is served: see integrations."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from gfs.cli.cluster_address import load_settings, master_addresses
from gfs.cli.command_group import CommandGroup
from gfs.cli.render import note
from gfs.errors import ConfigInvalid, InvalidArgument

if TYPE_CHECKING:
    from gfs.client.client import AsyncClient
    from gfs.integrations.gateways.gateway_server import GatewayServer

    Made = Callable[[AsyncClient, "Door"], GatewayServer]

SECRET_CHARS_MIN = 16


class Door:
    """Where a gateway listens, and who may come in."""

    def __init__(
        self, host: str, port: int, secret_file: str, certificate: str, key: str, *, plain: bool
    ) -> None:
        if bool(certificate) != bool(key):
            raise InvalidArgument("--certificate and --key are given together, or neither is")
        self.host, self.port, self.plain = host, port, plain
        self.secret = _read_secret(secret_file) if secret_file else ""
        self.encryption = _encryption(certificate, key) if certificate else None


def _private_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigInvalid(f"others on this machine may read {path}", hint=f"chmod 600 {path}")
        return file.read()


def _read_secret(path: str) -> str:
    secret = _private_text(path).strip()
    if len(secret) < SECRET_CHARS_MIN:
        raise ConfigInvalid(
            f"the secret in {path} has fewer than {SECRET_CHARS_MIN} characters",
            hint=f"Make one: (umask 077; head -c 24 /dev/urandom | base64 > {path})",
        )
    return secret


def _encryption(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise ConfigInvalid(f"{certificate} and {key} are not a certificate and its key: {error}") from error
    return context


_plain_option = click.option(
    "--plain",
    is_flag=True,
    help="Beyond this machine, without TLS: a network of your own, or behind a proxy.",
)


def _door_options(command: Callable[..., Any]) -> Callable[..., Any]:  # Any: click's own
    for option in (
        _plain_option,
        click.option("--key", default="", metavar="FILE", help="… and its key, PEM."),
        click.option("--certificate", default="", metavar="FILE", help="Serve https with it (PEM)."),
        click.option(
            "--secret-file", default="", metavar="FILE", help="A secret that every request must show."
        ),
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    ):
        command = option(command)
    return command


@click.group(cls=CommandGroup)
def gateway() -> None:
    """Serve the cluster's files to software that speaks HTTP.

    A gateway does all as its own user. On loopback everybody on this machine may use it; elsewhere requests
    show the secret of --secret-file, as 'Authorization: Bearer SECRET' or as the password of any user name.
    Requests to s3 are signed everywhere.
    """


@gateway.command(epilog="Example: gfs gateway http --port 8080")
@click.option("--port", type=click.IntRange(0, 65535), default=9580, show_default=True, help="0: any free.")
@_door_options
@click.pass_context
def http(ctx: click.Context, /, port: int, **door: Any) -> None:  # Any: what the options of the door give
    """Serve files by plain HTTP, for curl and browsers.

    \b
      curl http://127.0.0.1:9580/v1/fs/data/a.csv -r 0-99       GET, HEAD: Range, ETag, conditions
      curl -T a.csv http://127.0.0.1:9580/v1/fs/data/a.csv      PUT: appears when it is whole
      curl -X DELETE http://127.0.0.1:9580/v1/fs/data/a.csv     into the trash
    """
    from gfs.integrations.gateways import http_gateway
    from gfs.integrations.gateways.gateway_server import GatewayServer

    def make(client: AsyncClient, at: Door) -> GatewayServer:
        routes = http_gateway.HttpGateway(client).routes
        return GatewayServer(
            routes,
            host=at.host,
            port=at.port,
            refusal=http_gateway.refusal,
            secret=at.secret,
            encryption=at.encryption,
            plain=at.plain,
        )

    _serve(ctx, Door(port=port, **door), make, http_gateway.PREFIX + "/")


@gateway.command(epilog="Example: gfs gateway webhdfs --port 9870")
@click.option("--port", type=click.IntRange(0, 65535), default=9870, show_default=True, help="0: any free.")
@_door_options
@click.pass_context
def webhdfs(ctx: click.Context, /, port: int, **door: Any) -> None:  # Any: what the options of the door give
    """Serve files by the REST interface of HDFS, for its clients.

    \b
      hdfs.InsecureClient("http://127.0.0.1:9870").read("/data/a.csv")      PyPI's hdfs
      fsspec.filesystem("webhdfs", host="127.0.0.1", port=9870)
    """
    from gfs.integrations.gateways import webhdfs_gateway
    from gfs.integrations.gateways.gateway_server import GatewayServer

    def make(client: AsyncClient, at: Door) -> GatewayServer:
        routes = webhdfs_gateway.WebHdfsGateway(client).routes
        return GatewayServer(
            routes,
            host=at.host,
            port=at.port,
            refusal=webhdfs_gateway.refusal,
            secret=at.secret,
            encryption=at.encryption,
            plain=at.plain,
        )

    _serve(ctx, Door(port=port, **door), make, webhdfs_gateway.PREFIX + "/")


@gateway.command(epilog="Example: gfs gateway s3 --keys-file keys --port 9000")
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="0: any free.")
@click.option("--keys-file", required=True, metavar="FILE", help="A line for each: ACCESS_KEY SECRET_KEY.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--certificate", default="", metavar="FILE", help="Serve https with it (PEM).")
@click.option("--key", default="", metavar="FILE", help="… and its key, PEM.")
@_plain_option
@click.pass_context
def s3(
    ctx: click.Context, port: int, keys_file: str, host: str, certificate: str, key: str, plain: bool
) -> None:
    """Serve files as S3 objects: the directories of the root are buckets, paths below them are keys.

    \b
      (umask 077; echo "me $(head -c 24 /dev/urandom | base64)" > keys)
      gfs gateway s3 --keys-file keys
      aws --endpoint-url http://127.0.0.1:9000 s3 cp a.csv s3://data/a.csv

    Every request is signed with one of the keys (signature V4); clients use path-style addresses.
    """
    from gfs.integrations.gateways import s3_gateway
    from gfs.integrations.gateways.gateway_server import GatewayServer

    keys = _read_keys(keys_file)

    def make(client: AsyncClient, at: Door) -> GatewayServer:
        return GatewayServer(
            s3_gateway.S3Gateway(client, keys).routes,
            host=at.host,
            port=at.port,
            refusal=s3_gateway.refusal,
            encryption=at.encryption,
            plain=at.plain,
            signed=True,
        )

    _serve(ctx, Door(host, port, "", certificate, key, plain=plain), make, "/")


def _read_keys(path: str) -> dict[str, str]:
    """Access key to secret key. Raises: ConfigInvalid, which shows none of them."""
    keys: dict[str, str] = {}
    for number, line in enumerate(_private_text(path).splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[1]) < SECRET_CHARS_MIN:
            raise ConfigInvalid(
                f"line {number} of {path} is not ACCESS_KEY SECRET_KEY with a secret of at least "
                f"{SECRET_CHARS_MIN} characters"
            )
        keys[words[0]] = words[1]
    if not keys:
        raise ConfigInvalid(
            f"there is no key in {path}",
            hint=f'Make one: (umask 077; echo "me $(head -c 24 /dev/urandom | base64)" > {path})',
        )
    return keys


def _serve(ctx: click.Context, door: Door, make: Made, path: str) -> None:
    """Until Ctrl-C or SIGTERM."""
    from gfs import aio
    from gfs.transport.event_loop import run

    settings = load_settings(ctx.obj)
    door.plain = door.plain or settings.cluster.allow_insecure_network

    async def work() -> None:
        asked_to_stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
        client = await aio.connect(
            master_addresses(ctx.obj, settings),
            settings=settings.client,
            cluster=settings.cluster.id,
            consistency=ctx.obj.consistency,
        )
        try:
            server = make(client, door)
            note(f"serving {await server.start()}{path}   Ctrl-C ends it")
            await asked_to_stop.wait()
            await server.stop()
        finally:
            await client.close()

    run(work(), loop="auto")
