"""Prompt sets by name, path or url: the shipped ones, YAML files, lists of class names, CuPL's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from clip_transforms.elements import RequestError
from clip_transforms.filesystems import open_filesystem
from clip_transforms.prompts.errors import nearest, shown
from clip_transforms.prompts.files import parse_classnames, parse_cupl, parse_yaml, set_name
from clip_transforms.prompts.rules import DEFAULT_NEGATIVES, DEFAULT_THRESHOLDS, NEGATIVES, NONE
from clip_transforms.prompts.templates import data_folder, shipped_templates, template_sets
from clip_transforms.prompts.types import Label, PromptSet, Task

__all__ = [
    "DEFAULT_NEGATIVES",
    "DEFAULT_THRESHOLDS",
    "NEGATIVES",
    "NONE",
    "Label",
    "PromptSet",
    "Task",
    "load_prompt_set",
    "parse_prompt_set",
    "prompt_sets",
    "shipped_templates",
    "template_sets",
]

_SUFFIXES = (".yaml", ".yml", ".txt", ".json")


def prompt_sets() -> tuple[str, ...]:
    """The names of the shipped prompt sets, sorted.

    >>> prompt_sets()
    ('animals', 'everyday', 'photo-kind', 'samples', 'web-flags')
    """
    files = data_folder().iterdir()
    return tuple(sorted(file.name[:-5] for file in files if file.name.endswith(".yaml")))


def load_prompt_set(source: str, *, storage_options: Mapping[str, object] | None = None) -> PromptSet:
    """The prompt set of a shipped name, or of a file on disk or at any fsspec url.

    The file's suffix says its form: `.yaml` or `.yml`; `.txt`, a label a line; `.json`, CuPL's label ->
    prompts. A set whose file gives no name is called by the file's stem. storage_options go to fsspec.
    Raises RequestError, with file and line, for whatever is wrong.

    >>> load_prompt_set("animals").task
    'single'
    """
    if _is_name(source):
        return _shipped(source)
    options = dict(storage_options or {})
    return parse_prompt_set(_read(source, options), source=source, storage_options=options)


def parse_prompt_set(
    data: bytes, *, source: str, storage_options: Mapping[str, object] | None = None
) -> PromptSet:
    """The prompt set that a file's bytes hold. source: the file's path or url; its suffix says the form.

    storage_options are for template files that the set names, which lie beside it.
    """
    path = _path(source)
    suffix = path.suffix.lower()
    text = _decode(data, source)
    if suffix in (".yaml", ".yml"):
        folder = source[: len(source) - len(source.rpartition("/")[2])]

        def read(name: str) -> str:
            inside = name if "/" in name else folder + name
            return _decode(_read(inside, dict(storage_options or {})), inside)

        return parse_yaml(text, source=source, read=read)
    if suffix == ".txt":
        return parse_classnames(text, source=source, name=set_name(path.stem, source=source))
    if suffix == ".json":
        return parse_cupl(text, source=source, name=set_name(path.stem, source=source))
    expected = f"expected a file that ends in {', '.join(_SUFFIXES)}, or the name of a shipped set"
    raise RequestError(f"'{shown(source)}' is no prompt set: {expected} ({', '.join(prompt_sets())})")


def _is_name(source: str) -> bool:
    return "/" not in source and "\\" not in source and _path(source).suffix.lower() not in _SUFFIXES


def _path(source: str) -> PurePosixPath:
    """The path whose suffix and stem count: of a chain of urls the first, of a web address without query."""
    first = source.split("::")[0]
    if first.startswith(("http://", "https://")):
        first = urlsplit(first).path
    return PurePosixPath(first.replace("\\", "/"))


def _shipped(name: str) -> PromptSet:
    if name not in prompt_sets():
        lead = f"no shipped prompt set is called '{name}'"
        if Path(name).exists():
            lead += "; there is such a file, but its suffix must say its form"
        known = f"Shipped are {', '.join(prompt_sets())}; a file ends in {', '.join(_SUFFIXES)}"
        raise RequestError(f"{lead}{nearest(name, prompt_sets()) or '.'} {known}")
    text = data_folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, source=f"{name}.yaml")


def _read(source: str, options: dict[str, object]) -> bytes:
    try:
        filesystem, path = open_filesystem(source, options)
        with filesystem.open(path, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise RequestError(f"the file '{shown(source)}' does not exist")
    except IsADirectoryError:
        raise RequestError(f"'{shown(source)}' is a folder; expected a file such as {_SUFFIXES[0]}")
    except Exception as error:  # noqa: BLE001 - each store's client has exceptions of its own
        said = shown(str(error)) or type(error).__name__
        raise RequestError(f"the file '{shown(source)}' cannot be read: {said}")


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        mend = "save it as UTF-8"
        raise RequestError(f"'{shown(source)}' is not UTF-8 text, on line {line}; {mend}")
