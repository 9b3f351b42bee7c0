"""Prompt templates: the shipped sets, template text files, and filling a name into a template."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from clip_transforms.prompts.errors import mistake, nearest, tidy

#: The set that is used when a prompt set names no templates.
DEFAULT_TEMPLATES = "short"

_PLACE = re.compile(r"\{c?\}")
_BRACES = re.compile(r"\{[^{}]*\}")
_SET_NAME = re.compile(r"[A-Za-z0-9_-]+")


def data_folder() -> Path:
    """The folder of shipped prompt sets; template sets are in its subfolder `templates`."""
    return Path(__file__).parent.with_name("prompt_sets")


def template_sets() -> tuple[str, ...]:
    """The names of the shipped template sets, sorted.

    >>> template_sets()
    ('illustration', 'openai-80', 'photo', 'short')
    """
    files = data_folder().joinpath("templates").iterdir()
    return tuple(sorted(file.name[:-4] for file in files if file.name.endswith(".txt")))


@cache
def shipped_templates(name: str) -> tuple[str, ...]:
    """The templates of a shipped set, in the order of its file.

    >>> shipped_templates("short")[0]
    'itap of a {}.'
    """
    if name not in template_sets():
        raise mistake(f"no template set is called '{name}'{_known(name)}")
    text = data_folder().joinpath("templates", f"{name}.txt").read_text(encoding="utf-8")
    return parse_templates(text, source=f"{name}.txt")


def parse_templates(text: str, *, source: str) -> tuple[str, ...]:
    """The templates of a text file, one a line; blank lines and lines that begin with # are skipped.

    >>> parse_templates("# mine\\na sketch of a {c}\\n", source="mine.txt")
    ('a sketch of a {}',)
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    found = tuple(
        one_template(line, source=source, line=number) for number, line in lines if line and line[0] != "#"
    )
    if not found:
        raise mistake("no templates, expected one a line, such as: a photo of a {}.", source=source)
    return found


def one_template(text: str, *, source: str | None = None, line: int | None = None) -> str:
    """A template in its one spelling: `{c}` becomes `{}`. Raises RequestError without a place for the name.

    >>> one_template("a photo of the {c}, a {c}")
    'a photo of the {}, a {}'
    """
    try:
        tidied = tidy(text)
    except ValueError as error:
        raise mistake(f"the template {text!r} {error}", source=source, line=line)
    strange = [found for found in _BRACES.findall(tidied) if found not in ("{}", "{c}")]
    if strange:
        known = "the name's place is written {} or {c}"
        raise mistake(f"the template '{tidied}' holds {strange[0]}; {known}", source=source, line=line)
    if not _PLACE.search(tidied):
        mend = f"write {{}} where the name goes, as in '{tidied} {{}}', or put it under `prompts`"
        raise mistake(f"the template '{tidied}' has no place for the name; {mend}", source=source, line=line)
    return _PLACE.sub("{}", tidied)


def resolve_templates(
    entries: Iterable[tuple[str, int | None]], *, source: str | None, read: Callable[[str], str] | None = None
) -> tuple[str, ...]:
    """Template texts, each once, from texts, names of shipped sets and names of `.txt` files.

    entries: (entry, line) pairs. read: gives the text of a template file named beside the prompt set.
    """
    found: dict[str, None] = {}
    for entry, line in entries:
        if "{" in entry:
            found[one_template(entry, source=source, line=line)] = None
        elif entry in template_sets():
            found |= dict.fromkeys(shipped_templates(entry))
        elif entry.lower().endswith(".txt") and read is not None:
            found |= dict.fromkeys(parse_templates(read(entry), source=entry))
        elif _SET_NAME.fullmatch(entry):
            message = f"no template set is called '{entry}'{_known(entry)}; a template text needs {{}}"
            raise mistake(message, source=source, line=line)
        else:
            one_template(entry, source=source, line=line)  # says what is missing
    return tuple(found)


def fill(template: str, name: str) -> str:
    """The template with the name in every place.

    >>> fill("a photo of a {}.", "crane {c}")
    'a photo of a crane {c}.'
    """
    return template.replace("{}", name)


def _known(name: str) -> str:
    return f"{nearest(name, template_sets()) or '.'} Shipped are {', '.join(template_sets())}"
