"""How the labels of one prompt set become those of another: renamed, merged, split, removed, kept or new."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from clip_transforms.elements import RequestError
from clip_transforms.prompts import NONE, PromptSet
from clip_transforms.prompts.errors import mistake, nearest
from clip_transforms.prompts.nodes import Node, read_yaml

_KEYS = ("version", "rename", "merge", "split", "remove")
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What an answer to the old set is in the new one.

    labels: the answer; None where it cannot be decided. candidates: what it may be then, for whoever reviews it again;
    none where any label may be.
    """

    labels: tuple[str, ...] | None
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """For each label and group of the old set, those of the new one that it may be: one, several (split), none.

    added: labels of the new set that nothing of the old one became.
    """

    old: PromptSet
    new: PromptSet
    targets: Mapping[str, tuple[str, ...]]
    added: tuple[str, ...]

    def carried(self, labels: tuple[str, ...]) -> Carried:
        """An answer (of people, or of the model) to the old set as one to the new set.

        Single: a split label, and a removed group, cannot be decided. A removed label is "none of these" as long as
        the new set added no labels, which it might be now; the same holds for "none of these" itself. Multi: removed
        labels go; an answer with a split label cannot be decided, nor, where labels were added, any, for nobody
        asked for those.
        A label that the old set does not have cannot be decided.
        """
        if any(label not in self.targets and label != NONE for label in labels):
            return Carried(labels=None)
        found = [self.targets.get(label, ()) for label in labels if label != NONE]
        if self.old.task == "multi":
            kept = {targets[0] for targets in found if len(targets) == 1}
            open_ = {target for targets in found if len(targets) > 1 for target in targets} | set(self.added)
            if open_:
                return Carried(labels=None, candidates=tuple(sorted(kept | open_)))
            return Carried(labels=tuple(sorted(kept)))
        if found and len(found[0]) == 1:
            return Carried(labels=found[0])
        if found and found[0]:
            return Carried(labels=None, candidates=found[0])
        if found and labels[0] in self.old.groups:
            return Carried(labels=None, candidates=self._below(labels[0]))
        if self.added:
            return Carried(labels=None, candidates=(*self.added, NONE))
        return Carried(labels=(NONE,))

    def _below(self, group: str) -> tuple[str, ...]:
        """What became of the labels of a group that is removed."""
        paths = self.old.paths()
        leaves = [key for key in self.old.classes if group in paths[key]]
        return tuple(dict.fromkeys(target for key in leaves for target in self.targets.get(key, ())))


def parse_map(text: str, *, source: str, old: PromptSet, new: PromptSet) -> LabelMap:
    """The map that a YAML file holds.

    Its keys are `rename: {old: new}`, `merge: {new: [old, ...]}`, `split: {old: [new, ...]}` and `remove: [old, ...]`.
    A label of the same id in both sets is kept without being named. Raises RequestError, with file and line, where a
    label of the old set ends nowhere or twice, a target is not in the new set, or a key is not known.
    """
    _check_tasks(old, new)
    root = read_yaml(text, source=source)
    entries = root.map_of("the map", _KEYS)
    if "version" in entries and entries["version"].number("version") != _VERSION:
        raise entries["version"].mistake(f"`version` is {entries['version'].raw}, expected {_VERSION}")
    reader = _Reader(old, new)
    for how, name, targets, node in _changes(entries):
        reader.take(how, name, targets, node)
    return reader.whole(root)


def kept_map(old: PromptSet, new: PromptSet) -> LabelMap:
    """The map of two sets whose labels have the same ids; RequestError where an old label is not in the new set."""
    _check_tasks(old, new)
    return _Reader(old, new).whole(None)


def _check_tasks(old: PromptSet, new: PromptSet) -> None:
    if old.task != new.task:
        raise mistake(
            f"the set '{old.name}' is `task: {old.task}`, the new one '{new.name}' `task: {new.task}`: answers to the "
            "one say nothing of the other",
            source=new.source,
        )


