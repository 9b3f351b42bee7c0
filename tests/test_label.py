"""`beamclip label` from images to rows, by `main([...])` on temporary folders, the Parquet read back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from clip_transforms.elements import WorkUnit
from clip_transforms.lease import Lease
from clip_transforms.storage import Store
from clip_transforms.units import PendingUnit, Worker
from schemas.embeddings import embeddings_schema
from schemas.failures import FAILURES
from schemas.labels import LABELS
from tests.broken_images import broken_files, good_files
from tests.helpers import image_bytes, make_image, write_images
from tests.runs import all_rows, beamclip, rows, summary, written

FAKE = ("--encoder", "fake", "--quiet")

ROOT = Path(__file__).parent.parent


def label(images: Path, run: Path, *more: object) -> int:
    return beamclip("label", "--input", images, "--prompts", "everyday", *FAKE, "--output", run, *more)


def tag_of(run: Path) -> str:
    return next(path.name for path in (run / "labels").iterdir())


def test_every_image_has_one_row_of_each_kind_in_the_exact_schema(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert label(images, run) == 0
    embedded = ds.dataset(str(run / "embeddings"), format="parquet")
    labels = ds.dataset(str(run / "labels" / tag_of(run)), format="parquet")
    assert embedded.schema.remove_metadata().equals(embeddings_schema(32))
    assert labels.schema.remove_metadata().equals(LABELS)
    uris = sorted(str(path) for path in images.iterdir())
    assert sorted(row["uri"] for row in rows(run, "embeddings")) == uris
    assert sorted(row["uri"] for row in rows(run, f"labels/{tag_of(run)}")) == uris
    first = next(row for row in rows(run, "embeddings") if row["uri"] == uris[0])
    assert (first["width"], first["height"], first["format"]) == (48, 40, "JPEG")
    assert first["bytes"] == Path(uris[0]).stat().st_size
    assert sum(value * value for value in first["embedding"]) == pytest.approx(1, abs=1e-5)


def test_run_json_reconciles_and_status_recounts_the_same(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.jpg").write_bytes(b"not an image")
    run = tmp_path / "run"
    assert label(images, run, "--max-failure-rate", "1") == 0
    told = summary(run)
    assert (told["inputs"], told["embedded"], told["failed"]) == (13, 12, 1)
    assert told["failures_by_reason"] == {"not_an_image": 1}
    assert told["labels"] == {tag_of(run): 12}
    capsys.readouterr()
    assert beamclip("status", run, "--json") == 0
    import json

    recounted = json.loads(capsys.readouterr().out)
    shared = set(told) & set(recounted)
    assert {name: recounted[name] for name in shared} == {name: told[name] for name in shared}


def test_good_and_broken_files_of_every_kind_give_exactly_one_row_each(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    expected = {}
    for name, (data, reason) in broken_files().items():
        path = folder / f"broken-{name}.jpg"
        path.write_bytes(data)
        expected[str(path)] = reason.value
    for name, (data, _) in good_files().items():
        path = folder / f"good-{name}.png"
        path.write_bytes(data)
        expected[str(path)] = None
    run = tmp_path / "run"
    assert label(folder, run, "--max-failure-rate", "1") == 0
    found = {row["uri"]: None for row in rows(run, "embeddings")}
    failed = {row["uri"]: row["reason"] for row in rows(run, "failures")}
    assert not set(found) & set(failed)
    assert {**found, **failed} == expected
    assert len(rows(run, "embeddings")) + len(rows(run, "failures")) == len(expected)
    failures = ds.dataset(str(run / "failures"), format="parquet")
    assert failures.schema.remove_metadata().equals(FAILURES)


def test_batch_size_threads_and_units_change_no_row(images: Path, tmp_path: Path) -> None:
    runs = [tmp_path / f"run{number}" for number in range(3)]
    assert label(images, runs[0]) == 0
    assert label(images, runs[1], "--batch-size", "1", "--threads", "1", "--unit-size", "5") == 0
    assert label(images, runs[2], "--batch-size", "7", "--threads", "4", "--fetch-threads", "2") == 0
    assert all_rows(runs[1]) == all_rows(runs[0])
    assert all_rows(runs[2]) == all_rows(runs[0])


def test_too_many_failures_exit_1_and_keep_the_rows(images: Path, tmp_path: Path) -> None:
    (images / "broken.jpg").write_bytes(b"not an image")
    run = tmp_path / "run"
    assert label(images, run) == 1
    assert len(rows(run, "embeddings")) == 12
    assert [row["reason"] for row in rows(run, "failures")] == ["not_an_image"]


def test_a_job_whose_first_thousand_inputs_fail_alike_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(1300):
        (folder / f"{number}.jpg").write_bytes(b"text")
    run = tmp_path / "run"
    assert label(folder, run, "--max-failure-rate", "1", "--unit-size", "100") == 1
    assert "all failed with not_an_image" in capsys.readouterr().err
    assert not (run / "run.json").exists()


def test_labels_of_stored_embeddings_equal_labels_of_a_full_run(images: Path, tmp_path: Path) -> None:
    run, other, direct = tmp_path / "run", tmp_path / "other", tmp_path / "direct"
    assert label(images, run) == 0
    beamclip("label", "--input", images, "--prompts", "photo-kind", *FAKE, "--output", direct)
    expected = rows(direct, f"labels/{tag_of(direct)}")
    for path in images.iterdir():
        path.unlink()  # no image is read again
    assert beamclip("label", "--from-run", run, "--prompts", "photo-kind", "--quiet") == 0
    assert beamclip("label", "--from-run", run, "--prompts", "photo-kind", "--output", other, "--quiet") == 0
    assert rows(run, f"labels/{tag_of(direct)}") == expected
    assert rows(other, f"labels/{tag_of(direct)}") == expected
    assert summary(run)["labels"].keys() == {tag_of(direct), *summary(run)["labels"]}
    assert not (other / "embeddings").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--encoder", "fake?dim=8"), "does not agree with the run"),
        (("--input", "x"), "does not go with --from-run"),
        (("--resume", "--overwrite"), "not allowed with"),
    ],
)
def test_from_run_refuses_what_contradicts_it(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    run = tmp_path / "run"
    assert label(images, run) == 0
    before = written(run)
    assert beamclip("label", "--from-run", run, "--prompts", "photo-kind", *more) == 2
    assert said in capsys.readouterr().err
    assert written(run) == before


def test_resume_adds_what_is_new_and_computes_nothing_twice(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert label(images, run) == 0
    before = set(written(run))
    (images / "more.jpg").write_bytes(image_bytes(make_image(99)))
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 0
    assert len(rows(run, "embeddings")) == 13 == len(rows(run, f"labels/{tag_of(run)}"))
    assert {name for name in before if "/part-" in name} <= set(written(run))
    assert summary(run)["units_before"] == 1


def test_a_changed_input_is_an_error_until_told(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    assert label(images, run) == 0
    first = all_rows(run)
    (images / "image00003.jpg").write_bytes(image_bytes(make_image(77)))
    (images / "image00005.jpg").unlink()
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 2
    said = capsys.readouterr().err
    assert "image00003.jpg" in said and "image00005.jpg" in said and "--on-changed" in said
    assert beamclip("label", "--output", run, "--resume", "--on-changed", "keep", "--quiet") == 0
    assert all_rows(run) == first
    assert (
        beamclip("label", "--output", run, "--resume", "--on-changed", "redo", "--max-failure-rate", 1, *FAKE)
        == 0
    )
    assert label(images, fresh) == 0
    assert rows(run, "embeddings") == rows(fresh, "embeddings")
    assert rows(run, f"labels/{tag_of(run)}") == rows(fresh, f"labels/{tag_of(run)}")
    assert [row["reason"] for row in rows(run, "failures")] == ["not_found"]
    assert beamclip("label", "--output", run, "--resume", "--max-failure-rate", 1, "--quiet") == 0


def test_labels_of_another_run_follow_what_it_reads_again(images: Path, tmp_path: Path) -> None:
    """A row an image, also where the other run has embedded it anew since, and none where it has it no more."""
    run, view, fresh = tmp_path / "run", tmp_path / "view", tmp_path / "fresh"
    assert label(images, run, "--unit-size", "5") == 0
    sets = ("--prompts", "everyday", "photo-kind")
    assert beamclip("label", "--from-run", run, *sets, "--output", view, "--quiet") == 0
    first = {path for path in written(view) if "/part-" in path}
    redo = ("--resume", "--on-changed", "redo", "--max-failure-rate", 1, "--quiet")
    for seed in (77, 78):
        (images / "image00007.jpg").write_bytes(image_bytes(make_image(seed)))
        assert beamclip("label", "--output", run, *redo) == 0
        assert beamclip("label", "--from-run", run, "--output", view, "--resume", "--quiet") == 0
        assert len(first & set(written(view))) == len(first) - 2  # of one unit of three, in two sets
    part = view / min(first & set(written(view)))
    gone = pq.read_table(part).column("uri").to_pylist()
    for uri in gone:
        Path(uri).unlink()
    assert beamclip("label", "--output", run, *redo) == 0
    assert beamclip("label", "--from-run", run, "--output", view, "--resume", "--quiet") == 0
    assert beamclip("label", "--from-run", run, *sets, "--output", fresh, "--quiet") == 0
    tags = sorted(path.name for path in (view / "labels").iterdir())
    assert len(tags) == 2
    for tag in tags:
        found = rows(view, f"labels/{tag}")
        assert len(found) == 12 - len(gone) and found == rows(fresh, f"labels/{tag}")
    assert summary(view)["labels"] == summary(fresh)["labels"] and not part.exists()
    parts = [name for name in written(view) if "/part-" in name]
    assert beamclip("label", "--from-run", run, "--output", view, "--resume", "--quiet") == 0
    assert [name for name in written(view) if "/part-" in name] == parts


@pytest.mark.slow
def test_a_stale_launcher_does_not_undo_what_a_newer_one_made_of_the_views(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked at a unit without embeddings; the other run is read again, and labelled by another launcher."""
    run, view = tmp_path / "run", tmp_path / "view"
    sound = {path: path.read_bytes() for path in images.iterdir()}
    for path in sound:
        path.write_bytes(b"x")
    assert label(images, run, "--max-failure-rate", "1") == 0
    asked = ("label", "--from-run", run, "--prompts", "everyday", "--output", view, "--quiet")
    start = Worker.start

    def late(worker: Worker, unit: WorkUnit) -> PendingUnit:
        found = start(worker, unit)
        if not found.state.parts("embeddings"):
            for path, data in sound.items():
                path.write_bytes(data)
            cli = [sys.executable, "-m", "pipelines.cli"]
            redo = ("label", "--output", run, "--resume", "--on-changed", "redo", "--quiet")
            for command in (redo, (*asked, "--resume", "--take-over")):
                subprocess.run([*cli, *map(str, command)], cwd=ROOT, check=True)
        return found

    monkeypatch.setattr(Worker, "start", late)
    assert beamclip(*asked) == 0
    (tag,) = (path.name for path in (view / "labels").iterdir())
    assert len(rows(view, f"labels/{tag}")) == 12 == summary(view)["labels"][tag]


