"""`beamclip train`: trains or fine-tunes an open_clip model on pictures with captions."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clip_transforms.elements import BeamclipError, RequestError
from clip_transforms.sources.options import FORMATS, SourceOptions
from pipelines.storage_options import storage_options

if TYPE_CHECKING:
    from clip_transforms.training.checkpoints import Progress
    from clip_transforms.training.options import TrainOptions

_MARGIN = 1.125  # pictures are held somewhat larger than the model sees them, so that zooming in finds detail


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    root = argparse.ArgumentParser(
        prog="beamclip train",
        description="Train or fine-tune a CLIP model on pictures with captions. The output folder then holds "
        "model.json and model.safetensors, for --model-config and --weights of the other commands.",
        allow_abbrev=False,
    )
    data = root.add_argument_group("what goes in and out")
    data.add_argument(
        "--input", nargs="+", action="extend", metavar="URL", help="as of `beamclip label`, with captions"
    )
    data.add_argument(
        "--output", metavar="DIR", help="a local folder for checkpoints, the model and its curve"
    )
    data.add_argument("--format", choices=FORMATS, default="auto", help="default auto: by suffix and content")
    data.add_argument("--caption-column", metavar="NAME", help="column that holds the caption")
    data.add_argument("--image-column", metavar="NAME", help="column that holds the url or the image bytes")
    data.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    data.add_argument(
        "--storage-option", action="append", default=[], metavar="K=V", help="of the fsspec file system"
    )
    data.add_argument(
        "--allow-private-urls",
        action="store_true",
        help="let image urls lead to private addresses and to any scheme (default: they are left out)",
    )
    model = root.add_argument_group("the model")
    model.add_argument("--model", metavar="NAME|FILE", help="an architecture of open_clip, or a model JSON")
    model.add_argument("--init", metavar="FILE", help="begin with these weights: safetensors or a state dict")
    model.add_argument(
        "--freeze", nargs="+", default=[], choices=("image", "text"), help="towers that stay as they are"
    )
    _add_training(root)
    return root


def _add_training(root: argparse.ArgumentParser) -> None:
    group = root.add_argument_group("the training")
    group.add_argument("--steps", type=int, default=2000, metavar="N", help="of the optimizer (default 2000)")
    group.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="pictures a step (default 256)"
    )
    group.add_argument(
        "--learning-rate", type=float, default=1e-3, metavar="R", help="its peak (default 0.001)"
    )
    group.add_argument(
        "--warmup", type=int, default=200, metavar="N", help="steps of rising rate (default 200)"
    )
    group.add_argument("--weight-decay", type=float, default=0.1, metavar="W", help="of AdamW (default 0.1)")
    group.add_argument(
        "--image-weight",
        type=float,
        default=0.5,
        metavar="W",
        help="of the term that draws pictures of one concept together (default 0.5; 0: none)",
    )
    group.add_argument(
        "--concept-weight",
        type=float,
        default=0.5,
        metavar="W",
        help="of the term that sets each picture against all concepts (default 0.5; 0: none)",
    )
    group.add_argument(
        "--average",
        type=float,
        default=0.998,
        metavar="D",
        help="decay of the averaged weights that are exported (default 0.998; 0: the last weights)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of weights, batches and changes (default 0)"
    )
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")
    group.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 with CUDA"
    )
    group.add_argument("--threads", type=int, default=1, metavar="N", help="of each process (default 1)")
    group.add_argument(
        "--processes", type=int, default=1, metavar="P", help="on the CPU; gradients are averaged"
    )
    group.add_argument(
        "--checkpoint-seconds", type=float, default=300.0, metavar="S", help="between checkpoints"
    )
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        _run(given)
    except RequestError as error:
        print(f"beamclip train: {error}", file=sys.stderr)
        return 2
    except BeamclipError as error:
        print(f"beamclip train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"interrupted; go on with: beamclip train --resume --output {given.output} ...", file=sys.stderr
        )
        return 130
    return 0


def _run(given: argparse.Namespace) -> None:
    from clip_transforms.training.model import architecture_of
    from clip_transforms.training.reading import read_examples
    from clip_transforms.training.run import RunPlan, check_output, train

    for name in ("input", "output", "model"):
        if not getattr(given, name):
            raise RequestError(f"--{name} is missing")
    architecture = architecture_of(given.model)
    options = train_options(given)
    plan = RunPlan(
        architecture=architecture,
        options=options,
        output=Path(given.output),
        init=given.init,
        resume=given.resume,
    )
    sources = SourceOptions(
        format=given.format,
        caption_column=given.caption_column,
        image_column=given.image_column,
        storage_options=storage_options(given.storage_option),
    )
    started = time.monotonic()
    examples = read_examples(
        given.input,
        sources,
        side=round(architecture.size * _MARGIN),
        limit=given.limit,
        allow_private_urls=given.allow_private_urls,
    )
    check_output(plan)
    skipped = f", {examples.skipped} that cannot be used" if examples.skipped else ""
    print(
        f"{len(examples):,} pictures of {len(examples.concepts):,} concepts{skipped}, "
        f"read in {time.monotonic() - started:.0f} s"
    )
    train(plan, examples, report=show)
    print(f"{given.output}/model.safetensors: use it with --weights, and model.json with --model-config")


def train_options(given: argparse.Namespace) -> TrainOptions:
    """The options of a run, device and precision resolved. Raises RequestError."""
    import torch

    from clip_transforms.training.options import TrainOptions

    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise RequestError(f"--device {device}: torch sees no CUDA device here")
    precision = given.precision
    if precision == "auto":
        precision = "bf16" if device.startswith("cuda") else "fp32"
    return TrainOptions(
        steps=given.steps,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        weight_decay=given.weight_decay,
        warmup=given.warmup,
        image_weight=given.image_weight,
        concept_weight=given.concept_weight,
        average=given.average,
        freeze=tuple(dict.fromkeys(given.freeze)),
        seed=given.seed,
        device=device,
        precision=precision,
        threads=given.threads,
        processes=given.processes,
        checkpoint_seconds=given.checkpoint_seconds,
    )


def show(progress: Progress, options: TrainOptions) -> None:
    """Prints one line of progress: step, loss, pictures a second, what is left."""
    row = progress.history[-1]
    left = (options.steps - progress.step) * progress.seconds / progress.step
    speed = progress.step * options.batch_size / max(progress.seconds, 1e-9)
    print(
        f"step {progress.step:,}/{options.steps:,}  loss {row['loss']:.3f}  scale {row['scale']:.1f}  "
        f"{speed:.0f} pictures/s  {left / 60:.0f} min left",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
