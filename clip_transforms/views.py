"""Views of stored embeddings: data sets that are made from them unit by unit, and the tasks that commit them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from clip_transforms.sink import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One data set with a row for each embedded image: labels of a set, or the scores of image-text pairs."""

    task: str  # the commit's
    folder: str  # below the run's


#: How near each image is to its caption.
PAIRS = View(task="pairs", folder="scores")


def label_view(tag: str) -> View:
    """The labels of the set `<set>@<hash8>`.

    >>> label_view("pets@0a1b2c3d")
    View(task='labels-pets@0a1b2c3d', folder='labels/pets@0a1b2c3d')
    """
    return View(task=f"labels-{tag}", folder=f"labels/{tag}")


class ViewMaker(Protocol):
    """Makes the rows of one view. Safe for several threads."""

    def fingerprint(self) -> str:
        """Of its rows."""
        ...

    def write(self, sources: Iterable[Part], *, stem: str) -> tuple[Part, ...]:
        """A row for each row of these embedding parts, in their order; the parts written."""
        ...
