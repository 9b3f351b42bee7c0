"""The whole job on real object-store servers: the same rows as on a local disk, resumed, retried, overwritten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_transforms.storage import Store
from tests.helpers import image_bytes, make_image, write_images
from tests.runs import all_rows, beamclip
from tests.servers import Server, gcs_server, s3_server


@pytest.fixture(
    scope="module",
    params=[pytest.param(gcs_server, marks=pytest.mark.gcs), pytest.param(s3_server, marks=pytest.mark.s3)],
    ids=["gcs", "s3"],
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each kind of server in turn; what is a secret comes from the environment, as on a worker."""
    with pytest.MonkeyPatch.context() as patch, request.param() as running:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield running


def options_of(server: Server) -> list[str]:
    public = {key: value for key, value in server.storage_options.items() if key not in ("key", "secret")}
    found = []
    for key, value in public.items():
        found += ["--storage-option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return found


def upload(folder: Path, store: Store) -> None:
    for path in folder.iterdir():
        store.write(path.name, path.read_bytes())


def downloaded(store: Store, folder: Path) -> Path:
    for entry in store.list():
        path = folder / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(entry.name))
    return folder


def comparable(run: Path, inputs: str) -> dict[str, list[dict[str, object]]]:
    """The rows with uris made relative to the inputs; ids, which are hashes of the uris, left out."""
    found = {}
    for folder, rows in all_rows(run).items():
        shown = [{**row, "uri": str(row["uri"]).removeprefix(inputs), "image_id": ""} for row in rows]
        found[folder] = sorted(shown, key=lambda row: str(row["uri"]))
    return found


def test_a_run_in_a_bucket_equals_a_local_one_through_resume_retry_and_overwrite(
    server: Server, tmp_path: Path
) -> None:
    folder, local = tmp_path / "images", tmp_path / "local"
    write_images(folder, 10)
    (folder / "odd #1?[x] é.jpg").write_bytes(image_bytes(make_image(50)))
    (folder / "broken.jpg").write_bytes(b"")
    bucket = Store(f"{server.url}/images", server.storage_options)
    run = Store(f"{server.url}/run", server.storage_options)
    upload(folder, bucket)
    shared = (
        "--prompts",
        "everyday",
        "--encoder",
        "fake",
        "--quiet",
        "--max-failure-rate",
        1,
        "--unit-size",
        4,
    )
    remote = (
        "label",
        "--input",
        f"{bucket.root}/**/*.jpg",
        *shared,
        "--output",
        run.root,
        *options_of(server),
    )
    here = ("label", "--input", folder, *shared, "--output", local)

    assert beamclip(*remote) == 0
    assert beamclip(*remote) == 2  # it holds a run already
    assert beamclip(*here) == 0
    expected = comparable(local, f"{folder}/")
    assert comparable(downloaded(run, tmp_path / "first"), f"{bucket.root}/") == expected
    assert len(expected["embeddings"]) == 11 and len(expected["failures"]) == 1

    more = image_bytes(make_image(60))
    bucket.write("more.jpg", more)
    (folder / "more.jpg").write_bytes(more)
    bucket.write("broken.jpg", more)
    (folder / "broken.jpg").write_bytes(more)
    assert beamclip(*remote, "--resume") == 2  # broken.jpg changed
    again = ("--resume", "--retry-failed", "--on-changed", "keep")
    assert beamclip(*remote, *again) == 0
    assert beamclip(*here, *again) == 0
    expected = comparable(local, f"{folder}/")
    assert comparable(downloaded(run, tmp_path / "second"), f"{bucket.root}/") == expected
    assert len(expected["embeddings"]) == 13 and not expected["failures"]

    assert beamclip(*remote, "--overwrite") == 0
    left = comparable(downloaded(run, tmp_path / "third"), f"{bucket.root}/")
    assert left["embeddings"] == expected["embeddings"]


def test_a_missing_bucket_and_an_empty_prefix_are_said_at_once(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    scheme = server.url.split("://")[0]
    shared = ("--prompts", "everyday", "--encoder", "fake", *options_of(server))
    run = f"{server.url}/nothing"
    assert beamclip("label", "--input", f"{server.url}/none/*.jpg", "--output", run, *shared) == 2
    assert "none/*.jpg" in capsys.readouterr().err
    assert beamclip("label", "--input", f"{scheme}://no-such-bucket/a", "--output", run, *shared) == 2
    assert "no-such-bucket" in capsys.readouterr().err
    assert not list(Store(run, server.storage_options).list())


def test_secrets_on_the_command_line_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("label", "--input", tmp_path, "--output", tmp_path / "run", "--prompts", "everyday")
    assert beamclip(*asked, "--storage-option", "secret=hush") == 2
    said = capsys.readouterr().err
    assert "secrets are not taken" in said and "hush" not in said