def test_retry_failed_redoes_failures_alone(images: Path, tmp_path: Path) -> None:
    bad = [images / "image00003.jpg", images / "image00007.jpg"]
    sound = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(b"")
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    assert label(images, run, "--unit-size", "5", "--max-failure-rate", "1") == 0
    kept = [path for path in written(run) if path.startswith("embeddings/")]
    bad[0].write_bytes(sound[0])
    assert (
        beamclip(
            "label", "--output", run, "--retry-failed", "--on-changed", "keep", "--max-failure-rate", 1, *FAKE
        )
        == 0
    )
    assert set(kept) < set(written(run))
    failures = ds.dataset(str(run / "failures"), format="parquet").to_table().to_pylist()
    assert [(row["uri"], row["attempts"]) for row in failures] == [(str(bad[1]), 2)]
    bad[1].write_bytes(sound[1])
    assert beamclip("label", "--output", run, "--retry-failed", "--on-changed", "keep", *FAKE) == 0
    assert label(images, fresh) == 0
    assert all_rows(run) == all_rows(fresh)
    assert summary(run)["failed"] == 0


def test_overwrite_leaves_nothing_of_the_old_run_and_refuses_foreign_folders(
    images: Path, tmp_path: Path
) -> None:
    run, fresh, foreign = tmp_path / "run", tmp_path / "fresh", tmp_path / "foreign"
    assert label(images, run) == 0
    (run / "notes.txt").write_text("mine")
    assert (
        beamclip("label", "--input", images, "--prompts", "photo-kind", *FAKE, "--output", run, "--overwrite")
        == 0
    )
    assert beamclip("label", "--input", images, "--prompts", "photo-kind", *FAKE, "--output", fresh) == 0
    assert all_rows(run) == all_rows(fresh)
    assert (run / "notes.txt").read_text() == "mine"
    foreign.mkdir()
    (foreign / "plan").mkdir()
    (foreign / "plan" / "plan.txt").write_text("not ours")
    assert label(images, foreign) == 0  # nothing of it is in our way
    assert (foreign / "plan" / "plan.txt").read_text() == "not ours"


