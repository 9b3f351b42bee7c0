"""`beamclip refine`: refits a label set on what people reviewed, and relabels the run where that is better."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from pipelines.flags import build_relabel_parser
from pipelines.launch import configure_logging, guarded, parse
from pipelines.refining import refine

DESCRIPTION = (
    "Fit a classifier to the stored embeddings of reviewed images, blend it with the zero-shot logits, and, where "
    "it beats zero-shot on images that it was not fitted to, label all stored embeddings with it, into a new "
    "folder. Half of the reviewed audit is held out for `beamclip calibrate`. Reviews that are likely mistaken "
    "are listed, never changed. Needs pip install 'beamclip[review]'."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 where the refit is adopted, and where it is not, which is said."""
    parser = build_relabel_parser("refine", DESCRIPTION)
    args, rest, unchecked = parse(parser, argv)
    verbose = hasattr(args, "verbose")

    def work() -> int:
        configure_logging(verbose=verbose)
        return refine(parser, args, rest, unchecked)

    def again() -> str:
        named = f" --set {shlex.quote(args.set)}" if hasattr(args, "set") else ""
        return f"; what is committed stays. Go on with: beamclip refine {shlex.quote(args.run)}{named}"

    return guarded(work, verbose=verbose, on_interrupt=again)


if __name__ == "__main__":
    sys.exit(main())
