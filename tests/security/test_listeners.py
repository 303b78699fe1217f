"""Nothing listens beyond loopback without tokens and TLS, unless a setting with that name says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfs.errors import ConfigInvalid
from gfs.settings import load

NODES = """
[masters.m1]
control = "10.0.0.1:9500"
raft = "10.0.0.1:9501"
[chunkservers.c1]
control = "10.0.0.2:9600"
data = "10.0.0.2:9601"
"""
SECRET = '[cluster]\nid = "prod"\nsecret_file = "/etc/gfs/secret"\n'
TOKENS = "[access]\ntokens = true\n"
TLS = '[tls]\nca_file = "ca.pem"\ncertificate_file = "c.pem"\nkey_file = "k.pem"\n'


def loaded(path: Path, text: str) -> None:
    path.write_text(text)
    load(str(path), environment={})


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (NODES, "access.tokens"),
        (SECRET + TLS + NODES, "access.tokens"),
        (SECRET + TOKENS + NODES, "gfs cert"),
        (SECRET + TOKENS + TLS + NODES, "tls.plain_data"),
    ],
)
def test_a_listener_beyond_loopback_says_what_it_lacks(tmp_path: Path, text: str, missing: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"beyond loopback, and that needs .*{missing}") as refused:
        loaded(tmp_path / "gfs.toml", text)
    assert "allow_insecure_network" in refused.value.hint


@pytest.mark.parametrize(
    "text",
    [
        SECRET + TOKENS + TLS + "plain_data = true\n" + NODES,
        "[cluster]\nallow_insecure_network = true\n" + NODES,
        NODES.replace("10.0.0.1", "127.0.0.1").replace("10.0.0.2", "localhost"),
    ],
)
def test_with_both_or_when_somebody_says_so_it_may(tmp_path: Path, text: str) -> None:
    loaded(tmp_path / "gfs.toml", text)


def test_tokens_need_what_programs_prove_themselves_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="secret_file"):
        loaded(tmp_path / "gfs.toml", TOKENS)
    with pytest.raises(ConfigInvalid, match="64 hexadecimal"):
        loaded(tmp_path / "gfs.toml", SECRET + TOKENS + 'first_token_sha256 = "12"\n')