def test_overwrite_does_not_delete_what_people_answered(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, views = tmp_path / "run", tmp_path / "views"
    assert label(images, run) == 0
    stored = ("label", "--from-run", run, "--prompts", "photo-kind", "--quiet", "--output", views)
    assert beamclip(*stored) == 0
    for folder in (run, views):
        (folder / "reviews").mkdir()
        (folder / "reviews" / "part-a.parquet").write_bytes(b"somebody's work")
    before = sorted(tmp_path.rglob("*"))
    assert label(images, run, "--overwrite") == 2
    assert beamclip(*stored, "--overwrite") == 2
    assert capsys.readouterr().err.count("would delete what people answered") == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_overwrite_refuses_a_folder_that_holds_something_and_no_run(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, foreign, new = tmp_path / "run", tmp_path / "foreign", tmp_path / "new"
    assert label(images, run) == 0
    (foreign / "embeddings").mkdir(parents=True)
    (foreign / "embeddings" / "part-0.parquet").write_text("precious")
    stored = ("--from-run", run, "--overwrite", "--output", foreign, "--quiet")
    for command in (
        ("label", "--input", images, "--prompts", "photo-kind", *FAKE, "--overwrite", "--output", foreign),
        ("label", "--prompts", "photo-kind", *stored),
        ("filter", "--keep-top", "0.5", *stored),
    ):
        assert beamclip(*command) == 2, command
        assert f"{foreign} has no plan/*/plan.json of one, but embeddings/part-0" in capsys.readouterr().err
    assert [path.name for path in foreign.rglob("*")] == ["embeddings", "part-0.parquet"]
    (new / "plan" / "0000").mkdir(parents=True)  # as a launcher leaves it that is killed while it plans
    (new / "plan" / "0000" / "units-0123abcd-00000.parquet").write_text("half")
    (new / ".hidden").write_text("")
    assert label(images, new, "--overwrite") == 0
    assert label(images, tmp_path / "fresh", "--overwrite") == 0  # nothing is there


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--input", "{missing}", "--prompts", "everyday"), "missing"),
        (("--input", "{empty}", "--prompts", "everyday"), "empty"),
        (("--input", "{images}", "--prompts", "everydy"), "everyday"),
        (
            (
                "--input",
                "{images}",
            ),
            "--prompts is missing",
        ),
        (("--prompts", "everyday"), "--input is missing"),
        (("--input", "{images}", "--prompts", "everyday", "everyday"), "two sets"),
        (("--input", "{images}", "--prompts", "everyday", "--encoder", "nothing:x"), "no encoder"),
        (("--input", "{images}", "--prompts", "everyday", "--device", "cuda"), "CUDA"),
        (("--input", "{images}", "--prompts", "everyday", "--carry", "a"), "COLUMN:TYPE"),
        (("--input", "{images}", "--prompts", "everyday", "--background", "mauvish"), "mauvish"),
        (("--input", "{images}", "--prompts", "everyday", "--limt", "3"), "--limit"),
        (("--input", "{images}", "--prompts", "everyday", "--lim", "3"), "--limit"),
        (("--input", "{images}", "--prompts", "everyday", "--sample", "2"), "a share above 0"),
        (("--input", "{images}", "--prompts", "everyday", "--storage-option", "x"), "K=V"),
        (("--input", "{images}", "--prompts", "everyday", "--runner", "DaskRunner"), "refused"),
        (("--resume",), "no run to go on with"),
    ],
)
def test_a_wrong_request_exits_2_in_one_line_and_writes_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    run = tmp_path / "run"
    names = {"images": images, "missing": tmp_path / "missing", "empty": tmp_path / "empty"}
    filled = [arg.format(**names) for arg in args]
    encoder = () if "--encoder" in args or "--device" in args else ("--encoder", "fake")
    if "--device" in args:
        encoder = ("--encoder", "open_clip:RN50/random-1")
    assert beamclip("label", "--output", run, *encoder, *filled) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not run.exists()


