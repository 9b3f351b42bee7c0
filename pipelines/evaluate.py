"""`beamclip evaluate`: how right the labels are on images whose true labels are known."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_transforms.elements import BeamclipError, RequestError
from clip_transforms.encoders.base import Encoder, EncoderSpec, Float32
from clip_transforms.evaluation import Evaluation, Share, bootstrap, evaluate
from clip_transforms.evaluation_report import percent, render_report
from clip_transforms.few_shot import ShotResult, equal_shots, few_shot_curve
from clip_transforms.prompt_types import PromptSet
from clip_transforms.prompts import load_prompt_set
from clip_transforms.sources.options import FORMATS, SourceOptions
from clip_transforms.text_features import text_features
from pipelines.options import storage_options

if TYPE_CHECKING:
    from clip_transforms.labelled_images import LabelledImages


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    root = argparse.ArgumentParser(
        prog="beamclip evaluate",
        description="Compare the labels of a prompt set with true labels: top-1, top-5, each class, confusion, "
        "calibration error, prompt ensembles against bare names, and a few-shot probe against zero-shot.",
        allow_abbrev=False,
    )
    data = root.add_argument_group("what goes in and out")
    data.add_argument("--input", nargs="+", action="extend", metavar="URL", help="as of `beamclip label`")
    data.add_argument(
        "--labels-from",
        metavar="folder|COLUMN",
        default="folder",
        help="the true label: the image's folder (default), `caption`, or a column of the manifest",
    )
    data.add_argument("--prompts", metavar="NAME|FILE", help="a prompt set whose labels are the true labels")
    data.add_argument(
        "--output", metavar="DIR", help="a local folder for evaluation.json and evaluation.html"
    )
    data.add_argument(
        "--ignore-unknown", action="store_true", help="leave out images whose label is no label of the set"
    )
    data.add_argument("--format", choices=FORMATS, default="auto", help="default auto: by suffix and content")
    data.add_argument("--image-column", metavar="NAME", help="column that holds the url or the image bytes")
    data.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    data.add_argument(
        "--storage-option", action="append", default=[], metavar="K=V", help="of the fsspec file system"
    )
    model = root.add_argument_group("the encoder")
    model.add_argument("--encoder", metavar="NAME", help="default beamclip-tiny")
    model.add_argument("--weights", metavar="URL", help="other weights: safetensors or a state dict")
    model.add_argument("--model-config", metavar="URL", help="an open_clip model JSON for --weights")
    model.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")
    model.add_argument("--threads", type=int, metavar="N", help="of a CPU encoder")
    curve = root.add_argument_group("the few-shot curve and the intervals")
    curve.add_argument(
        "--shots", type=int, nargs="*", default=[1, 2, 4, 8, 16], metavar="N", help="default 1 2 4 8 16"
    )
    curve.add_argument(
        "--draws", type=int, default=10, metavar="N", help="random choices of training images (default 10)"
    )
    curve.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the draws and the bootstrap (default 0)"
    )
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        _run(given)
    except RequestError as error:
        print(f"beamclip evaluate: {error}", file=sys.stderr)
        return 2
    except BeamclipError as error:
        print(f"beamclip evaluate: {error}", file=sys.stderr)
        return 1
    return 0


def _run(given: argparse.Namespace) -> None:
    from clip_transforms.encoders import default_name, load
    from clip_transforms.labelled_images import embed_labelled

    for name in ("input", "prompts"):
        if not getattr(given, name):
            raise RequestError(f"--{name} is missing")
    prompts = load_prompt_set(given.prompts)
    if prompts.task != "single":
        raise RequestError(
            f"prompt set '{prompts.name}' is {prompts.task}: evaluate needs one label an image"
        )
    options = storage_options(given.storage_option)
    encoder = load(
        EncoderSpec(
            name=given.encoder or default_name(weights=given.weights, model_config=given.model_config),
            weights=given.weights,
            model_config=given.model_config,
            device=given.device,
            threads=given.threads,
            storage_options=options,
        )
    )
    sources = SourceOptions(format=given.format, image_column=given.image_column, storage_options=options)
    images = embed_labelled(
        given.input, encoder, labels_from=given.labels_from, sources=sources, limit=given.limit
    )
    rows, truth = known_rows(images.labels, prompts, ignore_unknown=given.ignore_unknown)
    _tell(given, prompts, encoder, images, rows, truth)


def known_rows(
    labels: Sequence[str], prompts: PromptSet, *, ignore_unknown: bool
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(rows whose label the set has, their class numbers). Letters' case, - and _ do not matter.

    Raises RequestError for labels that the set does not have, naming some, unless they are to be left out.
    """
    places: dict[str, int] = {}
    names = {label.id: label.name for label in prompts.labels}
    for place, key in enumerate(prompts.classes):
        places[_plain(key)] = place
        places.setdefault(_plain(names.get(key, key)), place)
    unknown = sorted({label for label in labels if _plain(label) not in places})
    if unknown and not ignore_unknown:
        raise RequestError(
            f"{len(unknown)} true labels are no labels of the set '{prompts.name}', such as "
            f"{', '.join(map(repr, unknown[:5]))}: add them, or leave their images out with --ignore-unknown"
        )
    rows = np.array([row for row, label in enumerate(labels) if _plain(label) in places], np.int64)
    if not len(rows):
        raise RequestError(f"no image has a label of the set '{prompts.name}'")
    return rows, np.array([places[_plain(labels[row])] for row in rows], np.int64)


