"""The forms in which answers come, by the name that `--from` takes."""

from __future__ import annotations

from collections.abc import Iterator

from clip_transforms.review.importers.answers import Answer, Rejected, Unanswered
from clip_transforms.review.importers.cvat import read_cvat
from clip_transforms.review.importers.label_studio import read_label_studio
from clip_transforms.review.importers.tables import read_table

SOURCES = ("label-studio", "cvat", "csv", "report")


def read_answers(
    data: bytes, *, source: str, name: str, untouched: bool = False
) -> Iterator[Answer | Unanswered | Rejected]:
    """The rows of one file. source: one of SOURCES. name: of the file, for messages.

    untouched: predictions that nobody touched are agreement (CVAT alone tells these apart). Raises RequestError
    where the file is of another form. Memory: the file, which holds what people have typed.
    """
    if source == "label-studio":
        return read_label_studio(data, name=name)
    if source == "cvat":
        return read_cvat(data, name=name, untouched=untouched)
    if source in ("csv", "report"):
        return read_table(data, name=name)
    raise ValueError(f"{source!r} is none of {', '.join(SOURCES)}")
