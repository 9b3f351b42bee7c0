"""`beamclip train` end to end on small squares: what it writes, resuming, processes, and wrong requests."""

from __future__ import annotations

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clip_transforms.elements import RequestError
from clip_transforms.encoders import EncoderSpec, load
from clip_transforms.training.checkpoints import Progress
from clip_transforms.training.loop import Trainer
from clip_transforms.training.model import architecture_of, build, freeze
from clip_transforms.training.options import TrainOptions
from pipelines.train import main
from tests.helpers import write_images
from tests.training_kit import architecture, some_examples, write_model, write_parquet

FAST = ["--batch-size", "8", "--warmup", "2", "--device", "cpu", "--seed", "1", "--average", "0.5"]


def _command(folder: Path, *more: str, captions: bool = True) -> list[str]:
    data = write_parquet(folder / "squares.parquet", captions=captions)
    model = write_model(folder / "tiny.json")
    return ["--input", str(data), "--output", str(folder / "out"), "--model", str(model), *FAST, *more]


def test_a_run_writes_a_model_that_the_encoders_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_command(tmp_path, "--steps", "30", "--learning-rate", "0.003")) == 0
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names == {"checkpoint.pt", "model.json", "model.safetensors", "history.json", "curve.svg"}
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} <= {
        torch.float16,
        torch.int64,
    }
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644
    history = json.loads((out / "history.json").read_text())
    assert [row["step"] for row in history] == [20, 30]
    assert history[-1]["loss"] < history[0]["loss"]
    assert (out / "curve.svg").read_text().count("<polyline") == 2
    printed = capsys.readouterr().out
    assert "24 pictures of 4 concepts" in printed
    assert "step 30/30" in printed
    encoder = load(
        EncoderSpec(
            name="open_clip:custom",
            weights=str(out / "model.safetensors"),
            model_config=str(out / "model.json"),
            device="cpu",
        )
    )
    assert (encoder.dim, encoder.preprocess.height, encoder.context_length) == (32, 32, 16)
    features = encoder.encode_images(np.full((1, 32, 32, 3), 200, np.uint8))
    assert np.linalg.norm(features) == pytest.approx(1, abs=1e-5)


