"""The README says what there is: every flag and command, and its code runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from pipelines import cli, review
from pipelines.filter_flags import build_filter_parser
from pipelines.flags import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", ["label", "embed", "filter"])
def test_every_flag_has_help_and_is_in_the_readme(command: str) -> None:
    parser = (
        build_filter_parser("")
        if command == "filter"
        else build_parser(command, "", labels=command == "label")
    )
    for action in parser._actions:
        if action.dest == "help":
            continue
        assert action.help, action.option_strings
        for flag in action.option_strings:
            assert re.search(rf"{re.escape(flag)}\b", README), f"{flag} is not in the README"


def test_every_command_is_in_the_readme() -> None:
    for name in cli.COMMANDS:
        assert f"beamclip {name}" in README, name


def test_every_flag_of_the_readme_exists() -> None:
    known = {
        flag for action in build_parser("label", "", labels=True)._actions for flag in action.option_strings
    }
    others = {"--setup_file", "--environment_cache_millis", "--help"}
    ours = re.sub(r"`python -m benchmarks[^`]*`", "", README)
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-_]+", ours))
    helps = "".join(_help(name) for name in cli.COMMANDS)
    helps += "".join(_help("review", name) for name in review.COMMANDS)
    assert {flag for flag in told - known - others if flag not in helps} == set()


def _help(*command: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        cli.main([*command, "--help"])
    return shown.getvalue()


def test_the_yaml_example_is_a_sound_prompt_set() -> None:
    from clip_transforms.prompts import parse_prompt_set

    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    prompts = parse_prompt_set(text.encode(), source="README.yaml")
    assert prompts.classes == ("cat", "crane-bird", "__none__")


def test_every_path_of_the_source_map_exists() -> None:
    for name in ("schemas", "clip_transforms", "pipelines", "tests", "benchmarks"):
        assert (ROOT / name).is_dir()
    for path in re.findall(r"`((?:tests|benchmarks|clip_transforms|pipelines)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


def test_the_formats_of_the_flag_are_those_of_the_sources() -> None:
    from clip_transforms import sources
    from pipelines import flags

    assert flags.FORMATS == sources.FORMATS
