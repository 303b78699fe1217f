"""Mutual TLS between real programs: without a certificate, with a wrong or a denied one, nobody gets in."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from gfs.cli.app import cli
from gfs.cli.doctor import programs
from gfs.credentials import program_proof, read_token, token_digest
from gfs.errors import ConfigInvalid, GfsError, InvalidArgument, Unauthenticated, Unavailable
from gfs.messages.base import Ack, Ping
from gfs.messages.namespace import EntryReply, Stat
from gfs.settings import TlsSettings
from gfs.tls import NodeName, TlsIdentity, parse_uri
from gfs.transport.websocket_client import WebSocketCaller
from gfs.vocabulary import Address
from tests.client.real_cluster import RealCluster
from tests.waiting import until

CLUSTER = "test-cluster"
PROOF = program_proof(b"a long line nobody guesses", cluster=CLUSTER, role="master")


def run(*arguments: str) -> str:
    ran = CliRunner().invoke(cli, ["cert", *arguments], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


def authority(path: Path) -> Path:
    run("init-ca", "--dir", str(path))
    return path


def issued(ca: Path, role: str, node: str, out: Path, cluster: str = CLUSTER) -> Path:
    run("issue", role, node, "--dir", str(ca), "--cluster", cluster, "--out", str(out))
    return out


def identity(ca: Path, node: Path | None = None, denied: Path | None = None) -> TlsIdentity:
    return TlsIdentity(
        ca_file=str(ca / "ca.pem"),
        certificate_file="" if node is None else str(node / "certificate.pem"),
        key_file="" if node is None else str(node / "key.pem"),
        denied_file="" if denied is None else str(denied),
    )


def secured(directory: Path, *, masters: int, chunkservers: int) -> tuple[RealCluster, Path]:
    """A cluster that speaks TLS, and its authority."""
    ca = authority(directory / "ca")
    cluster = RealCluster(directory, masters=masters, chunkservers=chunkservers, tokens=True)
    for role, nodes in (("master", cluster.settings.masters), ("chunkserver", cluster.settings.chunkservers)):
        for node in nodes:
            issued(ca, role, node, directory / "certificates" / node)
    (directory / "denied").write_text("# nobody yet\n")
    tls = TlsSettings(
        ca_file=str(ca / "ca.pem"),
        certificate_file=str(directory / "certificates" / "{node}" / "certificate.pem"),
        key_file=str(directory / "certificates" / "{node}" / "key.pem"),
        denied_file=str(directory / "denied"),
    )
    cluster.settings = msgspec.structs.replace(cluster.settings, tls=tls)
    cluster.ca_file = str(ca / "ca.pem")
    return cluster, ca


async def asked(address: str, tls: TlsIdentity | None, credential: str, request: object = None) -> None:
    caller = WebSocketCaller("client", "test", CLUSTER, credential=credential, tls=tls)
    try:
        if request is None:
            await caller.call(Address(address), Stat(path="/"), EntryReply, deadline_seconds=5.0)
        else:
            await caller.call(Address(address), Ping(), Ack, deadline_seconds=5.0)
    finally:
        await caller.close()


async def test_a_cluster_with_tls_elects_stores_and_refuses_whoever_is_not_its_node(tmp_path: Path) -> None:
    cluster, ca = secured(tmp_path, masters=3, chunkservers=2)
    other = authority(tmp_path / "other-ca")
    async with cluster:
        async with await cluster.client() as client:
            await client.write_bytes("/f", b"bytes" * 50_000)
            assert await client.read_bytes("/f") == b"bytes" * 50_000
            leader = (await client.cluster_status()).leader
        address = cluster.settings.masters[leader].control
        own = tmp_path / "certificates" / leader
        await asked(address, identity(ca, own), PROOF)
        # the doctor, on a machine of the cluster, and where another authority is believed
        findings = await asyncio.to_thread(lambda: list(programs(cluster.settings)))
        assert [finding.verdict for finding in findings] == ["good"] * 5, findings
        elsewhere_believed = msgspec.structs.replace(
            cluster.settings, tls=TlsSettings(ca_file=str(other / "ca.pem"))
        )
        findings = await asyncio.to_thread(lambda: list(programs(elsewhere_believed)))
        assert [finding.verdict for finding in findings] == ["bad"] * 5, findings
        # plaintext to a TLS port
        with pytest.raises(Unavailable, match="TLS"):
            await asked(address, None, PROOF)
        # its certificate is not of the authority that is believed here, nor the caller's there
        with pytest.raises(Unauthenticated, match="not to be believed"):
            await asked(address, identity(other), PROOF)
        stranger = issued(other, "master", leader, tmp_path / "stranger")
        mixed = TlsIdentity(
            ca_file=str(ca / "ca.pem"),
            certificate_file=str(stranger / "certificate.pem"),
            key_file=str(stranger / "key.pem"),
        )
        with pytest.raises(GfsError):
            await asked(address, mixed, PROOF)
        # the secret alone is not enough, nor is it with the certificate of another role or cluster
        with pytest.raises(Unauthenticated, match="no certificate of a node"):
            await asked(address, identity(ca), PROOF)
        with pytest.raises(Unauthenticated, match="no master"):
            await asked(address, identity(ca, tmp_path / "certificates" / "cs1"), PROOF)
        elsewhere = issued(ca, "master", "m1", tmp_path / "elsewhere", cluster="another")
        with pytest.raises(Unauthenticated, match="another cluster"):
            await asked(address, identity(ca, elsewhere), PROOF)
        # a node that is denied
        gone = issued(ca, "master", "m9", tmp_path / "m9")
        await asked(address, identity(ca, gone), PROOF)
        (tmp_path / "denied").write_text("m9  # its disk was stolen\n")
        with pytest.raises(Unauthenticated, match="denied"):
            await asked(address, identity(ca, gone), PROOF)
        # certificates are renewed under a cluster that runs
        for node in ("m1", "m2", "m3", "cs1", "cs2"):
            run("renew", str(tmp_path / "certificates" / node / "certificate.pem"), "--dir", str(ca))
        follower = next(name for name in cluster.settings.masters if name != leader)
        await cluster.stop_master(follower)
        await cluster.start_master(follower)

        async def is_back() -> bool:
            async with await cluster.client() as again:
                masters = (await again.cluster_status()).masters
                return all(one.role in ("leader", "follower") for one in masters)

        await until(is_back, "the master with the new certificate is a member again")
        host, port = cluster.settings.masters[leader].raft.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\0" * 100)
        await reader.read()  # to the end: it hangs up
        writer.close()


def test_a_program_does_not_start_with_the_certificate_of_another_node(tmp_path: Path) -> None:
    cluster, ca = secured(tmp_path, masters=1, chunkservers=1)
    issued(ca, "chunkserver", "m1", tmp_path / "swapped")
    for name in ("certificate.pem", "key.pem"):
        os.replace(tmp_path / "swapped" / name, tmp_path / "certificates" / "m1" / name)
    with pytest.raises(ConfigInvalid, match="is not the certificate of"):
        asyncio.run(cluster.start_master("m1"))


def test_the_first_token_is_made_before_there_is_a_cluster(tmp_path: Path) -> None:
    ran = CliRunner().invoke(cli, ["token", "first", str(tmp_path / "t")], catch_exceptions=False)
    token = read_token(str(tmp_path / "t"))
    assert ran.exit_code == 0 and token not in ran.output
    assert ran.output.strip() == f'first_token_sha256 = "{token_digest(token).hex()}"'


def test_certificates_are_made_shown_and_renewed_and_keys_are_nobody_elses(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    node = issued(ca, "master", "m1", tmp_path / "m1")
    assert (node / "key.pem").stat().st_mode & 0o777 == 0o600 == (ca / "ca-key.pem").stat().st_mode & 0o777
    shown = run("show", str(node / "certificate.pem"))
    assert f"gfs://{CLUSTER}/master/m1" in shown and "364 days left" in shown
    before = (node / "certificate.pem").read_bytes(), (node / "key.pem").read_bytes()
    run("renew", str(node / "certificate.pem"), "--dir", str(ca), "--days", "30")
    after = (node / "certificate.pem").read_bytes(), (node / "key.pem").read_bytes()
    assert before[0] != after[0] and before[1] != after[1]
    assert identity(ca, node).is_of(NodeName(CLUSTER, "master", "m1"))
    assert not identity(ca, node).is_of(NodeName(CLUSTER, "master", "m11"))
    with pytest.raises(GfsError, match="already"):
        issued(ca, "master", "m1", tmp_path / "m1")


def shake_hands(ca: Path, node: Path, host: str) -> None:
    """As a browser does, in memory. Raises: ssl.SSLCertVerificationError."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=ca / "ca.pem")
    server.load_cert_chain(node / "certificate.pem", node / "key.pem")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=host), server.wrap_bio(up, down, server_side=True)]
    for _ in range(4):  # flights of both
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()


