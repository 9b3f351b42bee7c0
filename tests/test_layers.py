"""The layers: who may import whom, read from the syntax tree, and that starting up stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("schemas", "clip_transforms", "pipelines")
SOURCES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))
#: Where torch may be imported at all.
TORCH = ("clip_transforms/encoders/", "clip_transforms/training/", "pipelines/train.py")
#: Where Beam may be.
BEAM = (
    *(
        f"clip_transforms/transforms/{name}.py"
        for name in ("__init__", "run", "cut", "select", "dofns", "metrics")
    ),
    "clip_transforms/plugins/",
    "pipelines/",
)


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    layer = OURS.index(name.split("/")[0])
    for module in imports(path):
        top = module.split(".")[0]
        if top in OURS:
            assert OURS.index(top) <= layer, f"{name} imports {module}"
            assert module != "schemas", "`schemas` is a common name: import what is in it"
        if top in ("torch", "torchvision", "open_clip"):
            assert name.startswith(TORCH), f"{name} imports {module}"
        if top == "apache_beam":
            assert name.startswith(BEAM), f"{name} imports {module}"
        if name.startswith("schemas/"):
            assert top in ("pyarrow", "schemas", "__future__", "collections"), f"{name} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_says_in_its_first_sentence_what_it_holds(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc and doc.split("\n")[0].rstrip()[-1] in ".:;,", f"{path}: {doc!r}"


def test_there_are_no_grab_bags() -> None:
    assert not [path for path in SOURCES if path.stem in ("utils", "util", "common", "misc", "helpers")]


@pytest.mark.parametrize(
    ("start", "absent"),
    [
        ("import clip_transforms", ("torch", "apache_beam", "pandas")),
        ("import clip_transforms.units, clip_transforms.encoders", ("torch", "apache_beam")),
        ("from pipelines import cli; cli.main(['--help'])", ("torch", "apache_beam", "pyarrow", "numpy")),
    ],
)
def test_starting_up_loads_nothing_heavy(start: str, absent: tuple[str, ...]) -> None:
    check = f"import sys; {start}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
