"""Which sentence a picture is shown with: its captions and tags, put into templates."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from clip_transforms.prompts.templates import fill, shipped_templates, template_sets

#: Sentences beside the shipped template sets; these are drawn as often as all of those together.
PLAIN = (
    "a {}", "a photo of a {}.", "a picture of a {}", "a drawing of a {}", "an illustration of a {}",
    "an icon of a {}", "a cartoon of a {}", "clip art of a {}", "an image of the {}", "the {}",
    "an emoji of a {}",
    "a photo of the {}.", "this is a {}", "a {} on a plain background", "a colorful {}",
)  # fmt: skip


def all_templates() -> tuple[str, ...]:
    """The shipped template sets, which prompts will use, and as many plain ones.

    >>> "itap of a {}." in all_templates()
    True
    """
    shipped = tuple(template for name in template_sets() for template in shipped_templates(name))
    return (*shipped, *(PLAIN * (len(shipped) // len(PLAIN))))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionOptions:
    """How captions are chosen."""

    template: float = 0.6  # how often a short caption is put into a template
    tag: float = 0.12  # how often a tag stands for the caption
    mixed: float = 0.08  # how often tags follow the caption
    first: float = 0.5  # how often the first caption is taken
    longest: int = 5  # words; longer captions are sentences and stand alone
    templates: tuple[str, ...] = field(default_factory=all_templates)


def choose(
    captions: tuple[str, ...], tags: tuple[str, ...], options: CaptionOptions, random: Random
) -> tuple[str, str]:
    """(what the picture is called, the sentence that is encoded).

    >>> choose(("cat",), (), CaptionOptions(template=0.0), Random(0))
    ('cat', 'cat')
    """
    draw = random.random()
    name = captions[0] if len(captions) == 1 or random.random() < options.first else random.choice(captions)
    if tags and draw < options.tag:
        name = random.choice(tags)
    text = name
    if tags and options.tag <= draw < options.tag + options.mixed:
        some = random.sample(tags, min(len(tags), random.randint(1, 3)))
        parts = [name, *some]
        random.shuffle(parts)
        text = ", ".join(parts)
    elif len(name.split()) <= options.longest and random.random() < options.template:
        text = fill(random.choice(options.templates), name)
    for vowel in "aeio":
        text = text.replace(f" a {vowel}", f" an {vowel}")
    return name, text
