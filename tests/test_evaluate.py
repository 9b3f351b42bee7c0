"""`beamclip evaluate` end to end: on the sample images, on a column, and wrong requests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_transforms.encoders import EncoderSpec, load
from clip_transforms.images import DecodeOptions, decode_to_pixels
from clip_transforms.prompts import load_prompt_set
from clip_transforms.text_features import text_features
from pipelines.evaluate import main
from tests.helpers import image_bytes, make_image, write_images

SAMPLES = Path(__file__).parent.parent / "clip_transforms" / "samples"


def _folders(root: Path) -> Path:
    for path in sorted(SAMPLES.glob("*.png")):
        folder = root / path.stem.rsplit("-", 1)[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
    return root


def test_the_samples_by_folder_agree_with_the_arithmetic_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = _folders(tmp_path / "samples"), tmp_path / "out"
    command = ["--input", str(data), "--prompts", "samples", "--encoder", "fake", "--output", str(out)]
    assert main(command) == 0
    content = json.loads((out / "evaluation.json").read_text())

    encoder = load(EncoderSpec(name="fake"))
    prompts = load_prompt_set("samples")
    texts = text_features(prompts, encoder).rows(prompts.classes)
    paths = sorted(SAMPLES.glob("*.png"))
    pixels = [decode_to_pixels(path.read_bytes(), DecodeOptions(), encoder.preprocess)[0] for path in paths]
    named = (encoder.encode_images(np.stack(pixels)) @ texts.T).argmax(axis=1)
    truth = [prompts.classes.index(path.stem.rsplit("-", 1)[0]) for path in paths]
    assert content["evaluation"]["top1"]["value"] == pytest.approx(np.mean(named == truth))
    assert content["evaluation"]["images"] == 36
    assert sum(map(sum, content["evaluation"]["confusion"])) == 36
    assert [one["shots"] for one in content["few_shot"]] == [1]  # two pictures of each thing
    assert "<svg" in (out / "evaluation.html").read_text()
    printed = capsys.readouterr().out
    assert "top-1" in printed
    assert "prompts of the set against bare names" in printed


def test_labels_from_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["Apple", "car", "cat", "not-there"]
    table = pa.table(
        {
            "image": [{"bytes": image_bytes(make_image(k)), "path": None} for k in range(4)],
            "kind": kinds,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    command = [
        "--input",
        str(tmp_path / "a.parquet"),
        "--labels-from",
        "kind",
        "--prompts",
        "samples",
        "--encoder",
        "fake",
    ]
    assert main(command) == 2
    assert "1 true labels are no labels of the set 'samples', such as 'not-there'" in capsys.readouterr().err
    assert main([*command, "--ignore-unknown"]) == 0
    assert "1 of other labels" in capsys.readouterr().out


def test_a_broken_image_is_counted_and_the_rest_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "cat", 2)
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"no picture")
    assert main(["--input", str(tmp_path), "--prompts", "samples", "--encoder", "fake"]) == 0
    assert "1 unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--labels-from", "nothing"], "no image has a label that can be used"),
        (["--prompts", "web-flags"], "evaluate needs one label an image"),
        (["--prompts", "nowhere"], "nowhere"),
    ],
)
def test_wrong_requests_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    write_images(tmp_path / "cat", 2)
    assert main(["--input", str(tmp_path), "--prompts", "samples", "--encoder", "fake", *more]) == 2
    assert message in capsys.readouterr().err
