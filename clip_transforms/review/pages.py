"""What the pages have in common: their templates' environment, and the files that are shipped beside these."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from clip_transforms.review import report_format

_PACKAGE = "clip_transforms.review"


@functools.cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(report_format.FILTERS)
    return found


def template(name: str, *, filters: Mapping[str, Callable[..., Any]] | None = None) -> jinja2.Template:
    """A shipped template, which shows what it is given as text. filters: beside those of `report_format`."""
    environment = _environment()
    if filters:
        environment = environment.overlay()
        environment.filters = {**environment.filters, **filters}
    return environment.get_template(name)


def shipped(name: str) -> str:
    """The text of a file beside the templates: a style, a script."""
    return importlib.resources.files(_PACKAGE).joinpath("templates", name).read_text("utf-8")
