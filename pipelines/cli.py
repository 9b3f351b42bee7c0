"""The console script `beamclip`: dispatches a subcommand to its job's module, and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

#: command -> (module, one line of help). A module is imported only when its command is called.
COMMANDS = {
    "label": ("pipelines.label", "embed images and label them with prompt sets"),
    "filter": ("pipelines.filter", "score image-text pairs and keep the best: rules, duplicates, the cut"),
    "embed": ("pipelines.embed", "embed images, without labels"),
    "evaluate": (
        "pipelines.evaluate",
        "hold labels against known truths, few-shot probes against zero-shot",
    ),
    "refine": ("pipelines.refine", "refit a label set on its reviews and relabel the run"),
    "calibrate": (
        "pipelines.calibrate",
        "a temperature, and labels that are accepted unseen with a guarantee, from audited images",
    ),
    "train": ("pipelines.train", "train or fine-tune a CLIP model on pictures with captions"),
    "status": ("pipelines.status", "counts of a run recomputed from its commits, what is left, what failed"),
    "review": ("pipelines.review", "send images to annotators, take their answers back, write final labels"),
    "prompts": ("pipelines.prompts", "list the shipped prompt sets, check a prompt-set file"),
    "models": ("pipelines.models", "list the known encoders, pull weights into the cache"),
}


def usage() -> str:
    """The text of `beamclip --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: beamclip COMMAND [OPTION ...]",
            "",
            "Labels images with CLIP and no training data, on any Apache Beam runner.",
            "",
            "commands:",
            *lines,
            "",
            "`beamclip COMMAND --help` lists a command's options; each is also `python -m pipelines.COMMAND`.",
            "Exit codes: 0 done, 1 contract not met, 2 wrong request, 3 the runner failed, 4 submitted and",
            "not waited for, 130 interrupted.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"beamclip {version('beamclip')}")
        return 0
    if args[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f": one of {', '.join(COMMANDS)}"
        print(f"beamclip: no command {args[0]!r}{hint}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[args[0]][0])
    return int(module.main(args[1:]))


if __name__ == "__main__":
    sys.exit(main())
