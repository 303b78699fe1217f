"""S3 as its clients speak it: boto3, obstore, pyarrow; signatures, checksums, and what is refused."""

from __future__ import annotations

import datetime
import hashlib
import io
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from obstore.store import S3Store

import gfs
from gfs.client.blocking import Client
from gfs.integrations.gateways.s3_signature import UNSIGNED, S3Refused, SignedRequest, check
from gfs.vocabulary import MIB
from tests.integrations.gateways import running_s3

KEY, SECRET = "AKtest", "a secret of some length"
S3 = Any  # boto3 makes its classes as it goes


@pytest.fixture(scope="module")
def gateway(masters: str) -> Iterator[str]:
    with running_s3(masters, {KEY: SECRET}) as url:
        yield url


@pytest.fixture(scope="module")
def client(masters: str) -> Iterator[Client]:
    with gfs.connect(masters) as client:
        yield client


def boto(gateway: str, secret: str = SECRET, key: str = KEY) -> S3:
    return boto3.client(
        "s3",
        endpoint_url=gateway,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
    )


@pytest.fixture(scope="module")
def s3(gateway: str) -> S3:
    return boto(gateway)


@pytest.fixture
def bucket(s3: S3, request: pytest.FixtureRequest) -> str:
    name = request.node.originalname.replace("_", "-")[:60].strip("-")
    s3.create_bucket(Bucket=name)
    return str(name)


def refused(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_an_object_is_put_read_looked_at_copied_and_deleted(s3: S3, bucket: str, client: Client) -> None:
    content = os.urandom(6 * MIB + 5)
    made = s3.put_object(Bucket=bucket, Key="a/b/c.csv", Body=content)
    got = s3.get_object(Bucket=bucket, Key="a/b/c.csv")
    assert got["Body"].read() == content == client.read_bytes(f"/{bucket}/a/b/c.csv")
    assert got["ETag"] == made["ETag"] and got["ContentType"] == "text/csv"
    head = s3.head_object(Bucket=bucket, Key="a/b/c.csv")
    assert head["ContentLength"] == len(content) and head["ETag"] == made["ETag"]
    part = s3.get_object(Bucket=bucket, Key="a/b/c.csv", Range="bytes=10-19")
    assert part["Body"].read() == content[10:20]
    assert part["ContentRange"] == f"bytes 10-19/{len(content)}"
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a/b/c.csv"})
    s3.delete_object(Bucket=bucket, Key="a/b/c.csv")
    s3.delete_object(Bucket=bucket, Key="a/b/c.csv")  # what is not there is as good as deleted
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="a/b/c.csv")
    assert refused(error) == "NoSuchKey"
    assert not client.exists(f"/{bucket}/a"), "directories go with the last object in them"
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == content


def test_conditions_are_kept(s3: S3, bucket: str) -> None:
    tag = s3.put_object(Bucket=bucket, Key="x", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="x", Body=b"2", IfNoneMatch="*")
    assert refused(error) == "PreconditionFailed"
    assert s3.get_object(Bucket=bucket, Key="x", IfMatch=tag)["Body"].read() == b"1"
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="x", IfMatch='"another"')
    assert refused(error) in ("412", "PreconditionFailed")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="x", IfNoneMatch=tag)
    assert refused(error) == "304"
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="x", Range="bytes=5-")
    assert refused(error) == "InvalidRange"


