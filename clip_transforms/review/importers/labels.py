"""The words of an answer as labels of a prompt set: ids, names and synonyms, where they are unambiguous."""

from __future__ import annotations

from collections.abc import Sequence

from clip_transforms.evaluation.truth import TruthMap, spelled
from clip_transforms.prompts import NONE, PromptSet
from clip_transforms.prompts.errors import nearest
from clip_transforms.review.answer_tables import SEPARATOR
from clip_transforms.review.importers.answers import Answer, Reason, UnfitError

#: How "none of these" may be written, beside the id itself. In a multi-label set `-` is the same.
NONE_WORDS = ("none of these", "none of them")
_NOTHING = "-"


class LabelWords:
    """Turns words into ids of a set's labels and groups, as `evaluate` does: case does not matter, - and _ are spaces.

    `__none__` is an answer in every single-label set, also in one that has no such class: none of the labels fits.
    """

    def __init__(self, prompts: PromptSet) -> None:
        self.prompts = prompts
        self._known = TruthMap(prompts)
        self._paths = prompts.paths()

    def answer(self, given: Answer) -> tuple[str, ...]:
        """The ids of an answer, sorted: exactly one in a single-label set, any number else. Raises UnfitError."""
        multi = self.prompts.task == "multi"
        paths = given.labels if given.cell is None else self._parts(given.cell)
        if multi:
            paths = (*paths, *given.left)
        ids = tuple(dict.fromkeys(self._id_of(path) for path in paths))
        if NONE in ids and len(ids) > 1:
            others = ", ".join(key for key in ids if key != NONE)
            raise UnfitError(Reason.NONE_AND_LABELS, f"none of these, and {others}")
        if multi:
            return tuple(sorted(key for key in ids if key != NONE))
        ids = self._deepest(ids)
        if not ids:
            mend = f"the set '{self.prompts.name}' has one label an image; {NONE} says that none fits"
            raise UnfitError(Reason.NO_LABEL, f"no label; {mend}")
        if len(ids) > 1:
            told = ", ".join(ids)
            raise UnfitError(
                Reason.SEVERAL_LABELS, f"{told}: the set '{self.prompts.name}' takes one an image"
            )
        return ids

    def shown(self, words: Sequence[str], *, divided: bool = False) -> tuple[str, ...] | None:
        """The ids of what was shown, sorted; words that are no label of the set stay as they are.

        divided: the words are the parts of a table's cell, which may have divided a label in two. None where
        that was nothing: in a single-label set, no label.
        """
        if self.prompts.task == "single":
            if not words:
                return None
            if (place := self._known.place(SEPARATOR.join(words))) >= 0:
                return (self._known.names[place],)
        if divided:
            words = [path[-1] for path in self._parts(SEPARATOR.join(words))]
        found = []
        for word in words:
            try:
                found.append(self._id_of((word,)))
            except UnfitError:
                found.append(word)
        return tuple(sorted(key for key in found if key != NONE or self.prompts.task == "single"))

    def _id_of(self, path: Sequence[str]) -> str:
        """The id of the last label of a path, whose other words must be the labels above it."""
        ids = [self._word(word) for word in path]
        if not ids:
            raise UnfitError(Reason.BAD_ROW, "a label without words")
        if len(ids) > 1 and (above := self._paths.get(ids[-1], ())) != tuple(ids):
            told = " > ".join(path)
            raise UnfitError(
                Reason.WRONG_PATH, f"{told}: '{ids[-1]}' lies at {' > '.join(above) or 'no place'} of the set"
            )
        return ids[-1]

    def _word(self, word: str) -> str:
        place = self._known.place(word)
        if place >= 0:
            return self._known.names[place]
        if word == NONE or spelled(word) in NONE_WORDS or (word == _NOTHING and self.prompts.task == "multi"):
            return NONE
        meant = [
            label.id
            for label in self.prompts.labels
            if spelled(word) in map(spelled, (label.id, label.name, *label.synonyms))
        ]
        if meant:
            told = f"{word!r} may be {' or '.join(meant)}; write the id"
            raise UnfitError(Reason.AMBIGUOUS_LABEL, told)
        names = [text for label in self.prompts.labels for text in (label.id, label.name, *label.synonyms)]
        hint = nearest(word, names) or f"; it has {_some(self._known.names)}"
        raise UnfitError(Reason.UNKNOWN_LABEL, f"{word!r} is no label of '{self.prompts.name}'{hint}")

    def _parts(self, cell: str) -> tuple[tuple[str, ...], ...]:
        """The labels in a cell of a table, the longest known ones first: an id may hold what divides several."""
        parts = [part.strip() for part in cell.split(SEPARATOR)]
        found = []
        at = 0
        while at < len(parts):
            end = len(parts)
            while end > at + 1 and self._known.place(SEPARATOR.join(parts[at:end])) < 0:
                end -= 1
            found.append(SEPARATOR.join(parts[at:end]))
            at = end
        return tuple((word,) for word in dict.fromkeys(found) if word)

    def _deepest(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        """Without the groups above another label of the answer: a path that was ticked step by step."""
        above = {group for key in ids for group in self._paths.get(key, ())[:-1]}
        return tuple(key for key in ids if key not in above)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
