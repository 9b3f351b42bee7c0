"""Filter runs in odd states: sources that were retried, ids and columns that are not there, choices without rows."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.helpers import image_bytes, make_image
from tests.pairs_kit import filtered, write_manifest, write_pairs
from tests.runs import beamclip, rows

FAKE = ("--encoder", "fake", "--max-failure-rate", 1)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A manifest of 12 pictures with captions and three planted ones."""
    return write_pairs(tmp_path / "data", 12)


@pytest.mark.parametrize("command", ["filter", "label"])
def test_views_in_another_folder_catch_up_with_a_source_that_was_retried(
    command: str, pairs: Path, tmp_path: Path
) -> None:
    source, views = tmp_path / "source", tmp_path / "views"
    assert beamclip("embed", "--quiet", "--input", pairs, "--output", source, *FAKE) == 0
    more = ("--prompts", "everyday") if command == "label" else ()
    from_run = (command, "--quiet", "--from-run", source, "--output", views)
    assert beamclip(*from_run, *more) == 0
    folder = next((views / "labels").iterdir()).relative_to(views) if command == "label" else Path("scores")
    embedded = len(rows(source, "embeddings"))
    assert len(rows(views, folder)) == embedded == 14
    (tmp_path / "data" / "images" / "broken.jpg").write_bytes(image_bytes(make_image(99, (64, 64))))
    assert beamclip("embed", "--quiet", "--output", source, "--retry-failed") == 0
    for _ in range(2):  # and once more: nothing is made twice
        assert beamclip(*from_run, "--resume") == 0
        ids = [row["image_id"] for row in rows(views, folder)]
        assert sorted(ids) == sorted(row["image_id"] for row in rows(source, "embeddings"))
    assert beamclip("status", views) == 0