def test_keys_are_listed_with_prefixes_and_in_pages(s3: S3, bucket: str) -> None:
    keys = ["a-b", "a/1", "a/2", "a/d/3", "b", "ü & <x>"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    for list_objects in ("list_objects_v2", "list_objects"):
        pages = s3.get_paginator(list_objects).paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
        assert [one["Key"] for page in pages for one in page["Contents"]] == sorted(keys)
        found = getattr(s3, list_objects)(Bucket=bucket, Delimiter="/", Prefix="a/")
        assert [one["Key"] for one in found["Contents"]] == ["a/1", "a/2"]
        assert [one["Prefix"] for one in found["CommonPrefixes"]] == ["a/d/"]
    assert s3.list_objects_v2(Bucket=bucket, Prefix="nothing")["KeyCount"] == 0
    gone = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert len(gone["Deleted"]) == len(keys)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_buckets_are_made_listed_and_deleted(s3: S3, bucket: str) -> None:
    assert bucket in [one["Name"] for one in s3.list_buckets()["Buckets"]]
    s3.head_bucket(Bucket=bucket)
    s3.get_bucket_location(Bucket=bucket)
    with pytest.raises(ClientError) as error:
        s3.create_bucket(Bucket=bucket)
    assert refused(error) == "BucketAlreadyOwnedByYou"
    s3.put_object(Bucket=bucket, Key="x", Body=b"")
    with pytest.raises(ClientError) as error:
        s3.delete_bucket(Bucket=bucket)
    assert refused(error) == "BucketNotEmpty"
    s3.delete_object(Bucket=bucket, Key="x")
    s3.delete_bucket(Bucket=bucket)
    for ask in (s3.list_objects_v2, s3.delete_bucket):
        with pytest.raises(ClientError) as error:
            ask(Bucket=bucket)
        assert refused(error) == "NoSuchBucket"
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="a/b", Body=b"")
    assert refused(error) == "NoSuchBucket"


def test_a_completion_whose_answer_was_lost_may_be_asked_for_again(
    s3: S3, bucket: str, client: Client
) -> None:
    begun = s3.create_multipart_upload(Bucket=bucket, Key="big")
    upload = {"Bucket": bucket, "Key": "big", "UploadId": begun["UploadId"]}
    sent = s3.upload_part(**upload, PartNumber=1, Body=b"content")
    parts = [{"PartNumber": 1, "ETag": sent["ETag"]}]
    first = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    again = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert again["ETag"] == first["ETag"] == s3.head_object(Bucket=bucket, Key="big")["ETag"]
    assert client.read_bytes(f"/{bucket}/big") == b"content"
    for asked in (
        {**upload, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": '"another"'}]}},
        {**upload, "Key": "other", "MultipartUpload": {"Parts": parts}},
    ):
        with pytest.raises(ClientError) as error:
            s3.complete_multipart_upload(**asked)
        assert refused(error) == "NoSuchUpload"


def test_a_multipart_upload_appears_whole_or_not_at_all(s3: S3, bucket: str, client: Client) -> None:
    content = os.urandom(13 * MIB)
    begun = s3.create_multipart_upload(Bucket=bucket, Key="deep/big")
    upload = {"Bucket": bucket, "Key": "deep/big", "UploadId": begun["UploadId"]}
    parts = []
    for number, start in enumerate(range(0, len(content), 6 * MIB), start=1):
        sent = s3.upload_part(**upload, PartNumber=number, Body=content[start : start + 6 * MIB])
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert [one["PartNumber"] for one in s3.list_parts(**upload)["Parts"]] == [1, 2, 3]
    assert s3.list_multipart_uploads(Bucket=bucket)["Uploads"][0]["UploadId"] == begun["UploadId"]
    for wrong, code in (
        (parts[::-1], "InvalidPartOrder"),
        ([{"PartNumber": 1, "ETag": '"another"'}], "InvalidPart"),
    ):
        with pytest.raises(ClientError) as error:
            s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": wrong})
        assert refused(error) == code
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert client.read_bytes(f"/{bucket}/deep/big") == content
    again = s3.create_multipart_upload(Bucket=bucket, Key="never")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="never", UploadId=again, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket=bucket, Key="never", UploadId=again)
    with pytest.raises(ClientError) as error:
        s3.upload_part(Bucket=bucket, Key="never", UploadId=again, PartNumber=2, Body=b"x")
    assert refused(error) == "NoSuchUpload"
    assert list(client.list("/.s3-uploads")) == []
    s3.upload_fileobj(io.BytesIO(content), bucket, "managed")  # in parts, as boto3 thinks best
    assert client.read_bytes(f"/{bucket}/managed") == content


