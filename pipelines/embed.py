"""`beamclip embed`: embed images into Parquet, without labels."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.flags import build_parser
from pipelines.launch import guarded, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = build_parser("embed", __doc__ or "", labels=False)
    args, rest, unchecked = parse(parser, argv)

    def work() -> int:
        from pipelines.full_run import embed_and_label

        return embed_and_label(parser, args, rest, unchecked, command="embed")

    def resume() -> str:
        return f"; what is committed stays. Go on with: beamclip embed --output {args.output} --resume"

    return guarded(work, verbose=hasattr(args, "verbose"), on_interrupt=resume)


if __name__ == "__main__":
    sys.exit(main())
