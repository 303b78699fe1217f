"""Files by plain HTTP: bytes and ranges, conditions, listings, and who may come in."""

from __future__ import annotations

import asyncio
import html.parser
import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest
import requests

import gfs
from gfs.client.blocking import Client
from gfs.errors import InvalidArgument
from gfs.integrations.gateways import http_gateway
from gfs.integrations.gateways.gateway_server import GatewayServer
from gfs.vocabulary import MIB
from tests.integrations.gateways import running, running_http
from tests.waiting import until

SECRET = "a secret that nobody guesses"
CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def gateway(masters: str) -> Iterator[str]:
    with running_http(masters) as url:
        yield url


@pytest.fixture(scope="module")
def client(masters: str) -> Iterator[Client]:
    with gfs.connect(masters) as client:
        yield client


@pytest.fixture
def folder(gateway: str, client: Client, request: pytest.FixtureRequest) -> str:
    """URL of a directory of the test's own."""
    client.mkdir(f"/{request.node.originalname}", parents=True)
    return f"{gateway}/v1/fs/{request.node.originalname}"


@pytest.fixture(scope="module")
def stored(gateway: str, client: Client) -> str:
    """URL of a file with CONTENT."""
    client.write_bytes("/stored", CONTENT)
    return f"{gateway}/v1/fs/stored"


def test_file_is_put_read_looked_at_and_deleted(folder: str, client: Client) -> None:
    content = os.urandom(9 * MIB)
    made = requests.put(f"{folder}/a", data=content)
    assert made.status_code == 201
    assert requests.put(f"{folder}/a", data=content[::-1]).status_code == 204
    got = requests.get(f"{folder}/a")
    assert (got.status_code, got.content) == (200, content[::-1])
    assert got.headers["ETag"] != made.headers["ETag"]
    looked = requests.head(f"{folder}/a")
    assert (looked.status_code, looked.content) == (200, b"")
    assert int(looked.headers["Content-Length"]) == len(content)
    assert looked.headers["Accept-Ranges"] == "bytes"
    assert requests.delete(f"{folder}/a").status_code == 204
    gone = requests.get(f"{folder}/a")
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    assert client.undelete(urlsplit(f"{folder}/a").path.removeprefix("/v1/fs"))


def test_body_without_a_length_is_taken_as_it_comes(folder: str) -> None:
    blocks = [os.urandom(100_000) for _ in range(20)]
    assert requests.put(f"{folder}/a", data=iter(blocks)).status_code == 201
    assert requests.get(f"{folder}/a").content == b"".join(blocks)


@pytest.mark.parametrize(
    ("asked", "status", "expected", "told"),
    [
        ("bytes=0-9", 206, CONTENT[:10], f"bytes 0-9/{len(CONTENT)}"),
        ("bytes=10000-", 206, CONTENT[10_000:], f"bytes 10000-{len(CONTENT) - 1}/{len(CONTENT)}"),
        ("bytes=10000-99999", 206, CONTENT[10_000:], f"bytes 10000-{len(CONTENT) - 1}/{len(CONTENT)}"),
        ("bytes=-7", 206, CONTENT[-7:], f"bytes {len(CONTENT) - 7}-{len(CONTENT) - 1}/{len(CONTENT)}"),
        ("bytes=0-0", 206, CONTENT[:1], f"bytes 0-0/{len(CONTENT)}"),
        (f"bytes={len(CONTENT)}-", 416, b"", f"bytes */{len(CONTENT)}"),
        ("bytes=-0", 416, b"", f"bytes */{len(CONTENT)}"),
        ("bytes=0-1,5-6", 200, CONTENT, None),
        ("bytes=9-3", 200, CONTENT, None),
        ("lines=1-2", 200, CONTENT, None),
    ],
)
def test_range_is_answered_as_the_standard_has_it(
    stored: str, asked: str, status: int, expected: bytes, told: str | None
) -> None:
    got = requests.get(stored, headers={"Range": asked})
    assert (got.status_code, got.content, got.headers.get("Content-Range")) == (status, expected, told)


def test_conditions_of_a_read_are_kept(stored: str) -> None:
    headers = requests.head(stored).headers
    tag, date = headers["ETag"], headers["Last-Modified"]
    long_ago = "Sat, 01 Jan 2000 00:00:00 GMT"

    def status(**conditions: str) -> int:
        named = {name.replace("_", "-"): value for name, value in conditions.items()}
        return requests.get(stored, headers=named).status_code

    assert status(If_None_Match=tag) == 304
    assert status(If_None_Match=f'"other", W/{tag}') == 304
    assert status(If_None_Match='"other"') == 200
    assert status(If_None_Match='"other"', If_Modified_Since=date) == 200  # the first of both counts
    assert status(If_Match=tag) == 200
    assert status(If_Match="*") == 200
    assert status(If_Match='"other"') == 412
    assert status(If_Modified_Since=date) == 304
    assert status(If_Modified_Since=long_ago) == 200
    assert status(If_Modified_Since="no date") == 200
    assert status(If_Unmodified_Since=long_ago) == 412
    assert status(Range="bytes=0-1", If_Range=tag) == 206
    assert status(Range="bytes=0-1", If_Range='"other"') == 200


