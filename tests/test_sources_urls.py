"""Names: canonical uris, credentials, relative references, braces, ids, carry options, the sampling rule."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

from clip_transforms.elements import RequestError
from clip_transforms.sources import (
    SourceOptions,
    canonical_uri,
    expand_inputs,
    has_credentials,
    image_id_of,
    is_kept,
    parse_carry,
    scrub,
    with_private_inputs,
)
from clip_transforms.sources.urls import resolve, suffix_of

AZURE = "https://x.blob.core.windows.net/c/a.jpg?v=1"
SIGNED = "https://host/a.jpg?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=00ff&X-Amz-Expires=60"


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("gcs://bucket/a/b.jpg", "gs://bucket/a/b.jpg"),
        ("GS://Bucket/A.jpg", "gs://Bucket/A.jpg"),
        ("s3n://bucket/a?b#c[1].jpg", "s3://bucket/a?b#c[1].jpg"),
        ("s3://KEY:SECRET@bucket/me@home.jpg", "s3://bucket/me@home.jpg"),
        ("s3://bucket/a//b.jpg", "s3://bucket/a//b.jpg"),
        ("az://container/a.jpg", "abfs://container/a.jpg"),
        ("abfss://container@account.dfs.core.windows.net/a.jpg",) * 2,
        ("memory:///a/b.jpg", "memory://a/b.jpg"),
        ("memory://a/b.jpg", "memory://a/b.jpg"),
        ("file:///data/a%20b.jpg", "/data/a%20b.jpg"),
        ("file:/data/a.jpg", "/data/a.jpg"),
        ("/data/./x/../a b?#[1].jpg", "/data/a b?#[1].jpg"),
        ("HTTPS://Host/a%20b.jpg", "https://Host/a%20b.jpg"),
        ("https://user@host/a.jpg", "https://host/a.jpg"),
        ("https://host:8080/a@b.jpg?q=@1", "https://host:8080/a@b.jpg?q=@1"),
        (SIGNED, "https://host/a.jpg"),
        ("https://host/a?id=7&X-Goog-Signature=1&w=2", "https://host/a?id=7&w=2"),
        ("https://host/a?AWSAccessKeyId=1&Expires=2&Signature=3&v=4", "https://host/a?v=4"),
        ("https://x.blob.core.windows.net/c/a.jpg?sv=2022&se=2030&sr=b&sp=r&sig=x%3D&v=1", AZURE),
        ("https://cdn/a.png?ex=1&is=2&hm=3", "https://cdn/a.png"),
        ("https://host/a.jpg?se=1&is=2", "https://host/a.jpg?se=1&is=2"),
        ("https://host/a.jpg#access_token=9", "https://host/a.jpg"),
        ("https://host/a.jpg?a%63cess_token=9", "https://host/a.jpg"),
        ("zip://a.jpg::https://u:p@host/x.zip?token=1", "zip://a.jpg::https://host/x.zip"),
    ],
)
def test_canonical_uri_folds_aliases_and_takes_credentials_out(url: str, uri: str) -> None:
    assert canonical_uri(url) == uri
    assert canonical_uri(uri) == uri


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical_uri("x/a.jpg") == f"{tmp_path}/x/a.jpg"


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        (SIGNED, True),
        ("https://u:p@host/a", True),
        ("s3://k:s@bucket/a", True),
        ("zip://a.jpg::https://u:p@host/x.zip", True),
        ("https://host/a?expires=5", True),
        ("https://host/a.jpg?width=5", False),
        ("s3://bucket/a@b?Signature=c", False),
        ("/data/a@b?token=5", False),
        ("memory://a@b/c", False),
        ("abfs://container@account/a", False),
    ],
)
def test_has_credentials(url: str, secret: bool) -> None:
    assert has_credentials(url) is secret


def test_scrub_takes_credentials_out_of_urls_in_text() -> None:
    assert scrub(f"see {SIGNED} or gs://b/x") == "see https://host/a.jpg or gs://b/x"
    assert scrub("no url: a@b?token=1") == "no url: a@b?token=1"


def test_image_id_is_the_128_bit_blake2b_of_the_uri() -> None:
    uri = "gs://bucket/é#1.jpg"
    assert image_id_of(uri) == hashlib.blake2b(uri.encode(), digest_size=16).hexdigest()
    assert len(image_id_of("a\udcff")) == 32


@pytest.mark.parametrize(
    ("reference", "base", "target"),
    [
        ("a.jpg", "/data/m.csv", "/data/a.jpg"),
        ("../x/a b?.jpg", "/data/sets/m.csv", "/data/x/a b?.jpg"),
        ("/abs/a.jpg", "/data/m.csv", "/abs/a.jpg"),
        ("./a#1.jpg", "gs://b/sets/m.csv", "gs://b/sets/a#1.jpg"),
        ("../../../a.jpg", "gs://b/sets/m.csv", "gs://b/../../a.jpg"),
        ("a.jpg", "gs://b/m.csv", "gs://b/a.jpg"),
        (" https://host/a.jpg ", "gs://b/m.csv", "https://host/a.jpg"),
        ("img/a.jpg", "https://host/x/m.csv?sig=1", "https://host/x/img/a.jpg"),
        ("/img/a.jpg", "https://u:p@host/x/m.csv", "https://u:p@host/img/a.jpg"),
        ("a.jpg", "memory://sets/m.csv", "memory://sets/a.jpg"),
    ],
)
def test_references_are_relative_to_their_manifest(reference: str, base: str, target: str) -> None:
    assert resolve(reference, base=base) == target


def test_suffix_of_ignores_a_query_but_not_in_stores() -> None:
    assert suffix_of("https://host/a.TAR?x=.jpg") == ".tar"
    assert suffix_of("s3://b/a?x=.jpg") == ".jpg"


def test_braces_expand_in_order_and_nest() -> None:
    assert expand_inputs(["s/{0000..0002}.tar"]) == ["s/0000.tar", "s/0001.tar", "s/0002.tar"]
    assert expand_inputs(["{3..1}", "{1..7..3}", "{-1..1}"]) == ["3", "2", "1", "1", "4", "7", "-1", "0", "1"]
    assert expand_inputs(["{a,b}{1..2}"]) == ["a1", "a2", "b1", "b2"]
    assert expand_inputs(["{a,{x,y}z}"]) == ["a", "xz", "yz"]
    assert expand_inputs(["a{}b", "{x", "}{"]) == ["a{}b", "{x", "}{"]


def test_a_local_path_with_braces_that_exists_stays(tmp_path: Path) -> None:
    path = tmp_path / "{1..3}.jpg"
    path.write_bytes(b"x")
    assert expand_inputs([str(path)]) == [str(path)]


@pytest.mark.parametrize("text", ["{0..99999999}", "{0..9999}{0..9999}", " "])
def test_a_mistaken_brace_is_an_error(text: str) -> None:
    with pytest.raises(RequestError, match=r"1,000,000 names|is empty"):
        expand_inputs([text])


def test_options_travel_as_pickle_and_as_json() -> None:
    options = SourceOptions(carry=(("a", "int64"),), sample=0.5, seed=3, storage_options={"project": "p"})
    assert pickle.loads(pickle.dumps(options)) == options
    assert SourceOptions(**json.loads(json.dumps(asdict(options)))) == options


def test_secrets_do_not_show_in_the_options_repr() -> None:
    options = with_private_inputs([SIGNED], SourceOptions(storage_options={"secret": "hunter2"}))
    assert options.private_urls == {"https://host/a.jpg": SIGNED}
    assert "hunter2" not in repr(options)
    assert "00ff" not in repr(options)


def test_credentials_in_a_store_url_are_refused_without_showing_them() -> None:
    with pytest.raises(RequestError, match=r"s3://bucket/x.*--storage-option") as caught:
        with_private_inputs(["s3://KEY:HUNTER2@bucket/x"], SourceOptions())
    assert "HUNTER2" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SourceOptions(format="tarball"), "--format tarball: expected one of auto, images"),
        (lambda: SourceOptions(sample=0.0), "--sample 0.0"),
        (lambda: SourceOptions(sample=1.5), "--sample 1.5"),
        (lambda: SourceOptions(unit_rows=0), "--unit-size 0"),
        (lambda: SourceOptions(carry=(("a", "int65"),)), "--carry a:int65: 'int65' is no Arrow type"),
        (lambda: parse_carry(["a"]), "--carry a: expected COLUMN:TYPE"),
        (lambda: parse_carry(["a:"]), "expected COLUMN:TYPE"),
        (lambda: parse_carry(["a:float16"]), "Spark cannot read"),
        (lambda: parse_carry(["a:int8", "a:int64"]), "the column 'a' is given twice"),
    ],
)
def test_wrong_options_are_named(make, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        make()
    assert message in str(caught.value)


def test_sampling_depends_on_seed_and_key_alone() -> None:
    keys = [f"gs://b/{number}.jpg" for number in range(2000)]
    first = [key for key in keys if is_kept(SourceOptions(sample=0.1, seed=1), key)]
    assert first == [key for key in keys if is_kept(SourceOptions(sample=0.1, seed=1), key)]
    assert 150 < len(first) < 250
    assert first != [key for key in keys if is_kept(SourceOptions(sample=0.1, seed=2), key)]
    assert set(first) <= {key for key in keys if is_kept(SourceOptions(sample=0.3, seed=1), key)}
    assert all(is_kept(SourceOptions(sample=1.0), key) for key in keys)