def _changes(entries: Mapping[str, Node]) -> Iterator[tuple[str, str, tuple[str, ...], Node]]:
    """(how, old label, new labels, where that is said)."""
    for key in ("rename", "merge", "split"):
        if key not in entries:
            continue
        node = entries[key]
        if node.kind != "map":
            shape = (
                "{new: [old, old2]}"
                if key == "merge"
                else "{old: [new1, new2]}"
                if key == "split"
                else "{old: new}"
            )
            raise node.mistake(f"`{key}` holds no labels; write {key}: {shape}")
        for name, value in node.entries.items():
            if key == "rename":
                yield key, name, (value.text("the new label"),), value
            elif key == "split":
                targets = value.texts(f"split: {name}")
                if len(set(targets)) < 2:
                    raise value.mistake(
                        f"`split` of '{name}' into fewer than two labels; write rename: {{{name}: new}}"
                    )
                yield key, name, tuple(dict.fromkeys(targets)), value
            else:
                yield from (
                    (key, item.text("an old label"), (name,), item)
                    for item in value.list_of(f"merge: {name}")
                )
    if "remove" in entries:
        yield from (
            ("remove", item.text("a label"), (), item) for item in entries["remove"].list_of("remove")
        )


class _Reader:
    """Collects the changes of a map and checks each against both sets."""

    def __init__(self, old: PromptSet, new: PromptSet) -> None:
        self.old, self.new = old, new
        self._old_names = (*old.classes, *old.groups)
        self._new_names = (*new.classes, *new.groups)
        self._targets: dict[str, tuple[str, ...]] = {}
        self._lines: dict[str, int] = {}
        self._renamed: list[tuple[str, str, Node]] = []

    def take(self, how: str, name: str, targets: tuple[str, ...], node: Node) -> None:
        """One old label with what becomes of it."""
        if name == NONE:
            raise node.mistake(f"{NONE} is the same in every set and is not mapped")
        if name not in self._old_names:
            hint = nearest(name, self._old_names) or f"; it has {', '.join(self._old_names[:8])}"
            raise node.mistake(f"'{name}' is no label of the old set '{self.old.name}'{hint}")
        if name in self._lines:
            raise node.mistake(f"the label '{name}' comes twice, first on line {self._lines[name]}")
        for target in targets:
            if target not in self._new_names:
                hint = nearest(target, self._new_names) or f"; it has {', '.join(self._new_names[:8])}"
                raise node.mistake(
                    f"'{target}', for '{name}', is no label of the new set '{self.new.name}'{hint}"
                )
        self._lines[name] = node.line
        self._targets[name] = targets
        if how == "rename":
            self._renamed.append((name, targets[0], node))

    def whole(self, root: Node | None) -> LabelMap:
        """The map, once all old labels end somewhere."""
        lost = []
        for name in self._old_names:
            if name in self._targets or name == NONE:
                continue
            if name in self._new_names:
                self._targets[name] = (name,)
            else:
                lost.append(name)
        if lost:
            hint = nearest(lost[0], self._new_names)
            more = f" (and {len(lost) - 1} more: {', '.join(lost[1:8])})" if len(lost) > 1 else ""
            told = f"the old label '{lost[0]}' ends nowhere{more}: the new set '{self.new.name}' does not have it"
            if root is None:
                raise RequestError(f"{told}{hint}; --map FILE says what becomes of it")
            raise root.mistake(f"{told}, and the map neither renames, merges, splits nor removes it{hint}")
        for name, target, node in self._renamed:
            if name != target and target in self._targets.get(target, ()):
                mend = f"write merge: {{{target}: [{name}, {target}]}}"
                raise node.mistake(f"'{name}' becomes '{target}', which the old set has too; {mend}")
        reached = {target for targets in self._targets.values() for target in targets}
        added = tuple(
            name
            for name in self._new_names
            if name not in reached and name != NONE and name not in self.new.groups
        )
        return LabelMap(old=self.old, new=self.new, targets=self._targets, added=added)


def read_map(data: bytes, *, source: str, old: PromptSet, new: PromptSet) -> LabelMap:
    """The map in a file's bytes."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{source} is not UTF-8 text; save it as UTF-8") from error
    return parse_map(text, source=source, old=old, new=new)