def test_parts_are_copied_from_objects_by_range_and_condition(s3: S3, bucket: str, client: Client) -> None:
    content = os.urandom(11 * MIB)
    tag = s3.put_object(Bucket=bucket, Key="source", Body=content)["ETag"]
    source = {"Bucket": bucket, "Key": "source"}
    upload = s3.create_multipart_upload(Bucket=bucket, Key="made")["UploadId"]
    into = {"Bucket": bucket, "Key": "made", "UploadId": upload, "CopySource": source}
    spans = [f"bytes=1-{6 * MIB}", f"bytes={10 * MIB}-{11 * MIB - 1}"]
    parts = []
    for number, span in enumerate(spans, start=1):
        told = s3.upload_part_copy(**into, PartNumber=number, CopySourceRange=span, CopySourceIfMatch=tag)
        parts.append({"PartNumber": number, "ETag": told["CopyPartResult"]["ETag"]})
    for wrong, code in (
        ({"CopySourceRange": f"bytes=0-{11 * MIB}"}, "InvalidRange"),
        ({"CopySourceRange": "bytes=5-"}, "InvalidArgument"),
        ({"CopySourceIfMatch": '"another"'}, "PreconditionFailed"),
        ({"CopySourceIfNoneMatch": tag}, "PreconditionFailed"),
        ({"CopySource": {"Bucket": bucket, "Key": "nothing"}}, "NoSuchKey"),
    ):
        with pytest.raises(ClientError) as error:
            s3.upload_part_copy(**{**into, **wrong}, PartNumber=2)
        assert refused(error) == code
    made = {"Bucket": bucket, "Key": "made", "UploadId": upload}
    s3.complete_multipart_upload(**made, MultipartUpload={"Parts": parts})
    assert client.read_bytes(f"/{bucket}/made") == content[1 : 6 * MIB + 1] + content[10 * MIB :]
    in_parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.copy(source, bucket, "managed", Config=in_parts)
    assert client.read_bytes(f"/{bucket}/managed") == content


def test_a_copy_on_conditions_is_made_only_when_the_source_meets_them(s3: S3, bucket: str) -> None:
    tag = s3.put_object(Bucket=bucket, Key="source", Body=b"1")["ETag"]
    source = {"Bucket": bucket, "Key": "source"}
    for wrong in ({"CopySourceIfMatch": '"another"'}, {"CopySourceIfNoneMatch": tag}):
        with pytest.raises(ClientError) as error:
            s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, **wrong)
        assert refused(error) == "PreconditionFailed"
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, CopySourceIfMatch=tag)
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == b"1"


def test_a_signed_url_works_without_keys_until_it_expires(s3: S3, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="x y+z", Body=b"shared")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x y+z"}, ExpiresIn=60)
    with urllib.request.urlopen(url) as reply:
        assert reply.read() == b"shared"
    for wrong in (url.replace("Expires=60", "Expires=600"), url[:-1] + ("0" if url[-1] != "0" else "1")):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(wrong)
        assert error.value.code == 403
    put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "sent"})
    with urllib.request.urlopen(urllib.request.Request(put, data=b"by anybody", method="PUT")):
        pass
    assert s3.get_object(Bucket=bucket, Key="sent")["Body"].read() == b"by anybody"


def test_who_has_no_key_or_the_wrong_one_is_refused(gateway: str, s3: S3, bucket: str) -> None:
    for wrong, code in (
        (boto(gateway, secret="another secret, also long"), "SignatureDoesNotMatch"),
        (boto(gateway, key="AKnobody"), "InvalidAccessKeyId"),
    ):
        with pytest.raises(ClientError) as error:
            wrong.list_objects_v2(Bucket=bucket)
        assert refused(error) == code
    for path in ("/", f"/{bucket}", f"/{bucket}/x"):
        with pytest.raises(urllib.error.HTTPError) as unsigned:
            urllib.request.urlopen(gateway + path)
        assert unsigned.value.code == 403
        assert SECRET not in unsigned.value.read().decode()


