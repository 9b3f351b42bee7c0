"""`beamclip models`: what it prints, where it puts files, and its exit codes."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import fsspec
import open_clip
import pytest

from clip_transforms.encoders import EncoderSpec
from clip_transforms.encoders.open_clip_model import count_parameters
from clip_transforms.encoders.open_clip_source import find_model
from pipelines import cli
from pipelines.models import main, progress_of
from tests.models_kit import VIT, save_model


def test_list_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--match", "yfcc"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == [
        "architecture",
        "input",
        "parameters",
        "dim",
        "context",
        "family",
        "tokenizer",
        "tags",
    ]
    assert lines[1] == [
        "RN50",
        "224x224",
        "102.0",
        "M",
        "1024",
        "77",
        "softmax",
        "clip",
        "openai",
        "yfcc15m",
        "cc12m",
    ]
    assert [line[0] for line in lines[1:]] == ["RN50", "RN50-quickgelu", "RN101", "RN101-quickgelu"]


def test_list_as_json_has_every_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "list", "--json"]) == 0
    entries = {entry["architecture"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(entries) == open_clip.list_models()
    siglip = entries["ViT-SO400M-14-SigLIP-384"]
    assert (siglip["height"], siglip["dim"], siglip["family"]) == (384, 1152, "sigmoid")
    assert (siglip["context_length"], siglip["tokenizer"]) == (64, "timm/ViT-B-16-SigLIP")
    assert entries["xlm-roberta-base-ViT-B-32"]["parameters"] is None


@pytest.mark.parametrize("arch", ["ViT-S-32", "RN50", "MobileCLIP2-S0", "coca_ViT-B-32"])
def test_the_counts_that_are_shipped_are_the_models(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--match", arch, "--json"]) == 0
    entries = {entry["architecture"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries[arch]["parameters"] == count_parameters(
        find_model(EncoderSpec(name=f"open_clip:{arch}/random-0"))
    )


def test_pull_brings_a_stores_files_here(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, config = save_model(tmp_path, "vit")
    url = f"memory://{uuid.uuid4().hex}"
    for name, path in (("w.safetensors", weights), ("m.json", config)):
        fsspec.filesystem("memory").pipe_file(f"{url}/{name}", Path(path).read_bytes())
    argv = ["pull", "--weights", f"{url}/w.safetensors", "--model-config", f"{url}/m.json"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    path = Path(out.strip())
    assert path.is_relative_to(cache)
    assert path.read_bytes() == Path(weights).read_bytes()
    size = Path(weights).stat().st_size / 1e6
    assert f"open_clip:custom: {size:.1f} of {size:.1f} MB" in err
    assert "tokenizer clip" in err
    assert main(argv) == 0  # nothing is fetched again
    assert " MB" not in capsys.readouterr().err


def test_pull_of_a_local_file_prints_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, config = save_model(tmp_path, "vit")
    assert main(["pull", "open_clip:custom", "--weights", f"file://{weights}", "--model-config", config]) == 0
    assert capsys.readouterr().out == f"{weights}\n"


def test_nothing_to_pull(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.json").write_text(json.dumps(VIT))
    assert main(["pull", "open_clip:small/random-0", "--model-config", str(tmp_path / "m.json")]) == 0
    assert main(["pull", "fake"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "open_clip:small/random-0 has no weights to fetch",
        "fake has no weights to fetch",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["list", "--match", "nothing-like-it"], "no architecture or tag of open_clip contains"),
        (["pull"], "models pull needs a NAME"),
        (["pull", "--weights", "/w"], "name the architecture"),
        (["pull", "open_clip:RN51/openai"], "did you mean 'RN50'"),
        (["pull", "RN50"], "HF_HUB_OFFLINE=1 forbids the download"),
        (["pull", "open_clip:RN50", "--weights", "memory://no/where"], "there is no memory://no/where"),
    ],
)
def test_wrong_requests_exit_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("beamclip models: ")
    assert message in err


def test_pull_refuses_what_load_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.html").write_text("<html>")
    assert main(["pull", "open_clip:RN50", "--weights", str(tmp_path / "page.html")]) == 2
    assert "is no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["list", "--mat", "x"], ["pull", "a", "b"]])
def test_wrong_flags_exit_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


def test_plain_progress_tells_each_tenth_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of("x") as advance:
        for count in range(1001):
            advance(count * 1_000_000, 1_000_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "x: 0.0 of 1000.0 MB"
    assert lines[-1] == "x: 1000.0 of 1000.0 MB"
    assert len(lines) == 11
