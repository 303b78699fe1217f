"""What a caller shows to prove who it is: users' tokens and programs' proofs. Who may do what is elsewhere.

A credential is one printable line. A user's is a random token, of which the cluster knows the SHA-256 alone;
a program's is made of the cluster's secret, which it does not show. Neither may be logged, nor stand in an
error.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping

from gfs.errors import ConfigInvalid

TOKEN_STEM = "gfst_"
PROOF_STEM = "gfsp_"
TOKEN_BYTES = 32
CREDENTIAL_CHARS_MAX = 256
TOKEN_FILE_VARIABLE = "GFS_TOKEN_FILE"
PROGRAM_ROLES = ("master", "chunkserver")


def new_token() -> str:
    return TOKEN_STEM + base64.urlsafe_b64encode(secrets.token_bytes(TOKEN_BYTES)).decode().rstrip("=")


def token_digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def token_id(digest: bytes) -> str:
    """What people call a token by; it opens nothing."""
    return digest[:6].hex()


def program_proof(secret: bytes, *, cluster: str, role: str) -> str:
    """What a program of the cluster shows to others. `role`: of PROGRAM_ROLES."""
    assert role in PROGRAM_ROLES and secret
    said = f"gfs program\n{cluster}\n{role}".encode()
    return f"{PROOF_STEM}{role}_{hmac.new(secret, said, hashlib.sha256).hexdigest()}"


def proved_role(credential: str, secret: bytes, *, cluster: str) -> str:
    """The role that a program's proof is of; empty when it is none, or of another secret or cluster."""
    for role in PROGRAM_ROLES:
        if hmac.compare_digest(
            credential.encode(), program_proof(secret, cluster=cluster, role=role).encode()
        ):
            return role
    return ""


def read_cluster_secret(path: str) -> bytes:
    """Raises: ConfigInvalid."""
    try:
        with open(path, "rb") as file:
            secret = file.read().strip()
    except OSError as error:
        raise ConfigInvalid(f"cannot read cluster.secret_file {path!r}: {error.strerror}") from error
    if not secret:
        raise ConfigInvalid(f"cluster.secret_file {path!r} is empty")
    return secret


def write_token(path: str, token: str) -> None:
    """Into a new file that only its owner can read. Raises: ConfigInvalid."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigInvalid(f"cannot write the token into {path!r}: {error.strerror}") from error


def read_token(path: str) -> str:
    """Raises: ConfigInvalid, also when others may read the file. No message shows any of its content."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(2 * CREDENTIAL_CHARS_MAX).strip()
    except OSError as error:
        raise ConfigInvalid(f"cannot read the token file {path!r}: {error.strerror}") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise ConfigInvalid(
            f"the token file {path!r} may be read by others (mode {stat.S_IMODE(mode):03o})",
            hint=f"chmod 600 {path}, and revoke the token if it may have been seen: 'gfs token revoke'.",
        )
    if not token.startswith(TOKEN_STEM) or len(token) > CREDENTIAL_CHARS_MAX:
        raise ConfigInvalid(f"{path!r} holds no token; one is a line that begins with {TOKEN_STEM}")
    return token


def user_credential(token_file: str, *, environment: Mapping[str, str] = os.environ) -> str:
    """The token of whoever runs this program; empty without one. Raises: ConfigInvalid."""
    path = environment.get(TOKEN_FILE_VARIABLE, "") or token_file
    return read_token(path) if path else ""
