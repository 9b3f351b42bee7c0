"""`beamclip filter` through its command: scores, duplicates, the cut, other cuts of the same run, and refusals."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_transforms.encoders.fake import FakeEncoder
from schemas.pairs import pairs_schema
from schemas.scores import SCORES
from tests.helpers import image_bytes, make_image
from tests.pairs_kit import by_name, cosine_by_hand, data, filtered, write_pairs
from tests.runs import beamclip, rows, summary, written
from tests.sources_kit import tar_bytes


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """The manifest of 43 pairs that pairs_kit describes."""
    return write_pairs(tmp_path / "input")


def test_every_input_is_one_row_that_is_kept_dropped_or_failed(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert filtered("--input", pairs, "--encoder", "fake", "--keep-top", "0.5", "--output", run) == 0
    found = rows(run, "pairs")
    assert len(found) == 42 == len({row["image_id"] for row in found})
    assert Counter(row["drop_reason"] for row in found) == {None: 21, "below_cut": 19, "no_caption": 2}
    assert [row for row in found if row["kept"]] == rows(run, "kept")
    funnel = summary(run)["filter"]
    assert (funnel["inputs"], funnel["failed"], funnel["kept"]) == (43, 1, 21)
    assert funnel["dropped"] == {"below_cut": 19, "no_caption": 2}
    assert beamclip("status", run) == 0


def test_the_cut_keeps_what_datacomp_keeps(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert filtered("--input", pairs, "--encoder", "fake", "--keep-top", "0.3", "--output", run) == 0
    scores = np.array(
        [row["similarity_fake"] for row in rows(run, "pairs") if row["caption"] not in (None, " \t")]
    )
    scores = scores[~np.isnan(scores.astype(float))].astype(np.float32)
    threshold = -np.sort(-scores)[int(len(scores) * 0.3)]
    kept = {row["similarity_fake"] for row in rows(run, "kept")}
    assert len(kept) == 13
    assert kept == set(scores[scores >= threshold].tolist())
    assert summary(run)["filter"]["threshold"] == threshold


def test_scores_are_those_of_the_encoder_called_by_hand(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert filtered("--input", pairs, "--encoder", "fake", "--output", run) == 0
    found = by_name(run, "scores")
    ninth = found["image00009.jpg"]
    assert ninth["similarity"] == cosine_by_hand(run, "a picture of thing 9", "image00009.jpg")
    np.testing.assert_array_equal(
        ninth["text_embedding"], FakeEncoder().encode_texts(["a picture of thing 9"])[0]
    )
    assert not ninth["text_truncated"]
    assert found["image00005.jpg"]["text_truncated"]
    for name in ("image00003.jpg", "image00004.jpg"):
        assert (found[name]["similarity"], found[name]["text_embedding"]) == (None, None)
        assert by_name(run)[name]["drop_reason"] == "no_caption"
    assert Counter(row["kept"] for row in rows(run, "pairs")) == {True: 40, False: 2}


def test_the_schemas_are_exactly_those_told(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    carry = ("--carry", "path:string")
    assert filtered("--input", pairs, "--encoder", "fake?dim=16", *carry, "--output", run) == 0
    import pyarrow as pa

    expected = pairs_schema("fake?dim=16", carry=[("path", pa.string())])
    for folder in ("pairs", "kept"):
        (part,) = (run / folder).glob("*.parquet")
        assert pq.read_schema(part).remove_metadata().equals(expected), folder
    for part in (run / "scores").glob("*.parquet"):
        assert pq.read_schema(part).remove_metadata().equals(SCORES)
    assert by_name(run)["copy.jpg"]["src_path"].endswith("copy.jpg")


def test_duplicates_join_the_best_pair(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert filtered("--input", pairs, "--encoder", "fake", "--dedup", "near", "--output", run) == 0
    found = by_name(run)
    reasons = {}
    for one, two in (("image00000.jpg", "copy.jpg"), ("image00001.jpg", "again.jpg")):
        best, worse = sorted((one, two), key=lambda name: -found[name]["similarity_fake"])
        assert found[best]["kept"] and found[best]["duplicate_of"] is None
        assert found[worse]["duplicate_of"] == found[best]["image_id"]
        reasons[two] = found[worse]["drop_reason"]
    assert reasons == {"copy.jpg": "duplicate_exact", "again.jpg": "duplicate_near"}
    dropped = summary(run)["filter"]["dropped"]
    assert dropped == {"no_caption": 2, "duplicate_exact": 1, "duplicate_near": 1}


def test_a_duplicate_of_a_duplicate_names_the_row_that_stands_for_both(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input", 30)
    images = tmp_path / "input" / "images"
    data = image_bytes(make_image(1, (256, 192)), quality=90)
    (images / "again.jpg").write_bytes(data)
    (images / "copy.jpg").write_bytes(data)  # equal bytes, and near image00001.jpg
    run = tmp_path / "run"
    assert filtered("--input", source, "--encoder", "fake", "--dedup", "near", "--output", run) == 0
    found = by_name(run)
    alike = ("image00001.jpg", "again.jpg", "copy.jpg")
    (best,) = [found[name] for name in alike if found[name]["kept"]]
    assert {found[name]["duplicate_of"] for name in alike if not found[name]["kept"]} == {best["image_id"]}
    assert best["similarity_fake"] == max(found[name]["similarity_fake"] for name in alike)


def test_another_cut_of_a_run_encodes_nothing(pairs: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert filtered("--input", pairs, "--encoder", "fake", "--output", run) == 0
    before = written(run)
    FakeEncoder.reset()
    assert filtered("--from-run", run, "--keep-above", "0.1", "--output", other) == 0
    counters = FakeEncoder.counters()
    assert (counters.loads, counters.encode_calls, counters.text_calls) == (0, 0, 0)
    assert written(run) == before
    scores = [row["similarity_fake"] for row in rows(run, "pairs") if row["similarity_fake"] is not None]
    assert len(rows(other, "kept")) == sum(np.float32(score) >= np.float32(0.1) for score in scores)
    assert len(rows(other, "pairs")) == 42
    assert beamclip("status", other) == 0


def test_choosing_anew_within_a_run_replaces_what_was_chosen(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "input", uids=True)
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    first = ("--input", pairs, "--encoder", "fake")
    assert filtered(*first, "--keep-top", "0.9", "--write", "uids", "--output", run) == 0
    assert len(np.load(run / "uids.npy")) == 37
    assert filtered("--from-run", run, "--keep-top", "0.2", "--dedup", "exact") == 0
    assert filtered(*first, "--keep-top", "0.2", "--dedup", "exact", "--output", fresh) == 0
    assert data(run) == data(fresh)
    assert not (run / "uids.npy").exists()
    assert len(list((run / "pairs").glob("*"))) == 1


def test_stored_embeddings_are_scored_without_an_image_being_encoded(pairs: Path, tmp_path: Path) -> None:
    run, chosen, fresh = (tmp_path / name for name in ("run", "chosen", "fresh"))
    assert beamclip("embed", "--quiet", "--input", pairs, "--encoder", "fake", "--output", run) == 0
    FakeEncoder.reset()
    assert filtered("--from-run", run, "--keep-top", "0.4", "--output", chosen) == 0
    assert FakeEncoder.counters().encode_calls == 0
    assert FakeEncoder.counters().texts == 40
    assert not (run / "scores").exists()
    assert filtered("--input", pairs, "--encoder", "fake", "--keep-top", "0.4", "--output", fresh) == 0
    for folder in ("scores", "pairs", "kept"):
        assert rows(chosen, folder) == rows(fresh, folder), folder
    for name in ("inputs", "embedded", "failed", "failures_by_reason", "fingerprints"):
        assert summary(chosen)[name] == summary(fresh)[name], name
    assert beamclip("status", chosen) == 0
    assert filtered("--from-run", run, "--keep-top", "0.4") == 0  # into the run itself
    assert data(run) == data(fresh)


def test_a_retry_brings_scores_and_chooses_anew(pairs: Path, tmp_path: Path) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    options = ("--input", pairs, "--encoder", "fake", "--keep-top", "0.5", "--unit-size", "10")
    assert filtered(*options, "--output", run) == 0
    (tmp_path / "input" / "images" / "broken.jpg").write_bytes(image_bytes(make_image(99, (256, 192))))
    assert filtered("--output", run, "--retry-failed") == 0
    assert filtered(*options, "--output", fresh) == 0
    assert len(rows(run, "scores")) == 43
    assert data(run) == data(fresh)
    assert summary(run)["filter"]["inputs"] == 43
    assert beamclip("status", run) == 0


def test_a_resume_may_repeat_what_the_run_has(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    how = ("--dedup", "near", "--near-distance", "6")
    assert filtered("--input", pairs, "--encoder", "fake", *how, "--output", run) == 0
    before = data(run)
    assert filtered("--output", run, "--resume", "--near-distance", "6") == 0
    assert filtered("--output", run, "--resume", "--near-distance", "4") == 2
    assert data(run) == before


def test_images_that_are_added_are_scored_too_whichever_command_adds_them(
    pairs: Path, tmp_path: Path
) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    lines = pairs.read_text().splitlines(keepends=True)
    pairs.write_text("".join(lines[:21]))
    options = ("--input", pairs, "--encoder", "fake", "--keep-top", "0.5", "--unit-size", "8")
    assert filtered(*options, "--output", run) == 0
    pairs.write_text("".join(lines))
    assert beamclip("embed", "--quiet", "--output", run, "--resume") == 1  # the selection is not up to date
    assert len(rows(run, "scores")) == 42
    assert filtered("--output", run, "--resume") == 0
    assert filtered(*options, "--output", fresh) == 0
    assert data(run) == data(fresh)


def test_uids_are_byte_for_byte_what_datacomp_writes_for_these_scores(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input", 30)
    lines = source.read_text().splitlines()
    uids = [f"{(7919 * number) ** 9 % 2**128:032x}" for number in range(len(lines) - 1)]
    source.write_text(
        "\n".join(["uid," + lines[0], *map(",".join, zip(uids, lines[1:], strict=True))]) + "\n"
    )
    run = tmp_path / "run"
    options = ("--keep-top", "0.3", "--write", "uids")
    assert filtered("--input", source, "--encoder", "fake", *options, "--output", run) == 0
    scored = [row for row in rows(run, "pairs") if row["similarity_fake"] is not None]
    ids = np.array(
        [(int(row["image_id"][:16], 16), int(row["image_id"][16:], 16)) for row in scored], "u8,u8"
    )
    scores = np.array([row["similarity_fake"] for row in scored], np.float32)
    kept = ids[scores >= -np.sort(-scores)[int(len(scores) * 0.3)]]
    kept.sort()
    buffer = io.BytesIO()
    np.save(buffer, kept)
    assert len(kept) == 9 + 1
    assert (run / "uids.npy").read_bytes() == buffer.getvalue()
    assert {row["image_id"] for row in scored} < set(uids)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--keep-top", "1.5"), "--keep-top 1.5: expected a fraction above 0, at most 1"),
        (("--keep-above", "28"), "--keep-above 28: expected a cosine from -1 to 1"),
        (("--keep-top", "0.3", "--keep-above", "0.2"), "not allowed with argument"),
        (("--dedup", "some"), "--dedup some: expected one of none, exact, near"),
        (("--near-distance", "2"), "--near-distance goes with --dedup near"),
        (("--dedup", "near", "--near-distance", "40"), "--near-distance 40"),
        (("--write", "zip"), "--write zip: expected one of"),
    ],
)
def test_a_wrong_request_is_refused_at_once(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], told: str
) -> None:
    run = tmp_path / "run"
    assert filtered("--input", pairs, "--encoder", "fake", *flags, "--output", run) == 2
    assert told in capsys.readouterr().err
    assert not run.exists()


def test_what_does_not_go_with_a_stored_run_is_refused(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert filtered("--input", pairs, "--encoder", "fake", "--keep-top", "0.5", "--output", run) == 0
    assert filtered("--from-run", run, "--keep-above", "0", "--output", other) == 0
    for flags, told in (
        (("--from-run", run, "--input", pairs), "--input does not go with --from-run"),
        (("--from-run", run, "--encoder", "fake?dim=8"), "does not agree with the run"),
        (("--from-run", run, "--output", other), "holds a run already"),
        (("--from-run", run, "--overwrite"), "--overwrite would delete the run"),
        (("--from-run", other), f"give --from-run {run}"),
        (("--from-run", tmp_path), "there is no run with embeddings"),
        (("--output", run, "--resume", "--keep-top", "0.1"), "does not agree with the run's selection"),
        (("--output", run, "--resume", "--near-distance", "4"), "--near-distance goes with --dedup near"),
        (("--output", other, "--resume"), f"--from-run {run} --output {other} --resume"),
    ):
        assert filtered(*flags) == 2, flags
        assert told in capsys.readouterr().err


def test_a_dry_run_writes_nothing(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert filtered("--input", pairs, "--encoder", "fake", "--dry-run", "--output", run) == 0
    assert not run.exists()
    assert filtered("--input", pairs, "--encoder", "fake", "--output", run) == 0
    capsys.readouterr()
    assert filtered("--from-run", run, "--dry-run", "--keep-top", "0.1", "--output", other) == 0
    assert "all that it takes is there" in capsys.readouterr().out
    assert not other.exists()


def test_the_layout_of_clip_retrieval_holds_the_kept_rows_in_one_order(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--keep-top", "0.3", "--write", "clip-retrieval")
    assert filtered("--input", pairs, "--encoder", "fake", *options, "--output", run) == 0
    layout = run / "clip-retrieval"
    images, texts = (np.load(next((layout / f"{kind}_emb").glob("*.npy"))) for kind in ("img", "text"))
    (part,) = (layout / "metadata").glob("metadata_*.parquet")
    metadata = pq.read_table(part).to_pylist()
    assert images.dtype == texts.dtype == np.float16
    assert images.shape == texts.shape == (13, 32)
    embeddings, scores = by_name(run, "embeddings"), by_name(run, "scores")
    for image, text, row in zip(images, texts, metadata, strict=True):
        name = Path(row["image_path"]).name
        np.testing.assert_array_equal(image, np.array(embeddings[name]["embedding"], np.float16))
        np.testing.assert_array_equal(text, np.array(scores[name]["text_embedding"], np.float16))
        assert row["caption"] == embeddings[name]["caption"]
    assert {row["image_id"] for row in metadata} == {row["image_id"] for row in rows(run, "kept")}


@pytest.mark.parametrize("source", ["files", "shard"])
def test_shards_hold_the_original_bytes_and_can_be_filtered_again(
    pairs: Path, tmp_path: Path, source: str
) -> None:
    given, run, again = pairs, tmp_path / "run", tmp_path / "again"
    images = {path.name: path.read_bytes() for path in (pairs.parent / "images").glob("*.jpg")}
    if source == "shard":
        given = tmp_path / "00000.tar"
        members = [(name.replace("image", ""), data) for name, data in sorted(images.items())]
        texts = [(name.replace(".jpg", ".txt"), f"a caption of {name}".encode()) for name, _ in members]
        given.write_bytes(tar_bytes([each for pair in zip(members, texts, strict=True) for each in pair]))
    options = ("--encoder", "fake", "--keep-top", "0.5", "--write", "webdataset")
    assert filtered("--input", given, *options, "--output", run) == 0
    kept = by_name(run, "kept")
    (shard,) = (run / "webdataset").glob("*.tar")
    found = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            found[member.name] = tar.extractfile(member).read()
    facts = {
        name[: -len(".json")]: json.loads(data) for name, data in found.items() if name.endswith(".json")
    }
    assert len(facts) == len(kept) == (21 if source == "files" else 22)
    originals = set(images.values())
    for key, fact in facts.items():
        assert hashlib.sha256(found[f"{key}.jpg"]).hexdigest() == fact["sha256"]
        assert found[f"{key}.jpg"] in originals
        assert found[f"{key}.txt"].decode() == fact["caption"]
    assert {fact["image_id"] for fact in facts.values()} == {row["image_id"] for row in kept.values()}
    ids = ("--id-column", "image_id")
    assert filtered("--input", shard, "--encoder", "fake", *ids, "--output", again) == 0
    scores = {row["image_id"]: row["similarity_fake"] for row in kept.values()}
    assert {row["image_id"]: row["similarity_fake"] for row in rows(again, "pairs")} == scores


def test_an_image_that_changed_is_in_no_shard_and_is_told(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert filtered("--input", pairs, "--encoder", "fake", "--output", run) == 0
    images = pairs.parent / "images"
    (images / "image00010.jpg").write_bytes(image_bytes(make_image(500)))
    (images / "image00011.jpg").unlink()
    assert filtered("--from-run", run, "--write", "webdataset", "--output", other) == 1
    assert "2 kept images could not be read again, or are others by now" in capsys.readouterr().err
    with tarfile.open(next((other / "webdataset").glob("*.tar"))) as tar:
        assert len(tar.getnames()) == 3 * 38


def test_ids_that_are_no_uids_are_refused_before_anything_is_written(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ("--id-column", "caption", "--write", "uids")
    assert filtered("--input", pairs, "--encoder", "fake", *options, "--output", run) == 2
    assert "has no id of its own" in capsys.readouterr().err  # one row has no caption
    assert not run.exists()


def test_an_index_finds_the_row_of_the_metadata(pairs: Path, tmp_path: Path) -> None:
    import faiss

    run = tmp_path / "run"
    options = ("--keep-top", "0.3", "--write", "faiss")
    assert filtered("--input", pairs, "--encoder", "fake", *options, "--output", run) == 0
    layout = run / "clip-retrieval"
    metadata = pq.read_table(next((layout / "metadata").glob("*.parquet"))).to_pylist()
    embeddings = by_name(run, "embeddings")
    asked = np.array([embeddings[Path(row["image_path"]).name]["embedding"] for row in metadata], np.float32)
    index = faiss.read_index(str(layout / "image.index"))
    assert index.ntotal == len(metadata) == 13
    found, places = index.search(asked, 1)
    assert places[:, 0].tolist() == list(range(13))
    np.testing.assert_allclose(found[:, 0], 1, atol=2e-3)
    assert filtered("--from-run", run, "--keep-top", "0.3") == 0
    assert not (layout / "image.index").exists()


def test_a_dry_run_with_another_runner_shows_the_steps(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = ("--runner", "PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")
    options = ("--encoder", "fake", "--dedup", "near", "--keep-top", "0.3", "--dry-run")
    assert filtered("--input", pairs, *options, "--output", tmp_path / "run", *runner) == 0
    shown = capsys.readouterr().out
    assert "keeps     no rules; duplicates: near; the best 30%" in shown
    for step in ("RunUnits/EmbedAndLabel", "SelectPairs/Exact", "SelectPairs/Near", "SelectPairs/Cut"):
        assert step in shown, step
    assert not (tmp_path / "run").exists()


def test_failures_of_the_run_that_is_chosen_from_are_not_held_against_the_choice(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input")
    for path in sorted((tmp_path / "input" / "images").glob("*.jpg"))[:20]:
        path.write_bytes(b"not an image")
    run, chosen = tmp_path / "run", tmp_path / "chosen"
    assert beamclip("embed", "--quiet", "--input", source, "--encoder", "fake", "--output", run) == 1
    assert filtered("--from-run", run, "--keep-top", "0.4", "--output", chosen) == 0
    told = summary(chosen)
    assert told["inputs"] == told["filter"]["inputs"] == told["embedded"] + told["failed"] == 43
    assert told["failed"] >= 20
