"""`--storage-option`: what is passed on, and that secrets are refused at any depth without being repeated."""

from __future__ import annotations

import json

import pytest

from clip_transforms.elements import RequestError
from pipelines.storage_options import storage_options

HUSH = "hush-hush"


def test_values_are_json_where_they_are() -> None:
    pairs = [
        "anon=true",
        "requester_pays=my-project",
        "endpoint_url=http://h:1/a=b",
        'client_kwargs={"region_name": "x"}',
    ]
    assert storage_options(pairs) == {
        "anon": True,
        "requester_pays": "my-project",
        "endpoint_url": "http://h:1/a=b",
        "client_kwargs": {"region_name": "x"},
    }


@pytest.mark.parametrize(
    "name",
    [
        "key",
        "secret",
        "token",
        "password",
        "account_key",
        "sas_token",
        "connection_string",
        "client_secret",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "username_password",
        "passphrase",
        "pkey",
        "credential",
        "credentials",
        "auth",
        "authorization",
        "cookies",
        "apiKey",
        "SecretAccessKey",
        "private_key",
        "SSECustomerKey",
        "id_token",
        "key_id",
        "keytab",
        "x-api-key",
    ],
)
def test_secrets_are_refused(name: str) -> None:
    for pair, shown in (
        (f"{name}={HUSH}", name),
        (f"{name}=[17]", name),
        ("client_kwargs=" + json.dumps({"a": {name: HUSH}}), f"client_kwargs.a.{name}"),
        ("some=" + json.dumps([{"b": 1}, {name: HUSH}]), f"some.{name}"),
        (f"{name}=" + json.dumps({"inner": HUSH}), name),
    ):
        with pytest.raises(RequestError) as caught:
            storage_options(["anon=true", pair])
        assert f"--storage-option {shown}: secrets are not taken" in str(caught.value)
        assert HUSH not in str(caught.value)


@pytest.mark.parametrize(
    "pair",
    [
        f"endpoint_url=http://me:{HUSH}@host",
        f"endpoint_url=https://host/?sig={HUSH}",
        "config_kwargs=" + json.dumps({"proxies": {"https": f"http://me:{HUSH}@proxy"}}),
    ],
)
def test_secrets_in_urls_are_refused(pair: str) -> None:
    with pytest.raises(RequestError, match="secrets are not taken") as caught:
        storage_options([pair])
    assert HUSH not in str(caught.value)


@pytest.mark.parametrize(
    "pair",
    [
        "token=anon",
        "token=google_default",
        "token=cloud",
        "project=p",
        "profile=research",
        "anon=false",
        "default_block_size=1048576",
        'config_kwargs={"signature_version": "s3v4", "read_timeout": 5}',
        's3_additional_kwargs={"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/mine"}',
        "version_aware=true",
    ],
)
def test_what_is_no_secret_is_taken(pair: str) -> None:
    assert list(storage_options([pair])) == [pair.partition("=")[0]]


@pytest.mark.parametrize("pair", [HUSH, f"={HUSH}", f"secret:{HUSH}", f" {HUSH} ="])
def test_what_is_no_pair_is_refused_without_being_repeated(pair: str) -> None:
    with pytest.raises(RequestError, match="number 2 is not K=V") as caught:
        storage_options(["anon=true", pair])
    assert HUSH not in str(caught.value)


def test_a_name_comes_once() -> None:
    with pytest.raises(RequestError, match="anon is given twice"):
        storage_options(["anon=true", "anon=false"])
