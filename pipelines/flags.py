"""The flags of the jobs: argparse groups, each flag with its help."""

from __future__ import annotations

import argparse
from typing import Any

#: Those of clip_transforms.sources, which is not imported here: --help comes at once.
FORMATS = ("auto", "images", "manifest", "parquet-images", "webdataset", "img2dataset", "urls")


def build_parser(command: str, description: str, *, labels: bool) -> argparse.ArgumentParser:
    """The parser of `beamclip <command>`; options of the run's identity are absent unless given."""
    parser = argparse.ArgumentParser(
        prog=f"beamclip {command}",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        epilog="Options that beamclip does not know go to Beam's PipelineOptions; after -- they pass to the "
        "runner unchecked.",
    )
    _add_data(parser, labels=labels)
    _add_sources(parser)
    _add_encoder(parser)
    _add_decoding(parser)
    _add_run(parser)
    _add_cluster(parser)
    _add_machine(parser)
    return parser


def build_relabel_parser(command: str, description: str) -> argparse.ArgumentParser:
    """The parser of a command that labels the stored embeddings of RUN anew by what was reviewed."""
    parser = argparse.ArgumentParser(
        prog=f"beamclip {command}",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        epilog="Options that beamclip does not know go to Beam's PipelineOptions; after -- they pass to the "
        "runner unchecked.",
    )
    add_run(parser)
    parser.add_argument("--device", help="of the encoder, for texts alone: auto (default), cpu, cuda, cuda:N")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="of a CPU encoder (default: cores)")
    parser.add_argument("--take-over", action="store_true", help="take the run from a launcher that holds it")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done; write nothing")
    _add_cluster(parser)
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    """RUN and which of its label sets, for the commands on labels that are there; what is not given is absent."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run with labels")
    parser.add_argument(
        "--set",
        metavar="NAME[@HASH8]",
        help="the label set, of a name the newest; required where RUN has several",
    )
    parser.add_argument(
        "--storage-option",
        action="append",
        metavar="K=V",
        help="option of the fsspec file system; may be repeated",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--verbose", action="store_true", help="log what is done, show tracebacks")


def _add_data(parser: argparse.ArgumentParser, *, labels: bool) -> None:
    group = parser.add_argument_group("what goes in and out")
    group.add_argument(
        "--input",
        nargs="+",
        action="extend",
        metavar="URL",
        help="folders, globs, manifests (csv, jsonl, parquet), webdataset tars, url lists; braces are expanded",
    )
    group.add_argument(
        "--output", metavar="DIR", help="folder of the run, on any store that creates only-if-absent"
    )
    if labels:
        group.add_argument(
            "--from-run", metavar="RUN", help="label the stored embeddings of RUN; no image is read"
        )
        group.add_argument(
            "--prompts",
            nargs="+",
            action="extend",
            metavar="NAME|FILE",
            help="prompt sets: shipped names, YAML, classnames.txt or CuPL JSON files",
        )
        group.add_argument(
            "--top-k", type=positive_int, metavar="K", help="classes kept in top_k (default 5)"
        )


def _add_sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how the input is read")
    group.add_argument("--format", choices=FORMATS, help="default auto: by suffix and content")
    group.add_argument("--id-column", metavar="NAME", help="column that holds the image id")
    group.add_argument("--caption-column", metavar="NAME", help="column that holds the caption")
    group.add_argument("--image-column", metavar="NAME", help="column that holds the url or the image bytes")
    group.add_argument(
        "--carry",
        action="append",
        metavar="COL:TYPE",
        help="copy an input column to src_COL with this Arrow type; may be repeated",
    )
    group.add_argument("--limit", type=positive_int, metavar="N", help="only the first N images")
    group.add_argument(
        "--sample", type=_share, metavar="P", help="a share P of the images, the same ones every time"
    )
    group.add_argument("--seed", type=int, metavar="S", help="seed of --sample (default 0)")


def _add_encoder(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the encoder")
    group.add_argument(
        "--encoder", metavar="NAME", help="open_clip:ARCH[/TAG], an OpenAI name, beamclip-tiny, fake"
    )
    group.add_argument(
        "--weights", metavar="URL", help="other weights: safetensors or a state dict, any fsspec url"
    )
    group.add_argument("--model-config", metavar="URL", help="an open_clip model JSON for --weights")
    group.add_argument("--device", help="auto (default), cpu, cuda, cuda:N")
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="auto: fp32, or bf16 with --device cuda",
    )
    group.add_argument("--batch-size", type=positive_int, metavar="N", help="images per call of the encoder")


def _add_decoding(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("decoding")
    group.add_argument("--background", metavar="COLOUR", help="laid under transparency (default white)")
    group.add_argument("--no-exif-transpose", action="store_true", help="do not apply the EXIF orientation")
    group.add_argument("--no-draft", action="store_true", help="never let the JPEG decoder scale down")
    group.add_argument(
        "--allow-truncated", action="store_true", help="decode what is there of a truncated image"
    )
    group.add_argument(
        "--max-bytes", type=positive_int, metavar="N", help="larger images fail (default 100 MiB)"
    )
    group.add_argument(
        "--max-pixels", type=positive_int, metavar="N", help="larger images fail (default 178956970)"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the run")
    mode = group.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="go on where the run in --output stopped")
    mode.add_argument("--overwrite", action="store_true", help="delete the run in --output first")
    group.add_argument(
        "--retry-failed", action="store_true", help="redo only what failed in the run in --output"
    )
    group.add_argument(
        "--on-changed",
        choices=("redo", "keep"),
        help="what to do with inputs that changed or vanished since they were planned (default: an error)",
    )
    group.add_argument(
        "--take-over", action="store_true", help="take the output from a launcher that holds it"
    )
    group.add_argument(
        "--max-failure-rate",
        type=_rate,
        metavar="R",
        help="exit 1 above it (default 0.05; 1.0 for url lists and img2dataset)",
    )
    group.add_argument(
        "--unit-size", type=positive_int, metavar="N", help="images a unit (default: 64 to 1,024)"
    )
    group.add_argument(
        "--embedding-dtype", choices=("float32", "float16"), help="in Parquet (Spark cannot read float16)"
    )
    group.add_argument("--dry-run", action="store_true", help="print what would be done; write nothing")
    group.add_argument("--quiet", action="store_true", help="no progress, no closing table")
    group.add_argument("--verbose", action="store_true", help="log what the workers do, show tracebacks")


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the runner")
    group.add_argument("--runner", metavar="NAME", help="a Beam runner (default: in this process, offline)")
    group.add_argument(
        "--accelerator",
        metavar="HINT",
        help="resource hint of the steps that encode, for Dataflow: 'type:nvidia-l4;count:1;install-nvidia-driver'",
    )
    group.add_argument(
        "--min-ram", metavar="SIZE", help="resource hint of the steps that encode, for Dataflow: 16GB"
    )
    group.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        help="wait for the job; or submit it, leave and exit 4 (default: wait, but not for DataflowRunner)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machine and the store")
    group.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="threads that decode, and of a CPU encoder (default: cores)",
    )
    group.add_argument(
        "--fetch-threads", type=positive_int, metavar="N", help="images fetched at a time (default 32)"
    )
    group.add_argument(
        "--fetch-processes",
        type=_natural,
        metavar="P",
        help="fetch and decode in P processes (default 0: in threads)",
    )
    group.add_argument(
        "--per-host",
        type=positive_int,
        metavar="N",
        help="http(s) images at a time from one host (default 8)",
    )
    group.add_argument(
        "--allow-private-urls",
        action="store_true",
        help="let image urls lead to private addresses and to any scheme (default: blocked_address failures)",
    )
    group.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="of one attempt to fetch (default 60)"
    )
    group.add_argument(
        "--storage-option",
        action="append",
        metavar="K=V",
        help="option of the fsspec file system; may be repeated",
    )


def positive_int(text: str) -> int:
    """An argparse type: whole numbers from 1."""
    return int(_number(text, int, lambda value: value >= 1, "a whole number from 1"))


def _natural(text: str) -> int:
    return int(_number(text, int, lambda value: value >= 0, "a whole number from 0"))


def _share(text: str) -> float:
    return float(_number(text, float, lambda value: 0 < value <= 1, "a share above 0, at most 1"))


def _rate(text: str) -> float:
    return float(_number(text, float, lambda value: 0 <= value <= 1, "a rate from 0 to 1"))


def _seconds(text: str) -> float:
    return float(_number(text, float, lambda value: 0 < value < 1e6, "a number of seconds above 0"))


def _number(text: str, kind: Any, fits: Any, expected: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
    return value
