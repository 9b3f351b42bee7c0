"""`beamclip prompts`: list the shipped prompt sets, check prompt-set files without running anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clip_transforms.elements import RequestError
from clip_transforms.prompts import PromptSet, load_prompt_set, prompt_sets, shipped_templates, template_sets
from clip_transforms.prompts.checks import TokenCounter, check_prompt_set
from clip_transforms.prompts.clip_tokens import ClipTokenCounter
from pipelines.storage_options import storage_options

if TYPE_CHECKING:
    from clip_transforms.encoders.base import Encoder


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    root = argparse.ArgumentParser(
        prog="beamclip prompts", description="List or check prompt sets.", allow_abbrev=False
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="list|check")
    commands.add_parser("list", help="the shipped prompt sets and template sets", allow_abbrev=False)
    check = commands.add_parser(
        "check",
        help="say what is wrong with prompt sets, and what may not be meant",
        description="Exit code 0 when every set is sound, with or without warnings; 2 when one is not.",
        allow_abbrev=False,
    )
    check.add_argument("files", nargs="+", metavar="FILE", help="a file, a url or the name of a shipped set")
    check.add_argument(
        "--encoder",
        metavar="NAME",
        help="load this model: count tokens as it does, and find labels that it cannot tell apart",
    )
    check.add_argument("--weights", metavar="URL", help="weights of --encoder, at any fsspec url")
    check.add_argument("--model-config", metavar="URL", help="the model JSON of --encoder, at any fsspec url")
    check.add_argument(
        "--device", metavar="NAME", default="auto", help="auto, cpu, cuda or cuda:N; of --encoder"
    )
    check.add_argument(
        "--storage-option",
        metavar="K=V",
        action="append",
        default=[],
        help="an option of the file system that holds FILE and the weights; may be repeated",
    )
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(argv)
    try:
        return _list() if options.command == "list" else _check(options)
    except RequestError as error:
        print(f"beamclip prompts: {error}", file=sys.stderr)
        return 2


def _list() -> int:
    sets = [load_prompt_set(name) for name in prompt_sets()]
    rows = [("prompt set", "task", "labels", "texts", "hash"), *(_row(prompts) for prompts in sets)]
    print(_table(rows))
    print()
    counts = [
        (name, str(len(shipped_templates(name))), shipped_templates(name)[0]) for name in template_sets()
    ]
    print(_table([("template set", "templates", "the first"), *counts]))
    return 0


def _check(options: argparse.Namespace) -> int:
    storage = storage_options(options.storage_option)
    encoder = _encoder(options, storage) if options.encoder else None
    if encoder is None and (options.weights or options.model_config):
        raise RequestError("--weights and --model-config are parts of a model: name its --encoder too")
    counter: TokenCounter = encoder or ClipTokenCounter()
    wrong = 0
    for file in options.files:
        try:
            prompts = load_prompt_set(file, storage_options=storage)
        except RequestError as error:
            wrong += 1
            print(f"{file}: WRONG: {error}")
            continue
        warnings = check_prompt_set(prompts, counter=counter, encoder=encoder)
        print(f"{file}: ok: {_summary(prompts)}, {_counted(len(warnings), 'warning')}")
        for warning in warnings:
            place = f"line {warning.line}: " if warning.line else ""
            print(f"  warning: {place}{warning.message}")
    print(_rule(counter, encoder))
    return 2 if wrong else 0


def _encoder(options: argparse.Namespace, storage: dict[str, object]) -> Encoder:
    from clip_transforms.encoders import load  # loads torch: only for those who ask for a model
    from clip_transforms.encoders.base import EncoderSpec

    spec = EncoderSpec(
        name=options.encoder,
        weights=options.weights,
        model_config=options.model_config,
        device=options.device,
        storage_options=storage,
    )
    return load(spec)


def _rule(counter: TokenCounter, encoder: Encoder | None) -> str:
    tokens = f"tokens counted as {counter.name} does, at most {counter.context_length} a text"
    if encoder is not None:
        return tokens
    return f"{tokens}; no model was loaded: --encoder NAME checks with its own tokenizer and vectors"


def _row(prompts: PromptSet) -> tuple[str, str, str, str, str]:
    labels, texts = str(_leaves(prompts)), str(_texts(prompts))
    return prompts.name, prompts.task, labels, texts, prompts.hash[:8]


def _summary(prompts: PromptSet) -> str:
    groups = f" in {_counted(len(prompts.groups), 'group')}" if prompts.groups else ""
    labels = _counted(_leaves(prompts), "label")
    texts = _counted(_texts(prompts), "text")
    return f"set '{prompts.name}', {prompts.task}, {labels}{groups}, {texts}, hash {prompts.hash[:8]}"


def _leaves(prompts: PromptSet) -> int:
    return sum(not label.group for label in prompts.labels)


def _texts(prompts: PromptSet) -> int:
    return sum(map(len, prompts.prompts_by_class().values()))


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
