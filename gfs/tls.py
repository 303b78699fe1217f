"""TLS between programs: contexts for both sides, and which node a certificate is of. Makes no certificates.

A node's certificate says who it is in a URI of its subject's alternative names, gfs://CLUSTER/ROLE/NODE.
That is what is compared, not host names: nodes move between addresses, and are reached through others.
Clients show no certificate but a token.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gfs.certificate_dates import earliest_end
from gfs.errors import ConfigInvalid, Unauthenticated

SCHEME = "gfs"
NODE_ROLES = ("master", "chunkserver")
CA_FILE_VARIABLE = "GFS_CA_FILE"
_URI_TAG = 0x86  # of a subject's alternative name, as DER has it
_PEM_END = "-----END CERTIFICATE-----"
_WRONG_CA = "It must be of the same certificate authority: 'gfs cert show' tells whose a certificate is."


class NodeName(NamedTuple):
    cluster: str
    role: str
    node: str

    @property
    def uri(self) -> str:
        return f"{SCHEME}://{self.cluster}/{self.role}/{self.node}"


NOBODY = NodeName("", "", "")


def node_of(certificate: Mapping[str, Any] | None) -> NodeName:
    """Who a verified certificate, as ssl.getpeercert() has it, is of; NOBODY of none, or of no node.

    Any: the standard library's own shape.
    """
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind == "URI" and (name := parse_uri(value)) is not None:
            return name
    return NOBODY


def parse_uri(uri: str) -> NodeName | None:
    """None for what is not the name of a node."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    path = parts.path.split("/")
    if parts.scheme != SCHEME or len(path) != 3 or path[0] or path[1] not in NODE_ROLES or not path[2]:
        return None
    return NodeName(parts.netloc, path[1], path[2])