def test_what_is_not_what_was_signed_is_not_stored(gateway: str, s3: S3, bucket: str, client: Client) -> None:
    def send(body: bytes, signed: bytes, **headers: str) -> int:
        url = f"{gateway}/{bucket}/forged"
        request = AWSRequest("PUT", url, headers=headers, data=signed)
        request.headers["x-amz-content-sha256"] = hashlib.sha256(signed).hexdigest()
        SigV4Auth(Credentials(KEY, SECRET), "s3", "us-east-1").add_auth(request)
        sent = urllib.request.Request(url, data=body, headers=dict(request.headers), method="PUT")
        try:
            with urllib.request.urlopen(sent) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert send(b"forged", b"signed") == 400
    assert not client.exists(f"/{bucket}/forged")
    assert send(b"content", b"content", **{"x-amz-checksum-crc32c": "AAAAAA=="}) == 400
    assert send(b"content", b"content", **{"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}) == 400
    assert not client.exists(f"/{bucket}/forged")
    assert [entry.path for entry in client.list(f"/{bucket}")] == []
    assert send(b"content", b"content") == 200


def test_keys_that_are_no_paths_are_refused(s3: S3, bucket: str) -> None:
    for key in ("a//b", "../x", "a/./b", "a/../../x", "x" * 1025, "n" * 300):
        with pytest.raises(ClientError):
            s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    s3.put_object(Bucket=bucket, Key="file", Body=b"x")
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="file/below", Body=b"x")
    assert refused(error) == "InvalidArgument"
    with pytest.raises(ClientError) as error:
        s3.get_object_tagging(Bucket=bucket, Key="file")
    assert refused(error) == "NotImplemented"
    s3.put_object(Bucket=bucket, Key="folder/", Body=b"")
    assert {one["Key"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]} == {"file", "folder/"}
    assert s3.head_object(Bucket=bucket, Key="folder/")["ContentLength"] == 0


def test_pyarrow_writes_and_reads_a_dataset(gateway: str, s3: S3, bucket: str) -> None:
    import pyarrow as pa
    import pyarrow.dataset

    remote = pyarrow.fs.S3FileSystem(
        access_key=KEY,
        secret_key=SECRET,
        endpoint_override=gateway.removeprefix("http://"),
        scheme="http",
        region="us-east-1",
    )
    table = pa.table({"n": list(range(1000)), "part": [n % 3 for n in range(1000)]})
    pyarrow.dataset.write_dataset(
        table, f"{bucket}/table", format="parquet", partitioning=["part"], filesystem=remote
    )
    found = pyarrow.dataset.dataset(f"{bucket}/table", partitioning=["part"], filesystem=remote).to_table()
    assert sorted(found["n"].to_pylist()) == list(range(1000))


def test_obstore_streams_lists_and_copies(gateway: str, s3: S3, bucket: str, tmp_path: Path) -> None:
    store = S3Store(
        bucket,
        endpoint=gateway,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    content = os.urandom(20 * MIB)
    (tmp_path / "file").write_bytes(content)
    with open(tmp_path / "file", "rb") as file:
        obstore.put(store, "d/big", file)
    assert bytes(obstore.get(store, "d/big").bytes()) == content
    assert bytes(obstore.get_range(store, "d/big", start=7, length=9)) == content[7:16]
    obstore.copy(store, "d/big", "d/twin")
    assert sorted(one["path"] for page in obstore.list(store) for one in page) == ["d/big", "d/twin"]
    obstore.put(store, "once", b"1", mode="create")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "once", b"2", mode="create")
    obstore.delete(store, ["d/big", "d/twin", "once"])
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_signature_is_good_for_some_minutes_around_its_time() -> None:
    request = AWSRequest(
        "GET", "http://127.0.0.1:1/b/k?x=1&a=%20b", headers={"x-amz-content-sha256": UNSIGNED}
    )
    SigV4Auth(Credentials(KEY, SECRET), "s3", "us-east-1").add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()} | {"host": "127.0.0.1:1"}
    signed = SignedRequest("GET", "/b/k", "x=1&a=%20b", headers)
    now = datetime.datetime.now(datetime.UTC)
    assert check(signed, {KEY: SECRET}, now=now).access_key == KEY
    for hours in (-1, 1):
        with pytest.raises(S3Refused) as error:
            check(signed, {KEY: SECRET}, now=now + datetime.timedelta(hours=hours))
        assert error.value.code == "RequestTimeTooSkewed"
    for wrong in (
        signed._replace(method="PUT"),
        signed._replace(path="/b/other"),
        signed._replace(query="x=2&a=%20b"),
        signed._replace(headers=headers | {"host": "elsewhere"}),
    ):
        with pytest.raises(S3Refused) as error:
            check(wrong, {KEY: SECRET}, now=now)
        assert error.value.code == "SignatureDoesNotMatch"
