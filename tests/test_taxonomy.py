"""Maps from one prompt set to another: what each label becomes, and mistakes with their lines."""

from __future__ import annotations

import pytest

from clip_transforms.elements import RequestError
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.taxonomy import Carried, LabelMap, kept_map, parse_map


def single(name: str, *ids: str, **more: object) -> PromptSet:
    return PromptSet(name=name, labels=tuple(Label(id=key) for key in ids), none=("a wall",), **more)


def multi(name: str, *ids: str) -> PromptSet:
    return PromptSet(name=name, labels=tuple(Label(id=key) for key in ids), task="multi")


OLD = single("old", "cat", "dog", "crane-bird", "crane-machine", "bird", "fish")
NEW = single("new", "kitten", "tomcat", "hound", "crane", "fish")
MAP = """rename: {dog: hound}
merge:
  crane: [crane-bird, crane-machine]
split:
  cat: [kitten, tomcat]
remove: [bird]
"""


def read(text: str, old: PromptSet = OLD, new: PromptSet = NEW) -> LabelMap:
    return parse_map(text, source="map.yaml", old=old, new=new)


def test_every_old_label_has_what_it_becomes() -> None:
    found = read(MAP)
    assert found.targets == {
        "dog": ("hound",),
        "crane-bird": ("crane",),
        "crane-machine": ("crane",),
        "cat": ("kitten", "tomcat"),
        "bird": (),
        "fish": ("fish",),  # the same in both
    }
    assert found.added == ()


def test_answers_of_a_single_label_set_are_carried_as_far_as_they_are_decided() -> None:
    found = read(MAP)
    assert found.carried(("dog",)) == Carried(labels=("hound",))
    assert found.carried(("crane-machine",)) == Carried(labels=("crane",))
    assert found.carried(("cat",)) == Carried(labels=None, candidates=("kitten", "tomcat"))
    assert found.carried(("bird",)) == found.carried(("__none__",)) == Carried(labels=("__none__",))
    assert found.carried(("unheard-of",)) == Carried(labels=None)
    grown = read(MAP, new=single("new", "kitten", "tomcat", "hound", "crane", "fish", "eel"))
    assert grown.added == ("eel",)
    # What was none of the labels may be the new one.
    assert grown.carried(("bird",)) == Carried(labels=None, candidates=("eel", "__none__"))
    assert grown.carried(("__none__",)) == Carried(labels=None, candidates=("eel", "__none__"))
    assert grown.carried(("fish",)) == Carried(labels=("fish",))


def test_answers_of_a_multi_label_set_are_carried_label_by_label() -> None:
    old = multi("old", "cat", "dog", "indoor", "outdoor")
    found = parse_map(
        "merge: {pet: [cat, dog]}\nremove: [indoor]", source="m", old=old, new=multi("new", "pet", "outdoor")
    )
    assert found.carried(("cat", "dog", "indoor")) == Carried(labels=("pet",))
    assert found.carried(()) == found.carried(("indoor",)) == Carried(labels=())
    split = parse_map(
        "split: {cat: [kitten, tomcat]}",
        source="m",
        old=old,
        new=multi("new", "kitten", "tomcat", "dog", "indoor", "outdoor"),
    )
    assert split.carried(("dog",)) == Carried(labels=("dog",))
    assert split.carried(("cat", "dog")) == Carried(labels=None, candidates=("dog", "kitten", "tomcat"))
    grown = kept_map(old, multi("new", "cat", "dog", "indoor", "outdoor", "night"))
    assert grown.carried(("cat",)) == Carried(
        labels=None, candidates=("cat", "night")
    )  # nobody asked for night


def test_groups_must_end_somewhere_too_and_a_removed_one_is_one_of_its_labels() -> None:
    def zoo(*more: Label) -> PromptSet:
        return PromptSet(name="zoo", labels=(*more, Label(id="cat")))

    old = zoo(Label(id="bird", group=True), Label(id="owl", parent="bird"), Label(id="gull", parent="bird"))
    flat = PromptSet(name="flat", labels=tuple(Label(id=key) for key in ("owl", "seagull", "cat")))
    with pytest.raises(RequestError, match="the old label 'bird' ends nowhere"):
        read("rename: {gull: seagull}", old, flat)
    found = read("rename: {gull: seagull}\nremove: [bird]", old, flat)
    assert found.carried(("bird",)) == Carried(labels=None, candidates=("seagull", "owl"))
    assert found.carried(("gull",)) == Carried(labels=("seagull",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("renam: {dog: hound}", "unknown key 'renam' in the map; did you mean 'rename'? (map.yaml, line 1)"),
        (
            "rename:\n  dgo: hound",
            "'dgo' is no label of the old set 'old'; did you mean 'dog'? (map.yaml, line 2)",
        ),
        (
            "rename:\n  dog: houn",
            "'houn', for 'dog', is no label of the new set 'new'; did you mean 'hound'? (map.yaml, line 2)",
        ),
        (f"{MAP}  \nversion: 2", "`version` is 2, expected 1 (map.yaml, line 8)"),
        (
            "rename: {dog: hound}\nremove: [dog]",
            "the label 'dog' comes twice, first on line 1 (map.yaml, line 2)",
        ),
        ("split: {cat: [kitten]}", "`split` of 'cat' into fewer than two labels"),
        ("rename: [dog]", "`rename` holds no labels; write rename: {old: new} (map.yaml, line 1)"),
        ("merge: {crane: crane-bird}", "expected a list"),
        ("remove: [no]", "which YAML reads as a boolean"),
        ("remove: [__none__]", "is the same in every set and is not mapped"),
        ("rename: {dog: fish}", "write merge: {fish: [dog, fish]} (map.yaml, line 1)"),
        (
            "rename: {dog: hound}",
            "the old label 'bird' ends nowhere (and 3 more: cat, crane-bird, crane-machine)",
        ),
        ("", "the file is empty"),
        ("rename: {dog: hound, dog: hound}", "comes twice"),
    ],
)
def test_mistakes_are_told_with_their_line(text: str, message: str) -> None:
    if message.startswith("write merge"):
        text += (
            "\nmerge: {crane: [crane-bird, crane-machine]}\nremove: [bird]\nsplit: {cat: [kitten, tomcat]}"
        )
    with pytest.raises(RequestError) as error:
        read(text)
    assert message in str(error.value)


def test_two_labels_may_change_places() -> None:
    old, new = single("a", "x", "y"), single("b", "x", "y")
    found = parse_map("rename: {x: y, y: x}", source="m", old=old, new=new)
    assert found.carried(("x",)) == Carried(labels=("y",)) and found.carried(("y",)) == Carried(labels=("x",))


def test_sets_of_different_tasks_have_no_map() -> None:
    with pytest.raises(RequestError, match="`task: single`, the new one 'tags' `task: multi`"):
        kept_map(OLD, multi("tags", "cat"))
    with pytest.raises(RequestError, match="--map FILE says what becomes of it"):
        kept_map(OLD, NEW)