def test_file_that_must_not_be_there_is_made_once(folder: str) -> None:
    once = {"If-None-Match": "*"}
    assert requests.put(f"{folder}/a", data=b"first", headers=once).status_code == 201
    assert requests.put(f"{folder}/a", data=b"second", headers=once).status_code == 412
    assert requests.get(f"{folder}/a").content == b"first"


def test_condition_that_could_not_be_kept_is_refused_instead_of_ignored(folder: str) -> None:
    requests.put(f"{folder}/a", data=b"first")
    for headers in ({"If-Match": "*"}, {"If-None-Match": '"x"'}):
        assert requests.put(f"{folder}/a", data=b"second", headers=headers).status_code == 501
    assert requests.delete(f"{folder}/a", headers={"If-Match": '"x"'}).status_code == 501
    assert requests.get(f"{folder}/a").content == b"first"


def test_tag_of_a_file_that_records_are_appended_to_is_weak(folder: str, client: Client) -> None:
    path = urlsplit(f"{folder}/log").path.removeprefix("/v1/fs")
    client.create(path)
    client.record_append(path, b"record")
    assert requests.head(f"{folder}/log").headers["ETag"].startswith("W/")


def test_body_that_breaks_off_leaves_nothing_behind(folder: str, client: Client) -> None:
    url = urlsplit(f"{folder}/half")
    directory = url.path.removeprefix("/v1/fs").rpartition("/")[0]
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port or 0)) as wire:
        head = f"PUT {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 100000\r\n\r\n"
        wire.sendall(head.encode() + b"x" * 5000)

        async def it_is_being_written() -> bool:
            return bool(await asyncio.to_thread(client.listdir, directory))

        asyncio.run(until(it_is_being_written, "a file under its hidden name"))
    requests.put(f"{folder}/whole", data=b"whole")

    async def nothing_else_is_there() -> bool:
        return await asyncio.to_thread(client.listdir, directory) == ["whole"]

    asyncio.run(until(nothing_else_is_there, "the hidden file of the broken body is gone"))


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name == "href"]
        self.scripts += tag == "script"


def test_directory_is_a_page_whose_links_lead_to_what_is_in_it(folder: str, client: Client) -> None:
    directory = urlsplit(folder).path.removeprefix("/v1/fs")
    names = ["plain", 'a"b<script>alert(1)</script>', "50% & more?", "ünïcode #1"]
    for name in names:
        client.write_bytes(f"{directory}/{name}".replace("</", "<_"), name.encode())
    client.mkdir(f"{directory}/below")
    page = requests.get(folder)
    assert page.headers["Content-Type"].startswith("text/html")
    links = _Links()
    links.feed(page.text)
    assert links.scripts == 0
    origin = folder.partition("/v1/")[0]
    answers = [requests.get(origin + link) for link in links.found[1:]]  # the first leads up
    assert [answer.status_code for answer in answers] == [200] * 5
    assert sorted(a.content.decode() for a in answers if "html" not in a.headers["Content-Type"]) == sorted(
        names
    )


def test_directory_is_json_for_programs(folder: str) -> None:
    requests.put(f"{folder}/a", data=b"12345")
    assert requests.put(f"{folder}/below/").status_code == 201
    listed = requests.get(folder, headers={"Accept": "application/json"}).json()
    assert [(one["kind"], one.get("length_bytes")) for one in listed["entries"]] == [
        ("file", 5),
        ("directory", None),
    ]
    assert listed["complete"] is True
    assert requests.delete(f"{folder}/below").status_code == 204


def test_refusals_tell_what_is_wrong(folder: str) -> None:
    requests.put(f"{folder}/full/a", data=b"")
    assert requests.put(f"{folder}/no-directory/a", data=b"").status_code == 404
    requests.put(f"{folder}/full/")
    requests.put(f"{folder}/full/a", data=b"")
    refused = requests.delete(f"{folder}/full")
    assert (refused.status_code, refused.json()["code"]) == (409, "directory_not_empty")
    assert requests.delete(f"{folder}/full?recursive=true").status_code == 204
    assert requests.post(f"{folder}/a", data=b"").status_code == 405
    compressed = requests.put(f"{folder}/a", data=b"x", headers={"Content-Encoding": "gzip"})
    assert compressed.status_code == 400