def test_a_certificate_with_names_of_hosts_is_believed_by_those_who_ask_for_them(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    named = ("--host", "master1.example.org", "--host", "192.0.2.7")
    run(
        "issue", "master", "m1", "--cluster", CLUSTER, "--dir", str(ca), "--out", str(tmp_path / "m1"), *named
    )
    for _ in range(2):
        for host in ("master1.example.org", "192.0.2.7"):
            shake_hands(ca, tmp_path / "m1", host)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(ca, tmp_path / "m1", "master2.example.org")
        said = run("renew", str(tmp_path / "m1" / "certificate.pem"), "--dir", str(ca))
        assert "master1.example.org, 192.0.2.7" in said
    without = issued(ca, "master", "m2", tmp_path / "m2")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(ca, without, "master1.example.org")
    for wrong in ("two words", "", "-a", "a..b", "https://a"):
        arguments = ["cert", "issue", "master", "m3", "--cluster", CLUSTER, "--dir", str(ca), "--host", wrong]
        ran = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "m3")])
        assert isinstance(ran.exception, InvalidArgument) and not (tmp_path / "m3").exists()


@pytest.mark.parametrize(
    "uri", ["http://c/master/m1", "gfs://c/master", "gfs://c/king/m1", "gfs://c/master/", "gfs://[", ""]
)
def test_what_is_no_nodes_name_is_nobodys(uri: str) -> None:
    assert parse_uri(uri) is None


def test_files_that_are_no_certificates_are_refused_without_showing_them(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    node = issued(ca, "master", "m1", tmp_path / "m1")
    (node / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigInvalid) as refused:
        identity(ca, node)
    assert "c2VjcmV0" not in str(refused.value)
