"""Starting a job: Beam options and runner, exit codes, and what the user is told when something ends it."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from clip_transforms import elements
from clip_transforms.elements import BeamclipError, ContractError, RequestError
from clip_transforms.memory import limit_malloc
from pipelines.runner_errors import cause, quiet_runners
from pipelines.runners import LOCAL_RUNNERS, canonical, check_options, check_runner

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_RAISED = re.compile(r"(?:clip_transforms\.elements\.)?(\w+Error): (.*?)(?: \[while running|\n|$)", re.S)


class Exit(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    CONTRACT = 1  # the job ran: rows do not reconcile, or too many failed
    REQUEST = 2  # the request was wrong: nothing started, nothing written
    RUNNER = 3
    SUBMITTED = 4  # and not waited for
    INTERRUPTED = 130


class RunnerError(BeamclipError):
    """The runner failed, for a reason that is not the request's."""


def guarded(
    work: Callable[[], int], *, verbose: bool = False, on_interrupt: Callable[[], str] | None = None
) -> int:
    """Call `work`, turn what it raises into one line on stderr and an exit code.

    SIGINT and SIGTERM end the work as KeyboardInterrupt, also where a runner wraps that into an error of its
    own; the second one kills.
    """
    limit_malloc()  # before there are threads
    with _interruptible() as interrupted:
        try:
            return int(work())
        except KeyboardInterrupt:
            interrupted.set()
        except RequestError as error:
            code = _say(error, Exit.REQUEST, verbose, interrupted)
        except ContractError as error:
            code = _say(error, Exit.CONTRACT, verbose, interrupted)
        except BrokenPipeError:
            # The reader of our output has gone: point stdout elsewhere, so that the interpreter's flush is silent.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.RUNNER
        except Exception as error:  # noqa: BLE001 - the top of the program: said, and an exit code
            code = _say(error, Exit.RUNNER, verbose, interrupted)
        if interrupted.is_set():
            sys.stderr.write(f"\nbeamclip: interrupted{on_interrupt() if on_interrupt else ''}\n")
            return Exit.INTERRUPTED
        return code


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Sets the event at SIGINT and SIGTERM and raises KeyboardInterrupt; restores the handlers."""
    interrupted = threading.Event()

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001
        interrupted.set()
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(error: Exception, code: Exit, verbose: bool, interrupted: threading.Event) -> int:
    if interrupted.is_set():
        return code
    if verbose:
        logging.getLogger(__name__).error("the command failed", exc_info=error)
    text = str(error) or type(error).__name__
    if not isinstance(error, BeamclipError):
        text = f"{type(error).__name__}: {text}"
    sys.stderr.write(f"beamclip: {text}\n")
    return code


def configure_logging(*, verbose: bool) -> None:
    """Warnings and errors of ours on stderr; with `verbose` everything from INFO, Beam's too."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    # Below ERROR, the root's messages are Beam's and its dependencies' about themselves.
    logging.getLogger().setLevel(logging.INFO if verbose else logging.ERROR)
    for name in ("clip_transforms", "pipelines"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        # What these say of a failure, with tracebacks, is said once more by the error that they raise.
        for name in ("apache_beam", "gcsfs", "fsspec", "s3fs", "botocore", "aiobotocore", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=r"apache_beam|google|open_clip|timm|torch")
        quiet_runners()


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str], list[str]]:
    """(our options, Beam's options, what follows `--` and passes unchecked)."""
    args = list(sys.argv[1:] if argv is None else argv)
    unchecked: list[str] = []
    if "--" in args:
        cut = args.index("--")
        args, unchecked = args[:cut], args[cut + 1 :]
    known, rest = parser.parse_known_args([word for arg in args for word in _as_ours(parser, arg)])
    if hasattr(known, "runner"):
        known.runner = canonical(known.runner)
    return known, rest, unchecked


def _as_ours(parser: argparse.ArgumentParser, arg: str) -> list[str]:
    """Our own option in Beam's spelling, as a Flex Template's launcher gives it: --unit_size=4, --resume=true."""
    name, equals, value = arg.partition("=")
    action = parser._option_string_actions.get(name.replace("_", "-")) if name.startswith("--") else None
    if action is None:
        return [arg]
    name = name.replace("_", "-")
    if equals and action.nargs == 0 and value.lower() in ("true", "false"):
        return [name] if value.lower() == "true" else []
    return [name + equals + value]


def beam_options(
    parser: argparse.ArgumentParser, runner: str | None, rest: Sequence[str], unchecked: Sequence[str]
) -> PipelineOptions:
    """Beam's options of a job; raises RequestError for what neither beamclip nor Beam knows, or a runner lacks."""
    from apache_beam.options.pipeline_options import PipelineOptions

    check_runner(runner)
    _check_known(parser, rest)
    chosen = "FnApiRunner" if runner in LOCAL_RUNNERS else runner
    options = PipelineOptions([f"--runner={chosen}", *rest, *unchecked])
    check_options(options)
    return options


def _check_known(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    beams = argparse.ArgumentParser(allow_abbrev=False, add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        if hasattr(options, "_add_argparse_args"):
            options._add_argparse_args(beams)
    try:
        _, unknown = beams.parse_known_args(list(rest))
    except SystemExit as error:
        raise RequestError(f"Beam does not take these options: {' '.join(rest)}") from error
    if not unknown:
        return
    flags = [*parser._option_string_actions, *beams._option_string_actions]
    name = unknown[0].split("=")[0]
    near = difflib.get_close_matches(name, flags, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise RequestError(
        f"{name}: neither beamclip nor Beam has this option{hint} (options of the runner alone go after --)"
    )


def reraise(error: Exception) -> None:
    """Raise the beamclip error that a worker raised, wrapped by the runner as text; else RunnerError."""
    found: list[tuple[str, str]] = _RAISED.findall(str(error))
    for name, message in reversed(found):
        kind: Any = getattr(elements, name, None)
        if isinstance(kind, type) and issubclass(kind, BeamclipError) and kind is not elements.ImageError:
            raise kind(message.strip()) from error
    raise RunnerError(f"the runner failed: {cause(error)}") from error
