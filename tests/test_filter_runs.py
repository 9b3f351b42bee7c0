"""Filter runs that are killed, run on a portable runner, judged by rules, or fed from shards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clip_transforms.encoders.fake import FakeEncoder
from clip_transforms.live import live_parts
from clip_transforms.storage import Store
from tests.helpers import image_bytes, make_image
from tests.pairs_kit import by_name, data, filtered, write_pairs
from tests.runs import beamclip, rows, summary, written
from tests.sources_kit import tar_bytes

ROOT = Path(__file__).parent.parent
RULES = """
version: 1
name: mine
rules:
  - {rule: caption_words, at_least: 4}
  - {rule: column, keep: punsafe < 0.5}
  - {rule: label, set: web-flags, label: watermark, at_most: 0.2}
"""


@pytest.mark.slow
def test_kills_each_followed_by_a_resume_lose_and_double_nothing(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input", 300)
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    how = ("--keep-top", "0.4", "--dedup", "near")
    args = [
        "filter",
        "--input",
        source,
        *how,
        "--encoder",
        "fake?wait_image_ms=5",
        "--quiet",
        "--output",
        run,
    ]
    args = [str(arg) for arg in (*args, "--unit-size", "16", "--resume")]
    command = [sys.executable, "-m", "tests.kill_driver", "8", "3", "3.0", "--", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= 5, done.stdout
    options = ("--encoder", "fake?wait_image_ms=5", "--unit-size", "50")
    assert filtered("--input", source, *how, *options, "--output", fresh) == 0
    assert data(run) == data(fresh)
    assert [len(rows(run, folder)) for folder in ("scores", "pairs")] == [302, 302]
    assert no_unlisted_parts(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("match", "at", "finished"),
    [
        ("/selection.json", 1, False),
        ("/pairs/part", 1, False),
        ("/kept/part", 1, False),
        ("/selection.json", 2, True),
        ("/run.json", 1, True),
    ],
)
def test_a_selection_that_dies_at_a_write_is_told_and_gone_on_with(
    tmp_path: Path, match: str, at: int, finished: bool
) -> None:
    source = write_pairs(tmp_path / "input", 30, uids=True)
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    first = ("--input", source, "--encoder", "fake", "--keep-top", "0.9", "--write", "uids")
    assert filtered(*first, "--output", run) == 0
    second = ("--from-run", f"faulty://{run}", "--keep-top", "0.2", "--dedup", "exact")
    start = "import sys; from tests import faulty_store; from pipelines import cli; sys.exit(cli.main(sys.argv[1:]))"
    kill = {"FAULTY_ACTION": "kill", "FAULTY_WHEN": "after", "FAULTY_AT": str(at)}
    kill |= {"FAULTY_MATCH": match, "FAULTY_COUNTER": str(tmp_path / "counter")}
    command = [sys.executable, "-c", start, "filter", "--quiet", *second]
    died = subprocess.run(command, cwd=ROOT, env={**os.environ, **kill}, capture_output=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert beamclip("status", run) == (0 if finished else 1)
    assert filtered("--from-run", run, *second[2:], "--take-over") == 0
    assert filtered(*first[:4], *second[2:], "--output", fresh) == 0
    assert data(run) == data(fresh)
    assert beamclip("status", run) == 0
    assert len(list((run / "pairs").iterdir())) == len(list((run / "kept").iterdir())) == 1


def no_unlisted_parts(run: Path) -> bool:
    listed = {part.name for parts in live_parts(Store(str(run))).values() for part in parts}
    there = {name for name in written(run) if "/part-" in name}
    return listed == {name for name in there if not name.startswith(("pairs/", "kept/"))}


@pytest.mark.slow
def test_a_portable_runner_gives_the_rows_of_the_local_one(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input", 30)
    local, portable = tmp_path / "local", tmp_path / "portable"
    (tmp_path / "mine.yaml").write_text(
        "version: 1\nname: mine\nrules: [{rule: caption_words, at_least: 3}]\n"
    )
    how = ("--encoder", "fake", "--keep-top", "0.5", "--dedup", "semantic", "--unit-size", "8")
    how += ("--rules", str(tmp_path / "mine.yaml"))
    assert filtered("--input", source, *how, "--output", local) == 0
    runner = ("--runner", "PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")
    assert filtered("--input", source, *how, "--output", portable, *runner) == 0
    assert data(local) == data(portable)
    there = summary(portable)["filter"]
    assert {key: there[key] for key in ("kept", "dropped", "inputs", "failed", "threshold")} == {
        key: summary(local)["filter"][key] for key in ("kept", "dropped", "inputs", "failed", "threshold")
    }


def test_rules_drop_for_the_reason_of_the_first_that_does(tmp_path: Path) -> None:
    shard, rules = tmp_path / "00000.tar", tmp_path / "mine.yaml"
    rules.write_text(RULES)
    members = []
    for number in range(40):
        members.append((f"{number:04d}.jpg", image_bytes(make_image(number, (256, 192)))))
        words = "too short" if number % 4 == 0 else f"a caption of number {number}"
        members.append((f"{number:04d}.txt", words.encode()))
        facts = {"uid": f"{number:032x}", "punsafe": number / 40}
        members.append((f"{number:04d}.json", json.dumps(facts).encode()))
    shard.write_bytes(tar_bytes(members))
    run = tmp_path / "run"
    options = ("--encoder", "fake", "--id-column", "uid", "--rules", rules, "--write", "uids")
    assert filtered("--input", shard, *options, "--output", run) == 0
    found = rows(run, "pairs")
    (labels,) = (path.name for path in (run / "labels").iterdir())
    flags = {row["image_id"]: row["top_k"] for row in rows(run, f"labels/{labels}")}
    for row in found:
        number = int(row["image_id"], 16)
        (score,) = (top["score"] for top in flags[row["image_id"]] if top["label"] == "watermark")
        reasons = {
            "caption_words": number % 4 == 0,
            "column_punsafe": number >= 20,
            "label_watermark": score > 0.2,
        }
        first = next((reason for reason, drops in reasons.items() if drops), None)
        assert row["drop_reason"] == first, (number, row["drop_reason"], reasons)
    assert set(Counter(row["drop_reason"] for row in found)) == {
        None,
        "caption_words",
        "column_punsafe",
        "label_watermark",
    }
    uids = np.load(run / "uids.npy")
    assert sorted(int(row["image_id"], 16) for row in rows(run, "kept")) == uids["f1"].tolist()


def test_another_rule_on_a_stored_run_makes_only_the_labels_that_it_asks_for(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input", 30)
    run, other, again = (tmp_path / name for name in ("run", "other", "again"))
    rules = tmp_path / "mine.yaml"
    rules.write_text("\n".join(line for line in RULES.splitlines() if "punsafe" not in line))
    assert filtered("--input", source, "--encoder", "fake", "--output", run) == 0
    FakeEncoder.reset()
    assert filtered("--from-run", run, "--rules", rules, "--output", other) == 0
    assert FakeEncoder.counters().encode_calls == 0
    assert [path.name for path in other.iterdir() if path.name in ("scores", "embeddings")] == []
    assert len(list((other / "labels").iterdir())) == 1
    assert by_name(other)["copy.jpg"]["drop_reason"] == "caption_words"
    assert beamclip("status", other) == 0
    assert filtered("--from-run", run, "--rules", rules) == 0  # into the run
    FakeEncoder.reset()
    assert filtered("--from-run", run, "--rules", rules, "--keep-top", "0.5", "--output", again) == 0
    assert FakeEncoder.counters().loads == 0
    assert not (again / "labels").exists()
    assert rows(run, "pairs") == rows(other, "pairs")


def test_a_rule_on_a_column_that_the_input_has_not_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_pairs(tmp_path / "input", 12)
    (tmp_path / "mine.yaml").write_text(RULES)
    run = tmp_path / "run"
    options = ("--encoder", "fake", "--rules", tmp_path / "mine.yaml")
    assert filtered("--input", source, *options, "--output", run) == 2
    assert "asks for the column 'punsafe'" in capsys.readouterr().err
    assert not run.exists()
    assert filtered("--input", source, "--encoder", "fake", "--rules", "wab", "--output", run) == 2
    assert "did you mean 'web'" in capsys.readouterr().err


def test_a_shipped_rule_set_runs(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "input", 30)
    run = tmp_path / "run"
    assert filtered("--input", source, "--encoder", "fake", "--rules", "datacomp-basic", "--output", run) == 0
    funnel = summary(run)["filter"]
    assert funnel["how"]["rules"]["name"] == "datacomp-basic"
    assert funnel["kept"] + sum(funnel["dropped"].values()) + funnel["failed"] == funnel["inputs"] == 33
    assert beamclip("status", run) == 0


def write_shards(folder: Path, *, captions: str, seed: int = 0) -> None:
    """Two shards of ten pictures with captions; the second is the one that differs by seed and captions."""
    for shard in range(2):
        members = []
        for number in range(10):
            picture = make_image(number + 10 * shard + (seed if shard else 0), (256, 192))
            words = f"{captions if shard else 'a caption'} of {shard} {number}"
            members.append((f"{number:04d}.jpg", image_bytes(picture)))
            members.append((f"{number:04d}.txt", words.encode()))
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(members))


def test_shards_that_changed_are_scored_anew(tmp_path: Path) -> None:
    source, run, fresh = tmp_path / "input", tmp_path / "run", tmp_path / "fresh"
    source.mkdir()
    write_shards(source, captions="words")
    options = ("--input", source, "--format", "webdataset", "--encoder", "fake", "--keep-top", "0.5")
    assert filtered(*options, "--output", run) == 0
    before = {row["image_id"]: row for row in rows(run, "scores")}
    write_shards(source, captions="other words", seed=50)
    assert filtered("--output", run, "--resume", "--on-changed", "redo") == 0
    assert filtered(*options, "--output", fresh) == 0
    assert data(run) == data(fresh)
    after = {row["image_id"]: row for row in rows(run, "scores")}
    changed = [key for key in before if before[key]["similarity"] != after[key]["similarity"]]
    assert len(after) == 20 and len(changed) == 10
    assert beamclip("status", run) == 0


def test_a_selection_from_another_run_follows_what_it_reads_again(tmp_path: Path) -> None:
    """As many images as before, so that no count tells; then one set of rows an image, of the present ones."""
    source, run, view, fresh = (tmp_path / name for name in ("input", "run", "view", "fresh"))
    source.mkdir()
    write_shards(source, captions="words")
    given = ("--input", source, "--format", "webdataset", "--encoder", "fake", "--quiet", "--output", run)
    assert beamclip("embed", *given) == 0
    chosen = ("--from-run", run, "--keep-top", "0.5")
    assert filtered(*chosen, "--output", view) == 0
    write_shards(source, captions="other words", seed=50)
    assert beamclip("embed", "--output", run, "--resume", "--on-changed", "redo", "--quiet") == 0
    assert filtered("--from-run", run, "--output", view, "--resume") == 0
    assert filtered(*chosen, "--output", fresh) == 0
    assert data(view) == data(fresh) and len(rows(view, "scores")) == 20
    assert beamclip("status", view) == 0


def test_the_public_names_are_these() -> None:
    from clip_transforms import pairs

    assert pairs.__all__ == sorted(pairs.__all__)
    assert [name for name in pairs.__all__ if not hasattr(pairs, name)] == []
    assert {"judge", "load_rules", "near_duplicates", "top_fraction", "uid_bytes"} <= set(pairs.__all__)
