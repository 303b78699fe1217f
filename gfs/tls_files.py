"""Which certificates a program uses, as the settings say. What is done with them is tls.py's."""

from __future__ import annotations

import os
from collections.abc import Mapping

from gfs.errors import ConfigInvalid
from gfs.settings import ClientSettings, Settings
from gfs.tls import CA_FILE_VARIABLE, NodeName, TlsIdentity


def tls_of(settings: Settings, *, cluster: str, role: str, node: str) -> TlsIdentity | None:
    """Of one program of the cluster; None when it speaks plain text.

    Raises: ConfigInvalid, also for the certificate of another node.
    """
    tls = settings.tls
    if not tls.ca_file:
        return None
    certificate = tls.certificate_file.replace("{node}", node)
    identity = TlsIdentity(
        ca_file=tls.ca_file,
        certificate_file=certificate,
        key_file=tls.key_file.replace("{node}", node),
        denied_file=tls.denied_file,
    )
    wanted = NodeName(cluster, role, node)
    if not identity.is_of(wanted):
        raise ConfigInvalid(
            f"{certificate} is not the certificate of {wanted.uri}",
            hint=f"'gfs cert issue {role} {node} --cluster {cluster}' makes it, 'gfs cert show' reads it.",
        )
    return identity


def tls_of_client(
    settings: ClientSettings, *, environment: Mapping[str, str] = os.environ
) -> TlsIdentity | None:
    """None when the cluster speaks plain text. Raises: ConfigInvalid."""
    path = environment.get(CA_FILE_VARIABLE, "") or settings.ca_file
    return TlsIdentity(ca_file=path) if path else None
