"""`beamclip filter`: score image-text pairs and keep the best, or choose anew among the stored pairs of a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipelines.filter_flags import build_filter_parser
from pipelines.launch import guarded, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = build_filter_parser(__doc__ or "")
    args, rest, unchecked = parse(parser, argv)

    def work() -> int:
        from pipelines.filtering import filter_input, filter_stored

        run = filter_stored if hasattr(args, "from_run") else filter_input
        return run(parser, args, rest, unchecked)

    return guarded(work, verbose=hasattr(args, "verbose"), on_interrupt=lambda: _resume(args))


def _resume(args: argparse.Namespace) -> str:
    source = f"--from-run {args.from_run} " if hasattr(args, "from_run") else ""
    output = getattr(args, "output", None) or getattr(args, "from_run", "")
    return f"; what is committed stays. Go on with: beamclip filter {source}--output {output} --resume"


if __name__ == "__main__":
    sys.exit(main())