def test_pictures_of_a_private_server_are_read_where_that_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Nothing."""

    write_images(tmp_path, 4)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}"
    lines = ["url,caption", *(f"{base}/image{number:05d}.jpg,picture {number}" for number in range(4))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    command = [
        "--input",
        str(tmp_path / "list.csv"),
        "--output",
        str(tmp_path / "out"),
        *FAST,
        "--steps",
        "2",
    ]
    command += ["--model", str(write_model(tmp_path / "tiny.json"))]
    try:
        assert main(command) == 2
        assert "of this input 0 can be used" in capsys.readouterr().err
        assert main([*command, "--allow-private-urls"]) == 0
        assert "4 pictures of 4 concepts" in capsys.readouterr().out
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _trained(steps: int, folder: Path | None = None, *, until: int | None = None) -> Trainer:
    options = TrainOptions(
        steps=steps, batch_size=8, warmup=2, seed=4, checkpoint_seconds=1e9, report_steps=2
    )
    trainer = Trainer(
        build(architecture(), seed=4), some_examples(), architecture=architecture(), options=options
    )
    if folder is not None:
        assert trainer.resume(folder)
    if until is not None:
        trainer.model.train()
        while trainer.progress.step < until:
            trainer.step()
        return trainer
    trainer.run(on_report=lambda _: None, on_checkpoint=lambda _: None)
    return trainer


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = _trained(6)
    half = _trained(6, until=3)
    half.save(tmp_path)
    resumed = _trained(6, tmp_path)
    assert resumed.progress.step == 6
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, atol=1e-6, rtol=0, msg=name)
    for name, tensor in whole.best.state_dict().items():
        torch.testing.assert_close(resumed.best.state_dict()[name], tensor, atol=1e-6, rtol=0, msg=name)


def test_a_seed_gives_the_same_weights_again() -> None:
    first, second = _trained(3), _trained(3)
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], tensor, atol=0, rtol=0, msg=name)


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    _trained(6, until=1).save(tmp_path)
    options = TrainOptions(steps=6, batch_size=16, seed=4)
    other = Trainer(
        build(architecture(), seed=4), some_examples(), architecture=architecture(), options=options
    )
    with pytest.raises(RequestError, match="another architecture, batch size"):
        other.resume(tmp_path)


def test_frozen_towers_do_not_change() -> None:
    model = build(architecture(), seed=0)
    freeze(model, ("image",))
    options = TrainOptions(steps=2, warmup=0, batch_size=8, freeze=("image",), average=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = Trainer(model, some_examples(), architecture=architecture(), options=options)
    trainer.run(on_report=lambda _: None, on_checkpoint=lambda _: None)
    after = model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert not {name for name in changed if name.startswith("visual.")}
    assert {"token_embedding.weight", "text_projection"} <= changed


def test_the_logit_scale_stays_at_or_below_100() -> None:
    model = build(architecture(), seed=0)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)  # type: ignore[operator]
    options = TrainOptions(steps=1, warmup=0, batch_size=8, average=0.0)
    trainer = Trainer(model, some_examples(), architecture=architecture(), options=options)
    seen: list[Progress] = []
    trainer.run(on_report=seen.append, on_checkpoint=lambda _: None)
    assert seen[0].history[0]["scale"] == pytest.approx(100.0, abs=0.01)


def test_a_checkpoint_can_begin_another_run(tmp_path: Path) -> None:
    assert main(_command(tmp_path, "--steps", "2")) == 0
    weights = tmp_path / "out" / "model.safetensors"
    model = build(architecture_of(str(tmp_path / "tiny.json")), seed=9, init=str(weights))
    stored = load_file(weights)
    for name, tensor in model.state_dict().items():
        if name in stored:
            torch.testing.assert_close(tensor.half(), stored[name].half(), atol=0, rtol=0, msg=name)


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    assert main(_command(tmp_path, "--steps", "3", "--processes", "2")) == 0
    first = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    second = torch.load(tmp_path / "out" / "process-1" / "checkpoint.pt", weights_only=True)
    parameters = {name for name, _ in build(architecture(), seed=0).named_parameters()}
    for name in parameters:  # batch norms' statistics are each process's own
        torch.testing.assert_close(first["model"][name], second["model"][name], atol=1e-6, rtol=0, msg=name)
    assert first["random"] != second["random"]


def test_processes_that_were_killed_between_their_checkpoints_go_on_together(tmp_path: Path) -> None:
    assert main(_command(tmp_path, "--steps", "2", "--processes", "2")) == 0
    behind = (tmp_path / "out" / "process-1" / "checkpoint.pt").read_bytes()
    assert main(_command(tmp_path, "--steps", "4", "--processes", "2", "--resume")) == 0
    (tmp_path / "out" / "process-1" / "checkpoint.pt").write_bytes(behind)
    assert main(_command(tmp_path, "--steps", "6", "--processes", "2", "--resume")) == 0
    first = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    second = torch.load(tmp_path / "out" / "process-1" / "checkpoint.pt", weights_only=True)
    assert json.loads(first["progress"])[0] == json.loads(second["progress"])[0] == 6
    for name in {name for name, _ in build(architecture(), seed=0).named_parameters()}:
        torch.testing.assert_close(first["model"][name], second["model"][name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "ViT-B-33"], "expected an architecture of open_clip"),
        (["--model", "nowhere.json"], "there is no such file"),
        (["--init", "nowhere.safetensors"], "--init nowhere.safetensors: there is no such file"),
        (["--freeze", "image", "text"], "nothing to train"),
        (["--batch-size", "1"], "--batch-size 1: expected 2 or more"),
        (["--precision", "bf16"], "--precision bf16 needs --device cuda"),
        (["--resume"], "has no checkpoint.pt"),
        (["--limit", "1"], "at least 2 pictures with captions"),
        (["--processes", "6"], "each needs 2 pictures or more"),
    ],
)
def test_wrong_requests_exit_2_and_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(_command(tmp_path, "--steps", "2", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_pictures_without_captions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_command(tmp_path, "--steps", "2", captions=False)) == 2
    assert "none of the 24 pictures has a caption" in capsys.readouterr().err


def test_one_picture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "one", 1)
    model = write_model(tmp_path / "tiny.json")
    command = ["--input", str(tmp_path / "one"), "--output", str(tmp_path / "out"), "--model", str(model)]
    assert main(command) == 2
    assert "none of the 1 pictures has a caption" in capsys.readouterr().err


def test_a_finished_folder_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_command(tmp_path, "--steps", "2")) == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert main(_command(tmp_path, "--steps", "2", "--learning-rate", "0.01")) == 2
    assert "has a checkpoint already" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
