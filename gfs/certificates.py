"""Certificates of a cluster's nodes, made and read. The one door to cryptography, which comes with the extra
`tls`: programs need nothing of this to use certificates, see tls.py."""

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gfs.errors import AlreadyExists, ConfigInvalid, InvalidArgument
from gfs.tls import NodeName, parse_uri

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_CERTIFICATE, CA_KEY = "ca.pem", "ca-key.pem"
CERTIFICATE, KEY = "certificate.pem", "key.pem"
CA_DAYS, NODE_DAYS = 3650, 365
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*")
_BACKDATED = datetime.timedelta(minutes=10)  # clocks of hosts differ


class CertificateRow(msgspec.Struct, kw_only=True):
    """What a certificate says. `uri` is empty of an authority's; `hosts`: names and IP addresses."""

    file: str
    subject: str
    issuer: str
    uri: str
    hosts: list[str]
    not_before: str
    not_after: str
    days_left: int
    serial: str


def make_authority(directory: str, *, name: str = "gfs", days: int = CA_DAYS) -> None:
    """A new authority in `directory`: ca.pem for everybody, ca-key.pem for nobody else.

    Raises: AlreadyExists.
    """
    _require_cryptography()
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


def issue(
    directory: str, name: NodeName, out: str, *, hosts: Sequence[str] = (), days: int = NODE_DAYS
) -> None:
    """A key and a certificate of `name` in `out`, signed by the authority in `directory`.

    `hosts`: DNS names and IP addresses at which browsers and Prometheus may find it; gfs asks for `name`.
    Raises: AlreadyExists, InvalidArgument, ConfigInvalid.
    """
    _require_cryptography()
    if parse_uri(name.uri) != name:
        raise InvalidArgument(f"{name.uri!r} is no name of a node")
    for host in hosts:
        if not _HOST.fullmatch(host) and _address(host) is None:
            raise InvalidArgument(f"{host!r} is neither the name of a host nor an IP address")
    os.makedirs(out, mode=0o700, exist_ok=True)
    if os.path.exists(os.path.join(out, CERTIFICATE)):
        raise AlreadyExists(f"there is a certificate in {out} already", hint="'gfs cert renew' replaces it.")
    _issue(directory, name, out, hosts, days)


def renew(directory: str, certificate: str, *, days: int = NODE_DAYS) -> None:
    """Replace `certificate` and the key.pem beside it. Raises: InvalidArgument, ConfigInvalid."""
    old = read(certificate)
    name = parse_uri(old.uri)
    if name is None:
        raise InvalidArgument(f"{certificate} is not the certificate of a node")
    _issue(directory, name, os.path.dirname(os.path.abspath(certificate)), old.hosts, days)


def read(path: str) -> CertificateRow:
    """Raises: ConfigInvalid."""
    _require_cryptography()
    from cryptography import x509

    found = _load(path)
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        hosts = names.get_values_for_type(x509.DNSName)
        hosts += map(str, names.get_values_for_type(x509.IPAddress))
    except x509.ExtensionNotFound:
        uris, hosts = [], []
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return CertificateRow(
        file=path,
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        uri=uris[0] if uris else "",
        hosts=hosts,
        not_before=found.not_valid_before_utc.isoformat(),
        not_after=found.not_valid_after_utc.isoformat(),
        days_left=left.days,
        serial=f"{found.serial_number:x}",
    )


def _require_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigInvalid(
            "making or reading certificates needs the package cryptography",
            hint="pip install 'pygfs[tls]', on the one host that makes them.",
        )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _issue(directory: str, name: NodeName, out: str, hosts: Sequence[str], days: int) -> None:
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
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(name.uri)]
    for host in hosts:
        address = _address(host)
        names.append(x509.DNSName(host) if address is None else x509.IPAddress(address))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(purposes, critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(issuer, critical=False)
    # Both in one file first: whoever reads between the two renames has a pair that fits, or the old key,
    # which load_cert_chain refuses, so that what was read before stays in use.
    _write_key(os.path.join(out, KEY), key)
    _write_certificate(os.path.join(out, CERTIFICATE), _signed(builder, signer))


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
