"""`beamclip prompts list` and `beamclip prompts check`, run as commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.prompts import main

GOOD = "version: 1\nname: birds\ntemplates: [photo]\nlabels:\n- owl\n- crane\n"


def test_list_names_every_shipped_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["prompt", "set", "task", "labels", "texts", "hash"]
    assert [line[:4] for line in lines[1:6]] == [
        ["animals", "single", "36", "605"],
        ["everyday", "single", "30", "210"],
        ["photo-kind", "single", "12", "38"],
        ["samples", "single", "18", "216"],
        ["web-flags", "multi", "11", "39"],
    ]
    assert [line[:2] for line in lines[8:]] == [
        ["illustration", "12"],
        ["openai-80", "80"],
        ["photo", "12"],
        ["short", "7"],
    ]


def test_check_prints_warnings_with_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "birds.yaml"
    file.write_text(GOOD)
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{file}: ok: set 'birds', single, 2 labels, 24 texts, hash ")
    assert out[0].endswith(", 1 warning")
    assert out[1].startswith("  warning: line 6: 'crane' may be a bird, a machine;")
    assert out[2] == (
        "tokens counted as CLIP's own tokenizer does, at most 77 a text; no model was loaded: "
        "--encoder NAME checks with its own tokenizer and vectors"
    )
    assert len(out) == 3


def test_check_goes_on_after_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nname: cats\nlabels: []\n")
    assert main(["check", str(bad), "everyday"]) == 2
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{bad}: WRONG: prompt set 'cats' has no labels ({bad}, line 3)"
    assert out[1].startswith("everyday: ok: set 'everyday', single, 30 labels, 210 texts, hash ")


def test_check_with_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "birds.yaml"
    file.write_text(GOOD + "- {id: owl-bird, name: owl}\n")
    assert main(["check", str(file), "--encoder", "fake?context_length=6"]) == 0
    out = capsys.readouterr().out
    assert "'owl' and 'owl-bird' are both described by 'owl'" in out
    cut = "12 of 12 texts of 'owl' are over 6 tokens and will be cut; the longest has 11: 'a photo of a owl"
    assert cut in out
    assert out.splitlines()[-1] == "tokens counted as fake?context_length=6 does, at most 6 a text"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["check", "everyday", "--encoder", "nonsense"], "beamclip prompts: no encoder 'nonsense'"),
        (
            ["check", "everyday", "--weights", "x.safetensors"],
            "--weights and --model-config are parts of a model",
        ),
        (["check", "everyday", "--storage-option", "x"], "--storage-option number 1 is not K=V"),
    ],
)
def test_wrong_requests(args: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("args", [[], ["check"], ["lst"], ["check", "everyday", "--enc", "fake"]])
def test_wrong_command_lines(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert "usage: beamclip prompts" in capsys.readouterr().err


def test_checking_loads_neither_torch_nor_beam() -> None:
    code = (
        "import sys; from pipelines.prompts import main; code = main(['check', 'animals']); "
        "print(sorted({'torch', 'open_clip', 'apache_beam'} & set(sys.modules))); sys.exit(code)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
