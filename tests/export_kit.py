"""Items of a review queue made by hand, for the tests of the exporters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clip_transforms.prompts import Label, PromptSet
from clip_transforms.review.exporters.items import Guess, Item

#: Labels that trip up formats: quotes, markup, commas, other scripts; one with a description.
STRANGE = PromptSet(
    name="strange",
    none=("a blank picture",),
    labels=(
        Label(id='5" <disk> & "co"', description='rounded, "old" & <soft>'),
        Label(id="a, b | c"),
        Label(id="Ærø 猫 😀"),
        Label(id="None of these"),
        Label(id="it's / that's"),
        Label(id="-"),
    ),
)
FLAGS = PromptSet(
    name="flags", task="multi", labels=tuple(Label(id=name) for name in ("text", "logo", "blur"))
)
BIRDS = PromptSet(
    name="birds",
    none=("a blank picture",),
    labels=(
        Label(id="owl", parent="bird", description="hunts at night"),
        Label(id="bird", group=True, parent="animal"),
        Label(id="animal", group=True),
        Label(id="cat", parent="animal"),
        Label(id="stone"),
    ),
)


def item(number: int, *labels: str, prompts: PromptSet, blind: bool = False, **changes: Any) -> Item:
    """Image `number` with these labels proposed; later ones are surer."""
    score = 0.3 + number / 100
    paths = prompts.paths() if prompts.groups else {}
    guesses = tuple(
        Guess(label=label, score=score - place / 100, calibrated=None, cosine=0.25)
        for place, label in enumerate(labels or prompts.classes[:2])
    )
    made = Item(
        position=number,
        image_id=f"image-{number}",
        uri=f"gs://bucket/photos/{number}.jpg",
        sha256=f"{number:064x}",
        width=640,
        height=480,
        format="JPEG",
        shown=None if blind else labels,
        paths=() if blind else tuple(paths[label] for label in labels if label in paths),
        several=prompts.task == "multi",
        probability=None if blind else score,
        calibrated=False,
        cosine=None if blind else 0.25,
        margin=None if blind else 0.01 + number / 1000,
        entropy=None if blind else 0.5,
        guesses=() if blind else guesses,
        reason="audit" if blind else "margin",
        prob=0.1 if blind else 1.0,
        tag=f"{prompts.name}@0a1b2c3d",
        encoder="fake",
    )
    return replace(made, **changes)


def items_of_each(prompts: PromptSet) -> list[Item]:
    """One of each label (and of `__none__`), one where the model abstains, one blind, in a multi set one of all."""
    names = [*(label.id for label in prompts.labels), *(["__none__"] if prompts.none else [])]
    found = [item(number, name, prompts=prompts) for number, name in enumerate(names)]
    found.append(item(len(found), prompts=prompts))
    found.append(item(len(found), prompts=prompts, blind=True))
    if prompts.task == "multi":
        found.append(item(len(found), *names, prompts=prompts))
    return found
