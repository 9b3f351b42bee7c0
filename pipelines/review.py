"""`beamclip review`: images go out to annotators and their answers come back; dispatches, and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

#: subcommand -> (module, one line of help). A module is imported only when its command is called.
COMMANDS: dict[str, tuple[str, str]] = {
    "export": ("pipelines.review_export", "choose what people should review, for an annotation tool"),
    "import": ("pipelines.review_import", "store what annotators answered"),
    "final": ("pipelines.review_final", "write the final labels, with who decided each"),
    "migrate": ("pipelines.review_migrate", "carry labels and reviews over to a changed prompt set"),
}


def usage() -> str:
    """The text of `beamclip review --help`."""
    width = max(map(len, COMMANDS), default=0)
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: beamclip review COMMAND RUN [OPTION ...]",
            "",
            "commands:",
            *lines,
            "",
            "`beamclip review COMMAND --help` lists a command's options.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        print(f"beamclip: no command 'review {args[0]}': one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[args[0]][0])
    return int(module.main(args[1:]))


if __name__ == "__main__":
    sys.exit(main())