def test_pages_of_other_sites_and_names_of_other_machines_get_nothing(stored: str) -> None:
    assert requests.get(stored, headers={"Origin": "http://elsewhere.example"}).status_code == 403
    assert requests.get(stored, headers={"Host": "elsewhere.example"}).status_code == 403
    assert requests.get(stored).status_code == 200


def test_stored_page_can_run_nothing_in_the_gateways_name(stored: str) -> None:
    headers = requests.get(stored).headers
    assert headers["Content-Security-Policy"].startswith("sandbox;")
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_gateway_that_others_can_reach_wants_its_secret(masters: str, client: Client) -> None:
    client.write_bytes("/guarded", b"content")

    def make(gateway_client: gfs.aio.AsyncClient, secret: str = SECRET, plain: bool = True) -> GatewayServer:
        return GatewayServer(
            http_gateway.HttpGateway(gateway_client).routes,
            host="0.0.0.0",
            port=0,
            refusal=http_gateway.refusal,
            secret=secret,
            plain=plain,
        )

    with running(masters, make) as url:
        url = url.replace("0.0.0.0", "127.0.0.1") + "/v1/fs/guarded"
        refused = requests.get(url)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert requests.get(url, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert requests.put(url, data=b"x", auth=("anybody", "wrong")).status_code == 401
        assert requests.get(url, headers={"Authorization": f"Bearer {SECRET}"}).content == b"content"
        assert requests.get(url, auth=("anybody", SECRET)).content == b"content"
    with pytest.raises(InvalidArgument, match="nothing says who may use"):
        with running(masters, lambda gateway_client: make(gateway_client, secret="")):
            pass
    with pytest.raises(InvalidArgument, match="could be read on its way"):
        with running(masters, lambda gateway_client: make(gateway_client, plain=False)):
            pass


def test_gateway_with_a_certificate_speaks_tls_and_nothing_else(
    masters: str, client: Client, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    client.write_bytes("/encrypted", b"content")
    for arguments in (["init-ca"], ["issue", "master", "m1", "--cluster", "c", "--out", f"{tmp_path}/m1"]):
        made = [sys.executable, "-m", "gfs", "cert", *arguments, "--dir", f"{tmp_path}/ca"]
        subprocess.run(made, check=True, capture_output=True)
    encryption = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    encryption.load_cert_chain(f"{tmp_path}/m1/certificate.pem", f"{tmp_path}/m1/key.pem")

    def make(gateway_client: gfs.aio.AsyncClient) -> GatewayServer:
        return GatewayServer(
            http_gateway.HttpGateway(gateway_client).routes,
            host="0.0.0.0",
            port=0,
            refusal=http_gateway.refusal,
            secret=SECRET,
            encryption=encryption,
        )

    with running(masters, make) as url:
        address = urlsplit(url.replace("0.0.0.0", "127.0.0.1"))
        # The certificate is of a node, by its name in the cluster: the chain counts, not the host's name.
        trust = ssl.create_default_context(cafile=f"{tmp_path}/ca/ca.pem")
        trust.check_hostname = False
        wire = http.client.HTTPSConnection(address.hostname or "", address.port, context=trust, timeout=60)
        wire.request("GET", "/v1/fs/encrypted", headers={"Authorization": f"Bearer {SECRET}"})
        assert wire.getresponse().read() == b"content"
        wire.close()
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"http://{address.netloc}/v1/fs/encrypted", timeout=60)


def test_fsspecs_http_and_pandas_read_through_it(folder: str) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"key": range(1000)})
    requests.put(f"{folder}/a.parquet", data=table.to_parquet())
    with fsspec.open(f"{folder}/a.parquet", block_size=1000) as file:
        assert pandas.read_parquet(file).equals(table)


def _command(masters: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "gfs", "--master", masters, "gateway", *arguments]


@pytest.mark.parametrize("kind", ["http", "webhdfs"])
def test_command_serves_until_it_is_told_to_stop(masters: str, kind: str) -> None:
    with subprocess.Popen(
        _command(masters, kind, "--port", "0"), stderr=subprocess.PIPE, text=True
    ) as gateway:
        assert gateway.stderr is not None
        try:
            serving = re.search(r"http://\S+", gateway.stderr.readline())
            assert serving is not None
            query = "?op=GETFILESTATUS" if kind == "webhdfs" else ""
            assert requests.get(serving[0] + query).status_code == 200
        finally:
            gateway.send_signal(signal.SIGTERM)
        assert gateway.wait() == 0


def test_command_refuses_to_be_open_to_everybody(masters: str, tmp_path: Path) -> None:
    loose = tmp_path / "secret"
    loose.write_text(SECRET)
    loose.chmod(0o644)
    for arguments in (["--host", "0.0.0.0"], ["--secret-file", str(loose)]):
        ran = subprocess.run(_command(masters, "http", *arguments), capture_output=True, text=True)
        assert (ran.returncode, "Traceback" in ran.stderr) == (2, False), ran.stderr