class TlsIdentity:
    """The certificates of one program. Contexts stay the same objects when files change: new handshakes
    then use what the files say."""

    def __init__(
        self, *, ca_file: str, certificate_file: str = "", key_file: str = "", denied_file: str = ""
    ) -> None:
        """Raises: ConfigInvalid for files that cannot be used; no message shows any of a key."""
        assert ca_file
        self._ca_file, self._certificate_file, self._key_file = ca_file, certificate_file, key_file
        self._denied_file = denied_file
        self._denied: frozenset[str] = frozenset()
        self._seen: dict[str, float] = {}
        self._client = _context(ssl.PROTOCOL_TLS_CLIENT)
        self._client.check_hostname = False  # see above: the node's name is compared instead
        self._client.verify_mode = ssl.CERT_REQUIRED
        self._server: ssl.SSLContext | None = None
        self._raft: ssl.SSLContext | None = None
        if certificate_file:
            self._server = _context(ssl.PROTOCOL_TLS_SERVER)
            self._server.verify_mode = ssl.CERT_OPTIONAL  # users show tokens
            self._raft = _context(ssl.PROTOCOL_TLS_SERVER)
            self._raft.verify_mode = ssl.CERT_REQUIRED
        self.refresh()

    def refresh(self) -> None:
        """Read again what has changed. Raises: ConfigInvalid; what was read before stays in use then."""
        contexts = [context for context in (self._client, self._server, self._raft) if context is not None]
        if self._has_changed(self._ca_file):

            def believe() -> None:
                for context in contexts:
                    context.load_verify_locations(self._ca_file)

            self._use(self._ca_file, believe)
        certificate, key = self._certificate_file, self._key_file or self._certificate_file
        if certificate and (self._has_changed(certificate) | self._has_changed(key)):

            def show() -> None:
                for context in contexts:
                    context.load_cert_chain(certificate, key)

            self._use(certificate, show)
        if self._denied_file and self._has_changed(self._denied_file):
            self._denied = _read_denied(self._denied_file)

    def client_context(self) -> ssl.SSLContext:
        self._refresh_if_possible()
        return self._client

    def server_context(self) -> ssl.SSLContext:
        assert self._server is not None
        return self._server

    def raft_context(self) -> ssl.SSLContext:
        """For the Raft port, where whoever comes must have a certificate."""
        assert self._raft is not None
        return self._raft

    def require_node(
        self, certificate: Mapping[str, Any] | None, *, cluster: str, role: str = ""
    ) -> NodeName:
        """Any: as node_of. Raises: Unauthenticated unless it is a node of the cluster that is not denied."""
        return self.require_named(node_of(certificate), cluster=cluster, role=role)

    def require_named(self, name: NodeName, *, cluster: str, role: str = "") -> NodeName:
        """As require_node(), of the name in a certificate that was verified."""
        self._refresh_if_possible()
        if name == NOBODY:
            raise Unauthenticated("the peer showed no certificate of a node", hint=_WRONG_CA)
        if cluster and name.cluster != cluster:
            raise Unauthenticated(f"the peer's certificate is of {name.uri}, a node of another cluster")
        if role and name.role != role:
            raise Unauthenticated(f"the peer's certificate is of {name.uri}, which is no {role}")
        if name.node in self._denied:
            raise Unauthenticated(
                f"{name.uri} is denied: its certificate was revoked",
                hint="Take it out of tls.denied_file when that was wrong.",
            )
        return name

    def is_of(self, name: NodeName) -> bool:
        """Whether this program's own certificate is of that node."""
        try:
            with open(self._certificate_file, encoding="ascii") as file:
                encoded = ssl.PEM_cert_to_DER_cert(file.read().partition(_PEM_END)[0] + _PEM_END + "\n")
        except (OSError, ValueError) as error:
            raise ConfigInvalid(f"cannot read {self._certificate_file!r} as a certificate") from error
        uri = name.uri.encode("ascii")
        return len(uri) < 128 and bytes((_URI_TAG, len(uri))) + uri in encoded

    def ends(self) -> dict[str, float]:
        """Unix seconds at which the certificates of the node and of the authority end, as the files say now;
        without those that cannot be read."""
        ends = {}
        for whose, path in (("node", self._certificate_file), ("authority", self._ca_file)):
            if not path:
                continue
            try:
                with open(path, encoding="ascii") as file:
                    ends[whose] = earliest_end(file.read())
            except (OSError, ValueError):
                continue  # being replaced, perhaps; a file that stays unreadable is refused at the next start
        return ends

    def _refresh_if_possible(self) -> None:
        try:
            self.refresh()
        except ConfigInvalid:
            pass  # half written, perhaps; what was read before is still good

    def _use(self, what: str, load: Callable[[], None]) -> None:
        try:
            load()
        except (OSError, ssl.SSLError) as error:  # an SSLError's reason names no content
            self._seen.clear()  # perhaps it was half written
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unreadable"
            raise ConfigInvalid(f"cannot use {what!r} for TLS: {reason}") from error

    def _has_changed(self, path: str) -> bool:
        try:
            changed_at = os.stat(path).st_mtime_ns
        except OSError as error:
            raise ConfigInvalid(f"cannot read {path!r}: {error.strerror}") from error
        if self._seen.get(path) == changed_at:
            return False
        self._seen[path] = changed_at
        return True


def handshake_failure(error: BaseException) -> str:
    """In words, what a failed handshake says of the two; empty when it was no matter of TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = getattr(error, "verify_message", "")  # a library's subclass may lack it
        return f"its certificate is not to be believed{': ' if why else ''}{why}"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").lower().replace("_", " ")
        if "wrong version" in reason or "http request" in reason or "record layer" in reason:
            return "one side speaks TLS and the other does not"
        return f"the TLS handshake failed: {reason or 'no reason given'}"
    return ""


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _read_denied(path: str) -> frozenset[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = (line.partition("#")[0].strip() for line in file)
        return frozenset(line for line in lines if line)
