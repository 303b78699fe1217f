"""`gfs cert`: the cluster's certificate authority and its nodes' certificates, as files. Asks no program."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from gfs.cli.command_group import CommandGroup
from gfs.cli.render import emit_one
from gfs.errors import AlreadyExists, ConfigInvalid, InvalidArgument
from gfs.tls import NODE_ROLES, NodeName, parse_uri

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_CERTIFICATE, CA_KEY = "ca.pem", "ca-key.pem"
CA_DAYS, NODE_DAYS = 3650, 365
_BACKDATED = datetime.timedelta(minutes=10)  # clocks of hosts differ


class CertificateRow(msgspec.Struct, kw_only=True):
    """What a certificate says. `uri` is empty of an authority's."""

    file: str
    subject: str
    issuer: str
    uri: str
    not_before: str
    not_after: str
    days_left: int
    serial: str


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
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    os.makedirs(directory, mode=0o700, exist_ok=True)
    for file in (CA_CERTIFICATE, CA_KEY):
        if os.path.exists(os.path.join(directory, file)):
            raise AlreadyExists(f"there is an authority in {directory} already")
    key = _new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} certificate authority")])
    builder = _builder(subject, subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    _write_key(os.path.join(directory, CA_KEY), key)
    _write_certificate(os.path.join(directory, CA_CERTIFICATE), _signed(builder, key))
    _tell(ctx, os.path.join(directory, CA_CERTIFICATE))


@cert.command()
@click.argument("role", type=click.Choice(NODE_ROLES))
@click.argument("node")
@_DIR
@click.option("--cluster", required=True, metavar="ID", help="cluster.id of the cluster that it is for.")
@click.option("--out", required=True, metavar="DIR", help="Where to put certificate.pem and key.pem.")
@click.option("--days", type=click.IntRange(1, 36500), default=NODE_DAYS, show_default=True)
@click.pass_context
def issue(
    ctx: click.Context, role: str, node: str, directory: str, cluster: str, out: str, days: int
) -> None:
    """Make a key and a certificate for NODE, a master or chunkserver of the configuration."""
    name = NodeName(cluster, role, node)
    if parse_uri(name.uri) != name:
        raise InvalidArgument(f"{name.uri!r} is no name of a node")
    os.makedirs(out, mode=0o700, exist_ok=True)
    target = os.path.join(out, "certificate.pem")
    if os.path.exists(target):
        raise AlreadyExists(f"there is a certificate in {out} already", hint="'gfs cert renew' replaces it.")
    _issue(directory, name, out, days)
    _tell(ctx, target)


@cert.command()
@click.argument("certificate", type=click.Path(exists=True, dir_okay=False))
@_DIR
@click.option("--days", type=click.IntRange(1, 36500), default=NODE_DAYS, show_default=True)
@click.pass_context
def renew(ctx: click.Context, certificate: str, directory: str, days: int) -> None:
    """Replace CERTIFICATE and the key.pem beside it. Running programs use the new ones by themselves."""
    name = parse_uri(_row(certificate).uri)
    if name is None:
        raise InvalidArgument(f"{certificate} is not the certificate of a node")
    _issue(directory, name, os.path.dirname(os.path.abspath(certificate)), days)
    _tell(ctx, certificate)


@cert.command()
@click.argument("certificate", type=click.Path(exists=True, dir_okay=False))
@click.pass_context
def show(ctx: click.Context, certificate: str) -> None:
    """Say of whom CERTIFICATE is, who has signed it, and until when it holds."""
    _tell(ctx, certificate)


def _issue(directory: str, name: NodeName, out: str, days: int) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority = _load(os.path.join(directory, CA_CERTIFICATE))
    try:
        signer = load_pem_private_key(Path(directory, CA_KEY).read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"cannot use the authority's key in {directory!r}") from error
    assert isinstance(signer, EllipticCurvePrivateKey)
    key = _new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name.role} {name.node}")])
    builder = _builder(subject, authority.subject, key, days)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name.uri)])
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(purposes, critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(issuer, critical=False)
    # Both in one file first: whoever reads between the two renames has a pair that fits, or the old key,
    # which load_cert_chain refuses, so that what was read before stays in use.
    _write_key(os.path.join(out, "key.pem"), key)
    _write_certificate(os.path.join(out, "certificate.pem"), _signed(builder, signer))


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _BACKDATED).not_valid_after(now + datetime.timedelta(days=days))


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _write_key(path: str, key: EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)


def _write_certificate(path: str, certificate: x509.Certificate) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    _write(path, certificate.public_bytes(Encoding.PEM), mode=0o644)


def _write(path: str, content: bytes, *, mode: int) -> None:
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _load(path: str) -> x509.Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"{path!r} cannot be read as a certificate") from error


def _row(path: str) -> CertificateRow:
    from cryptography import x509

    found = _load(path)
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return CertificateRow(
        file=path,
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        uri=uris[0] if uris else "",
        not_before=found.not_valid_before_utc.isoformat(),
        not_after=found.not_valid_after_utc.isoformat(),
        days_left=left.days,
        serial=f"{found.serial_number:x}",
    )


def _tell(ctx: click.Context, path: str) -> None:
    row = _row(path)
    who = row.uri or row.subject
    text = f"{path}: {who}, signed by {row.issuer}, until {row.not_after} ({row.days_left} days left)"
    emit_one(row, ctx.obj.output, text)
