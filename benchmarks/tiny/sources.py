"""The drawings of the training set: which packages, under which licences, and how each names its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tiny.words import INTERFACE, Concept, Emoji, concept_of, unique, words_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One set of drawings, in one style."""

    name: str  # folder of the unpacked package, and the style
    package: str  # as the registry names it
    licence: str  # SPDX
    credit: str
    emoji: bool = False  # the names are those of emoji
    weight: float = 1.0
    split: str = "train"  # or "judge": never trained on, only measured with
    inside: str = ""  # of a Debian package: where its pictures are


def _iconify(name: str, licence: str, credit: str, **options: object) -> Source:
    return Source(name=name, package=f"@iconify-json/{name}", licence=licence, credit=credit, **options)  # type: ignore[arg-type]


STREAMLINE = "Streamline, streamlinehq.com"
SOURCES: tuple[Source, ...] = (
    _iconify("noto", "Apache-2.0", "Noto Emoji, Google", emoji=True, weight=2.0),
    _iconify("noto-v1", "Apache-2.0", "Noto Emoji (old), Google", emoji=True, weight=2.0),
    _iconify("fxemoji", "Apache-2.0", "Firefox OS Emoji, Mozilla", emoji=True, weight=2.0),
    _iconify("twemoji", "CC-BY-4.0", "Twemoji, Twitter", emoji=True, weight=2.0),
    _iconify("emojione", "CC-BY-4.0", "EmojiOne 2, Emoji One", emoji=True, weight=2.0),
    _iconify("emojione-monotone", "CC-BY-4.0", "EmojiOne 2 monotone, Emoji One", emoji=True, weight=0.36),
    _iconify("streamline-emojis", "CC-BY-4.0", STREAMLINE, emoji=True, weight=2.0),
    _iconify("streamline-color", "CC-BY-4.0", STREAMLINE),
    _iconify("streamline-flex-color", "CC-BY-4.0", STREAMLINE),
    _iconify("streamline-freehand-color", "CC-BY-4.0", STREAMLINE),
    _iconify("streamline-kameleon-color", "CC-BY-4.0", STREAMLINE, weight=1.5),
    _iconify("streamline-plump-color", "CC-BY-4.0", STREAMLINE),
    _iconify("streamline-sharp-color", "CC-BY-4.0", STREAMLINE),
    _iconify("streamline-stickies-color", "CC-BY-4.0", STREAMLINE, weight=1.5),
    _iconify("streamline-cyber-color", "CC-BY-4.0", STREAMLINE, weight=1.5),
    _iconify("streamline-ultimate-color", "CC-BY-4.0", STREAMLINE, weight=1.5),
    _iconify("streamline-pixel", "CC-BY-4.0", STREAMLINE, weight=0.3),
    _iconify("flat-color-icons", "MIT", "Flat Color Icons, Icons8", weight=1.5),
    _iconify("flat-ui", "MIT", "Flat UI Icons, Designmodo", weight=1.5),
    _iconify("meteocons", "MIT", "Meteocons, Bas Milius", weight=0.3),
    _iconify("marketeq", "MIT", "Marketeq", weight=1.0),
    _iconify("icon-park", "Apache-2.0", "IconPark, ByteDance"),
    _iconify("icon-park-twotone", "Apache-2.0", "IconPark, ByteDance", weight=0.24),
    _iconify("icon-park-solid", "Apache-2.0", "IconPark, ByteDance", weight=0.24),
    _iconify("mdi", "Apache-2.0", "Material Design Icons, Pictogrammers", weight=0.3),
    _iconify("material-symbols", "Apache-2.0", "Material Symbols, Google", weight=0.18),
    _iconify("mingcute", "Apache-2.0", "MingCute Icon, MingCute Design", weight=0.24),
    _iconify("tabler", "MIT", "Tabler Icons, Pawel Kuna", weight=0.3),
    _iconify("ph", "MIT", "Phosphor Icons", weight=0.24),
    _iconify("healthicons", "MIT", "Health Icons, Resolve to Save Lives", weight=0.18),
    _iconify("hugeicons", "MIT", "Huge Icons, Hugeicons", weight=0.24),
    _iconify("lucide", "ISC", "Lucide Contributors", weight=0.24),
    _iconify("lucide-lab", "ISC", "Lucide Contributors", weight=0.24),
    _iconify("fa6-solid", "CC-BY-4.0", "Font Awesome 6 Solid, Dave Gandy", weight=0.36),
    _iconify("game-icons", "CC-BY-3.0", "Game Icons, game-icons.net", weight=0.36),
    _iconify("solar", "CC-BY-4.0", "Solar, 480 Design", weight=0.18),
    _iconify("guidance", "CC-BY-4.0", "Guidance, Streamline", weight=0.24),
    _iconify("streamline", "CC-BY-4.0", STREAMLINE, weight=0.18),
    _iconify("streamline-ultimate", "CC-BY-4.0", STREAMLINE, weight=0.18),
    _iconify("maki", "CC0-1.0", "Maki, Mapbox", weight=0.3),
    _iconify("temaki", "CC0-1.0", "Temaki, Bryan Housel", weight=0.3),
    Source(
        name="openclipart",
        package="openclipart-png",
        licence="CC0-1.0",
        credit="Open Clip Art Library, its contributors; Debian package openclipart-png",
        weight=2.0,
        inside="usr/share/openclipart/png",
    ),
    # Share-alike and GPL, so never trained on: whole unseen styles to measure with. The stamps are painted or
    # cut out of photographs, which nothing in the training set is. Not here, on purpose: benchmarks.tiny.fluent.
    _iconify("openmoji", "CC-BY-SA-4.0", "OpenMoji, HfG Schwaebisch Gmuend", emoji=True, split="judge"),
    Source(
        name="tuxpaint-stamps",
        package="tuxpaint-stamps-default",
        licence="GPL-2.0-or-later",
        credit="Tux Paint stamps, New Breed Software and contributors",
        split="judge",
        inside="usr/share/tuxpaint/stamps",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One picture before it is rendered: SVG text, or the path of a PNG."""

    key: str
    source: Source
    concept: Concept
    svg: str | None = None
    path: Path | None = None


NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def svg_of(icon: Mapping[str, object], data: Mapping[str, object]) -> str:
    """The SVG of an icon of an iconify package, whose `data` has the size of icons that state none."""
    width, height = icon.get("width", data.get("width", 16)), icon.get("height", data.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return f'<svg {NAMESPACES} viewBox="{box}">{icon["body"]}</svg>'


def icon_drawings(source: Source, folder: Path, emoji: Emoji) -> Iterator[Drawing]:
    """The drawings of an unpacked iconify package that name something that can be drawn."""
    data = json.loads((folder / "icons.json").read_text())
    for name, icon in data["icons"].items():
        if icon.get("hidden") or "skin-tone" in name:
            continue
        if source.emoji:
            concept = emoji.find(name)
            if concept is None and source.name == "streamline-emojis":
                concept = emoji.find(re.sub(r"-\d+$", "", name))
        else:
            concept = concept_of(words_of(name), emoji)
        if concept is None:
            continue
        yield Drawing(key=f"{source.name}/{name}", source=source, concept=concept, svg=svg_of(icon, data))


# Folders of openclipart that hold no things: flags, signs, themes, patterns.
SKIPPED = re.compile(
    r"/(flags|roadsigns|buttons|.*-theme|shapes|special|led|hazard|disability|map_symbols|cards|cardbacks|bordered|"
    r"simple|white|ornamental|diagrams|logos|folders|stickmen|duplicates|jigsaw|aiga-symbols|gradients|patterns)(/|$)"
)
FOLDERS = {
    "dogs": "dog", "horses": "horse", "housecats": "cat", "bears": "bear", "penguin": "penguin",
    "birds": "bird", "fish": "fish", "bugs": "insect", "dinosaurs": "dinosaur", "trees": "tree",
    "flowers": "flower", "evergreen": "tree", "vehicles": "vehicle", "fruit": "fruit",
    "vegetables": "vegetable", "homes": "house", "books": "book", "hats": "hat", "jewelry": "jewelry",
    "bulb": "light bulb", "battery": "battery", "telephone": "telephone", "clocks": "clock",
    "boating": "boat", "furniture": "furniture", "toys": "toy", "weapons": "weapon", "tools": "tool",
    "mammals": "animal", "animals": "animal", "beverages": "drink", "desserts": "dessert",
    "clothing": "clothes", "dice": "dice", "music": "musical instrument", "food": "food",
}  # fmt: skip
SPECIFIC = {
    "dog",
    "horse",
    "cat",
    "bear",
    "penguin",
    "fish",
    "tree",
    "flower",
    "book",
    "clock",
    "boat",
    "light bulb",
}


def clipart_drawings(source: Source, folder: Path, emoji: Emoji) -> Iterator[Drawing]:
    """The drawings of Debian's openclipart-png, captions from file and folder names without the authors'."""
    lexicon = emoji.lexicon
    for path in sorted(folder.rglob("*.png")):
        inside = path.relative_to(folder).as_posix()
        parents = inside.rsplit("/", 1)[0].split("/")
        if SKIPPED.search("/" + "/".join(parents)):
            continue
        kinds = unique(FOLDERS.get(parent, "") for parent in reversed(parents))
        words: list[str] = []
        for word in words_of(path.stem):  # an author's name ends the run of dictionary words
            if word not in lexicon.words and lexicon.singular(word) not in lexicon.words:
                break
            words.append(word)
        concept = None
        for size in range(min(len(words), 3), 0, -1):
            found = concept_of(words[:size], emoji)
            if found is not None and (found.weight > 0.1 or not found.emoji):
                concept = found
                break
        if concept is None and kinds and kinds[0] in SPECIFIC:
            concept = Concept(name=kinds[0], captions=[kinds[0]], tags=[], weight=0.5)
        if concept is None:
            continue
        tags = unique([*kinds, *concept.tags])
        captions = unique([*concept.captions, *(kind for kind in kinds if kind in SPECIFIC)])
        made = Concept(
            name=concept.name, captions=captions, tags=tags, weight=concept.weight, emoji=concept.emoji
        )
        yield Drawing(key=f"openclipart/{inside}", source=source, concept=made, path=path)


PARTS_OF_STAMPS = (
    "animals",
    "clothes",
    "food",
    "hobbies",
    "household",
    "naturalforces",
    "plants",
    "vehicles",
    "space",
)


def stamp_drawings(source: Source, folder: Path, emoji: Emoji) -> Iterator[Drawing]:
    """Tux Paint's stamps by their file names; the mirrored copies that it keeps beside some are left out."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).as_posix()
        if (
            path.suffix not in (".png", ".svg")
            or not inside.startswith(PARTS_OF_STAMPS)
            or "mirror" in inside
        ):
            continue
        concept = concept_of(words_of(path.stem), emoji)
        if concept is None:
            continue
        key = f"{source.name}/{inside}"
        if path.suffix == ".svg":
            svg = path.read_text(encoding="utf-8", errors="replace")
            yield Drawing(key=key, source=source, concept=concept, svg=svg)
        else:
            yield Drawing(key=key, source=source, concept=concept, path=path)


READERS = {"openclipart": clipart_drawings, "tuxpaint-stamps": stamp_drawings}


def drawings(root: Path, emoji: Emoji) -> Iterator[Drawing]:
    """Every drawing of every source under `root` (a folder a source); INTERFACE names are left out."""
    for source in SOURCES:
        folder = root / source.name
        reader = READERS.get(source.name, icon_drawings)
        for drawing in reader(source, folder, emoji):
            if drawing.concept.name not in INTERFACE:
                yield drawing