def _plain(label: str) -> str:
    return " ".join(label.lower().replace("_", " ").replace("-", " ").split())


def probabilities(embeddings: Float32, texts: Float32, encoder: Encoder) -> Float32:
    """[N, C] by the model's family: softmax over the classes, or a sigmoid each."""
    logits = encoder.logit_scale * embeddings @ texts.T + encoder.logit_bias
    if encoder.family == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def bare_features(prompts: PromptSet, encoder: Encoder) -> Float32:
    """[C, D]: each class by its name alone, without templates or synonyms."""
    names = {label.id: label.name for label in prompts.labels}
    return encoder.encode_texts([names.get(key, key) for key in prompts.classes])


def compare(better: Evaluation, bare: Evaluation, right: Float32, bare_right: Float32, *, seed: int) -> str:
    """One sentence on prompt ensembles against bare names, by a paired bootstrap over the images."""
    low, high = bootstrap(right - bare_right, seed=seed)
    gain = 100 * (better.top1.value - bare.top1.value)
    verdict = "better" if low > 0 else "worse" if high < 0 else "not shown to be better or worse"
    return (
        f"prompts of the set against bare names: {gain:+.1f} points of top-1 [{100 * low:+.1f}, {100 * high:+.1f}], "
        f"{verdict}"
    )


def _tell(
    given: argparse.Namespace,
    prompts: PromptSet,
    encoder: Encoder,
    images: LabelledImages,
    rows: np.ndarray[Any, Any],
    truth: np.ndarray[Any, Any],
) -> None:
    embeddings = images.embeddings[rows]
    texts = text_features(prompts, encoder).rows(prompts.classes)
    chances = probabilities(embeddings, texts, encoder)
    bare_chances = probabilities(embeddings, bare_features(prompts, encoder), encoder)
    result = evaluate(chances, truth, prompts.classes, seed=given.seed)
    bare = evaluate(bare_chances, truth, prompts.classes, seed=given.seed)
    right = chances.argmax(axis=1) == truth
    bare_right = bare_chances.argmax(axis=1) == truth
    curve = few_shot_curve(embeddings, truth, right, shots=given.shots, draws=given.draws, seed=given.seed)
    verdicts = [
        compare(result, bare, right.astype(np.float32), bare_right.astype(np.float32), seed=given.seed),
        equal_shots(curve),
    ]
    facts = {
        "encoder": encoder.name,
        "weights": encoder.weights_id,
        "prompt set": f"{prompts.name}@{prompts.hash[:8]}",
        "images": result.images,
        "left out": f"{len(images.failures)} unreadable, {images.unlabelled} without a label, "
        f"{len(images.labels) - len(rows)} of other labels",
        "classes": len(result.classes),
        "top-1": percent(result.top1),
        "top-5": percent(result.top5),
        "mean of the classes' top-1": f"{100 * result.mean_class_top1:.1f} %",
        "expected calibration error": f"{result.calibration_error:.3f}",
        "top-1 with bare names": percent(bare.top1),
    }
    print(table(facts, curve, verdicts, result))
    if given.output:
        _write(Path(given.output), result, bare.top1, facts, curve, verdicts)


def table(
    facts: dict[str, Any], curve: Sequence[ShotResult], verdicts: Sequence[str], result: Evaluation
) -> str:
    """What is printed: the facts, the worst classes, the few-shot curve, and what follows from them."""
    wide = max(map(len, facts))
    lines = [f"{key:<{wide}}  {value}" for key, value in facts.items()]
    worst = sorted((one for one in result.per_class if one.images), key=lambda one: (one.top1, one.label))[:5]
    lines.append(
        f"{'hardest classes':<{wide}}  " + ", ".join(f"{one.label} {100 * one.top1:.0f} %" for one in worst)
    )
    if curve:
        lines += ["", "shots  classes  probe   zero-shot"]
        lines += [
            f"{one.shots:>5}  {one.classes:>7}  {100 * one.accuracy:>5.1f}   {100 * one.zero_shot:>9.1f}"
            for one in curve
        ]
    return "\n".join([*lines, "", *verdicts])


def _write(
    folder: Path,
    result: Evaluation,
    bare: Share,
    facts: dict[str, Any],
    curve: Sequence[ShotResult],
    verdicts: Sequence[str],
) -> None:
    from dataclasses import asdict

    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "facts": facts,
        "evaluation": result.to_json(),
        "bare_names_top1": asdict(bare),
        "few_shot": [asdict(one) for one in curve],
        "verdicts": list(verdicts),
    }
    (folder / "evaluation.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    page = render_report(result, title="Evaluation", facts=facts, curve=curve, verdicts=verdicts)
    (folder / "evaluation.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
