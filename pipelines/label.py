"""`beamclip label`: embed images and label them with prompt sets, or label the stored embeddings of a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipelines.flags import build_parser
from pipelines.launch import guarded, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = build_parser("label", __doc__ or "", labels=True)
    args, rest, unchecked = parse(parser, argv)

    def work() -> int:
        if hasattr(args, "from_run"):
            from pipelines.from_run import label_stored

            return label_stored(parser, args, rest, unchecked)
        from pipelines.full_run import embed_and_label

        return embed_and_label(parser, args, rest, unchecked, command="label")

    return guarded(work, verbose=hasattr(args, "verbose"), on_interrupt=lambda: _resume(args))


def _resume(args: argparse.Namespace) -> str:
    output = getattr(args, "output", None) or getattr(args, "from_run", "")
    return f"; what is committed stays. Go on with: beamclip label --output {output} --resume"


if __name__ == "__main__":
    sys.exit(main())