def shard(path: Path) -> Path:
    """A webdataset shard whose json members hold uids."""
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            members = {
                "jpg": image_bytes(make_image(number, (64, 64))),
                "txt": f"thing {number}".encode(),
                "json": json.dumps({"uid": f"{number:032x}"}).encode(),
            }
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{number:05d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def test_ids_that_we_made_are_nobodys_uids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = shard(tmp_path / "00000.tar")
    asked = ("--input", tar, *FAKE, "--keep-top", 0.5, "--write", "uids")
    assert filtered(*asked, "--output", tmp_path / "run") == 2
    assert "has no id of its own" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert filtered(*asked, "--output", tmp_path / "run", "--id-column", "uid") == 0
    assert beamclip("embed", "--quiet", "--input", tar, *FAKE, "--output", tmp_path / "plain") == 0
    assert filtered("--from-run", tmp_path / "plain", "--write", "uids", "--output", tmp_path / "chosen") == 2
    assert not (tmp_path / "chosen").exists()


def test_a_stored_run_is_asked_for_the_columns_of_rules_before_anything_is_written(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text('version: 1\nname: r\nrules:\n  - {rule: column, keep: "punsaf < 0.5"}\n')
    assert filtered("--input", pairs, *FAKE, "--output", tmp_path / "run") == 0
    before = rows(tmp_path / "run", "kept")
    for output in ((), ("--output", tmp_path / "other")):
        assert filtered("--from-run", tmp_path / "run", "--rules", rules, *output) == 2
        assert "'punsaf', which the input does not have" in capsys.readouterr().err
    assert rows(tmp_path / "run", "kept") == before
    assert not (tmp_path / "other").exists()


def test_a_rule_that_keeps_what_has_no_value_may_ask_for_a_sparse_column(pairs: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        'version: 1\nname: r\nrules:\n  - {rule: column, keep: "flag != bad", missing: keep, reason: bad}\n'
    )
    assert filtered("--input", pairs, *FAKE, "--rules", rules, "--output", tmp_path / "run") == 0
    assert not any(row["drop_reason"] == "bad" for row in rows(tmp_path / "run", "pairs"))


def test_a_list_that_cannot_be_written_leaves_the_choice_before_it(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    listed = tmp_path / "ids.jsonl"
    images = sorted((tmp_path / "data" / "images").glob("0*.jpg"))[:4] or sorted(
        (tmp_path / "data" / "images").glob("*.jpg")
    )
    good = [path for path in images if path.name != "broken.jpg"][:4]
    lines = [
        {"path": str(path), "caption": "a thing", "uid": f"{number:032x}" if number < 3 else "none"}
        for number, path in enumerate(good)
    ]
    # The bad id is in another part than the first: what is looked at before the start does not show it.
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert filtered("--input", listed, *FAKE, "--unit-size", 1, "--output", run) == 0
    before = sorted(path.name for path in (run / "kept").iterdir())
    assert filtered("--from-run", run, "--write", "uids") in (1, 2)
    assert sorted(path.name for path in (run / "kept").iterdir()) == before
    assert not (run / "uids.npy").exists()


def test_a_choice_of_nothing_is_a_data_set_without_rows(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    image = folder / "a.jpg"
    image.write_bytes(image_bytes(make_image(1, (64, 64))))
    broken = folder / "b.jpg"
    broken.write_bytes(b"no image")
    for name, path in (("no-caption", image), ("all-fail", broken)):
        listed = write_manifest(tmp_path / f"{name}.csv", [(path, "")])
        run = tmp_path / name
        assert filtered("--input", listed, *FAKE, "--output", run) == 0
        for kind, count in (("pairs", int(path == image)), ("kept", 0)):
            found = ds.dataset(run / kind, format="parquet")
            assert found.count_rows() == count
            assert "drop_reason" in found.schema.names
        assert beamclip("status", run) == 0
    shutil.rmtree(folder)


@pytest.mark.parametrize("spelt", ["true", "True"])
def test_booleans_are_compared_as_such(spelt: str, pairs: Path, tmp_path: Path) -> None:
    listed = tmp_path / "ok.jsonl"
    images = [path for path in sorted((tmp_path / "data" / "images").iterdir()) if path.name != "broken.jpg"]
    lines = [
        {"path": str(path), "caption": f"thing {n}", "ok": n % 2 == 0} for n, path in enumerate(images[:6])
    ]
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        f'version: 1\nname: r\nrules:\n  - {{rule: column, keep: "ok == {spelt}", reason: not_ok}}\n'
    )
    assert filtered("--input", listed, *FAKE, "--rules", rules, "--output", tmp_path / "run") == 0
    assert len(rows(tmp_path / "run", "kept")) == 3


@pytest.mark.parametrize("separate", [False, True])
def test_a_selection_goes_on_with_the_prompt_sets_that_it_began_with(
    pairs: Path, tmp_path: Path, separate: bool
) -> None:
    source, run, fresh = (tmp_path / name for name in ("source", "run", "fresh"))
    prompts, rules = tmp_path / "mine.yaml", tmp_path / "rules.yaml"
    text = "version: 1\nname: mine\ntask: multi\nlabels: [cat, dog]\n"
    prompts.write_text(text)
    rules.write_text(
        "version: 1\nname: a\nrules: [{rule: label, set: mine.yaml, label: cat, at_most: 0.5}]\n"
    )
    first = ("--input", pairs, *FAKE)
    if separate:
        assert beamclip("embed", "--quiet", *first, "--output", source) == 0
        first = ("--from-run", source)
    assert filtered(*first, "--rules", rules, "--output", run) == 0
    prompts.write_text(text.replace("dog", "bird"))
    image = tmp_path / "data" / "images" / "broken.jpg"
    image.write_bytes(image_bytes(make_image(99, (64, 64))))
    if separate:
        assert beamclip("embed", "--quiet", "--output", source, "--retry-failed") == 0
        assert filtered(*first, "--output", run, "--resume") == 0
    else:
        assert filtered("--output", run, "--retry-failed") == 0
    assert len(list((run / "labels").iterdir())) == 1
    prompts.write_text(text)
    assert filtered("--input", pairs, *FAKE, "--rules", rules, "--output", fresh) == 0
    assert rows(run, "pairs") == rows(fresh, "pairs")
    assert beamclip("status", run) == 0
