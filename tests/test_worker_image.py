"""The Dockerfile and the Flex Template's metadata: what they name exists. No image is built here."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clip_transforms.encoders import EncoderSpec, describe
from clip_transforms.encoders.weights import CACHE_VARIABLE
from pipelines import cli, models
from pipelines.flags import build_parser
from pipelines.launch import parse

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "pipelines" / "flex_template.json"


def setup_arguments() -> dict[str, Any]:
    """What setup.py gives to setuptools."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return given


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments) of the Dockerfile, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def arguments() -> dict[str, str]:
    """The build arguments that have a default."""
    pairs = (text.partition("=") for word, text in instructions() if word == "ARG")
    return {name: value for name, equals, value in pairs if equals}


def variables() -> dict[str, str]:
    """What is in the environment of the image."""
    words = [part for word, text in instructions() if word == "ENV" for part in shlex.split(text)]
    return dict(word.split("=", 1) for word in words)


def copied() -> list[str]:
    """What is copied from the repository."""
    texts = [text for word, text in instructions() if word == "COPY" and not text.startswith("--from")]
    return [source for text in texts for source in text.split()[:-1]]


def test_what_is_copied_exists_and_is_all_of_the_package() -> None:
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    packages = {name.split(".")[0] for name in setup_arguments()["packages"]}
    assert packages | {"setup.py"} <= set(copied())
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == set(copied())


def test_extras_versions_and_python_are_ours() -> None:
    text = " ".join(text for word, text in instructions() if word == "RUN")
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    assert set(extras.split(",")) <= set(setup_arguments()["extras_require"])
    from apache_beam.version import __version__

    given = arguments()
    assert given["BEAM_VERSION"] == __version__
    assert f"Python :: {given['PYTHON_VERSION']}" in " ".join(setup_arguments()["classifiers"])
    assert f"python{given['PYTHON_VERSION'].replace('.', '')}-" in given["FLEX_IMAGE"]
    assert given["CUDA_IMAGE"].startswith("nvidia/cuda:")


def test_every_from_is_a_stage_or_an_argument_and_the_entry_point_is_copied() -> None:
    stages = {text.split(" AS ")[1]: text.split(" AS ")[0] for word, text in instructions() if " AS " in text}
    assert stages["beam"] == "apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION}"
    froms = re.findall(r"--from=(\w+) (\S+) (\S+)", (ROOT / "Dockerfile").read_text())
    assert {stage for stage, *_ in froms} == set(stages)
    brought = {target for _, _, target in froms}
    assert [text for word, text in instructions() if word == "ENTRYPOINT"] == ['["/opt/apache/beam/boot"]']
    assert "/opt/apache/beam" in brought
    used = set(re.findall(r"\$\{(\w+)\}", (ROOT / "Dockerfile").read_text()))
    assert used <= set(arguments())


def test_weights_are_pulled_by_a_command_that_exists_and_then_the_hub_is_off() -> None:
    order = [text for word, text in instructions() if word in ("RUN", "ENV")]
    (pull,) = [text for text in order if "beamclip" in text and "models pull" in text]
    command = re.search(r"beamclip (models) (pull) (\S+)", pull)
    assert command is not None and command[1] in cli.COMMANDS
    assert models.parser().parse_args([command[2], "NAME"]).command == "pull"
    for name in arguments()["MODELS"].split():
        assert describe(EncoderSpec(name=name)).dim > 0
    assert order.index(pull) < order.index("HF_HUB_OFFLINE=1")
    given = variables()
    assert given["HF_HUB_OFFLINE"] == "1" and given["RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT"] == "1"
    assert given[CACHE_VARIABLE].startswith("/opt/beamclip/") and given["HF_HOME"].startswith(
        "/opt/beamclip/"
    )


def test_what_is_copied_installs_and_runs_from_the_image_s_folder(tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in copied():
        place = source / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", installed, source], check=True, capture_output=True)
    # As the launcher of a Flex Template calls it: the file by its path, the package from where it is installed.
    script = source / Path(variables()["FLEX_TEMPLATE_PYTHON_PY_FILE"]).relative_to("/opt/beamclip/source")
    request = [f"--input={source / 'clip_transforms' / 'samples'}", f"--output={tmp_path / 'run'}"]
    done = subprocess.run(
        [
            sys.executable,
            script,
            *request,
            "--prompts=samples",
            "--unit_size=12",
            "--quiet",
            "--overwrite=false",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["embedded"] == 36


def parameters() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(TEMPLATE.read_text())["parameters"]
    return found


def test_every_parameter_of_the_flex_template_is_a_flag_of_label() -> None:
    actions = build_parser("label", "", labels=True)._option_string_actions
    for parameter in parameters():
        action = actions.get("--" + parameter["name"].replace("_", "-"))
        assert action is not None, parameter["name"]
        assert set(parameter) <= {"name", "label", "helpText", "isOptional", "regexes"}
        if action.nargs == 0:
            assert parameter["regexes"] == ["true|false"]
        if action.choices:
            assert parameter["regexes"] == ["|".join(action.choices)]
    assert [entry["name"] for entry in parameters() if not entry.get("isOptional")] == ["output"]


def test_the_flex_template_s_metadata_is_what_dataflow_s_api_takes() -> None:
    api = pytest.importorskip("google.cloud.dataflow_v1beta3", reason="apache-beam[gcp] is not installed")
    metadata = api.TemplateMetadata.from_json(TEMPLATE.read_text(), ignore_unknown_fields=False)
    assert [found.name for found in metadata.parameters] == [found["name"] for found in parameters()]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--unit_size=4"], "unit_size", 4),
        (["--unit_size", "4"], "unit_size", 4),
        (["--resume=true"], "resume", True),
        (["--resume=false"], "resume", None),
        (["--retry_failed=True"], "retry_failed", True),
        (["--max_failure_rate=.5"], "max_failure_rate", 0.5),
        (["--prompts=animals"], "prompts", ["animals"]),
        (["--accelerator=type:x;count:1"], "accelerator", "type:x;count:1"),
    ],
)
def test_a_launch_s_parameters_are_understood(words: list[str], name: str, value: object) -> None:
    known, rest, _ = parse(build_parser("label", "", labels=True), words)
    assert (getattr(known, name, None), rest) == (value, [])


def test_beam_s_own_options_stay_as_they_are() -> None:
    _, rest, _ = parse(
        build_parser("label", "", labels=True), ["--num_workers=4", "--temp_location", "gs://a_b/c_d"]
    )
    assert rest == ["--num_workers=4", "--temp_location", "gs://a_b/c_d"]