def test_an_output_that_holds_a_run_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert label(images, run) == 0
    before = written(run)
    assert label(images, run) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert written(run) == before


def test_what_is_given_on_resume_must_agree_with_the_run(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert label(images, run) == 0
    for more, said in (
        (("--no-draft",), "--no-draft"),
        (("--encoder", "fake?dim=8"), "--encoder"),
        (("--prompts", "animals"), "--prompts"),
        (("--limit", "3"), "--limit"),
        (("--precision", "bf16"), "--precision"),
    ):
        assert beamclip("label", "--output", run, "--resume", *more) == 2
        assert said in capsys.readouterr().err
    assert (
        beamclip("label", "--output", run, "--resume", "--input", images, "--prompts", "everyday", *FAKE) == 0
    )


def test_embed_then_label_equals_label(images: Path, tmp_path: Path) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    assert beamclip("embed", "--input", images, *FAKE, "--output", run) == 0
    assert not (run / "labels").exists()
    assert beamclip("label", "--from-run", run, "--prompts", "everyday", "--quiet") == 0
    assert label(images, fresh) == 0
    assert all_rows(run) == all_rows(fresh)


def test_limit_and_sample_take_a_first_look(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    write_images(folder, 40, size=(8, 8))
    assert label(folder, tmp_path / "limit", "--limit", "7") == 0
    assert len(rows(tmp_path / "limit", "embeddings")) == 7
    picked = []
    for name in ("a", "b"):
        assert label(folder, tmp_path / name, "--sample", "0.5", "--seed", "3") == 0
        picked.append({row["uri"] for row in rows(tmp_path / name, "embeddings")})
    assert picked[0] == picked[1]
    assert 10 <= len(picked[0]) <= 30


def test_dry_run_writes_nothing_and_says_how_much(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert label(images, run, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "12 images" in said and "units     1" in said and "estimate" in said
    assert not run.exists()


def test_repeated_ids_are_listed_and_none_is_lost(images: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    names = sorted(path.name for path in images.iterdir())
    lines = [f"images/{name},{number // 2}" for number, name in enumerate(names)]
    manifest.write_text("\n".join(["path,image_id", *lines]))
    run = tmp_path / "run"
    assert label(manifest, run) == 0
    assert len(rows(run, "embeddings")) == 12
    found = ds.dataset(str(run / "duplicates.parquet"), format="parquet").to_table().to_pylist()
    assert sorted((row["image_id"], row["count"]) for row in found) == [
        (str(number), 2) for number in range(6)
    ]
    assert summary(run)["duplicate_ids"] == 6


def test_a_held_output_is_refused_naming_its_holder(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with Lease.acquire(Store(str(run)), run_id="other"):
        assert label(images, run) == 2
        assert f"pid {os.getpid()}" in capsys.readouterr().err.replace("process ", "pid ")
    assert label(images, run) == 0


def test_odd_paths_and_another_working_directory(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a b#c[d]?"
    images.rename(odd)
    run = tmp_path / "out #1 [x]"
    monkeypatch.chdir(tmp_path)
    assert label(odd.name, Path(run.name)) == 0
    monkeypatch.chdir("/")
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 0
    assert {row["uri"] for row in rows(run, "embeddings")} == {str(path) for path in odd.iterdir()}


def test_one_image_is_a_run(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "one", 1)
    assert label(path, tmp_path / "run") == 0
    assert [row["uri"] for row in rows(tmp_path / "run", "embeddings")] == [str(path)]


def test_a_remote_dry_run_without_credentials_prints_steps_and_options_and_what_it_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("google.auth")
    import google.auth

    def nothing() -> None:
        raise google.auth.exceptions.DefaultCredentialsError("none here")

    monkeypatch.setattr(google.auth, "default", nothing)
    request = (
        "label",
        "--input",
        "gs://bucket/**/*.jpg",
        "--prompts",
        "animals",
        "--encoder",
        "fake",
        "--dry-run",
    )
    beams = (
        "--runner",
        "DataflowRunner",
        "--project",
        "my-project",
        "--region",
        "europe-west1",
        "--temp_location",
        "gs://bucket/temporary",
        "--sdk_container_image",
        "europe-docker.pkg.dev/my-project/images/beamclip:1",
        "--accelerator",
        "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    )
    assert beamclip(*request, "--output", "gs://bucket/run", *beams) == 0
    said = capsys.readouterr().out
    assert (
        "skipped: listing the input and trying an image, because there are no Google credentials here" in said
    )
    assert (
        "project = my-project" in said
        and "image     europe-docker.pkg.dev/my-project/images/beamclip:1" in said
    )
    assert (
        "RunUnits/EmbedAndLabel  (accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver)\n" in said
    )
    assert "RunUnits/FinishRun\n" in said and "exits 4" in said


def test_decode_processes_change_no_row(images: Path, tmp_path: Path) -> None:
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    one, two = tmp_path / "one", tmp_path / "two"
    assert label(images, one, "--max-failure-rate", 1) == 0
    assert label(images, two, "--max-failure-rate", 1, "--fetch-processes", 2) == 0
    assert all_rows(one) == all_rows(two)


def test_ctrl_c_exits_130_and_prints_the_command_that_resumes(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "pipelines.label",
        "--input",
        images,
        "--prompts",
        "everyday",
        "--output",
        run,
    ]
    command += ["--encoder", "fake?wait_image_ms=400", "--unit-size", "2", "--batch-size", "1"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [str(part) for part in command], cwd=root, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not list(run.glob("commits/embed/*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"beamclip label --output {run} --resume" in said
    assert "Traceback" not in said
    assert beamclip("label", "--output", run, "--resume", "--quiet") == 0
    assert len(rows(run, "embeddings")) == 12
