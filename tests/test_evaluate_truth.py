"""Truths: where they are found, what they mean for a prompt set, and what is said where they mean nothing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.evaluation.compare import rival_of
from clip_transforms.evaluation.truth import (
    MISSING,
    UNKNOWN,
    TruthCounts,
    TruthMap,
    TruthSource,
    nothing_matches,
)
from clip_transforms.prompts import Label, PromptSet
from tests.evaluate_kit import prompt_set

PETS = PromptSet(
    name="pets",
    labels=(
        Label(id="polar-bear", name="ice bear", synonyms=("Ursus maritimus", "bear")),
        Label(id="dog", synonyms=("hound",), parent="pet"),
        Label(id="grizzly", synonyms=("bear",)),
        Label(id="pet", group=True),
    ),
    none=("a wall",),
)


@pytest.mark.parametrize(
    ("truth", "label"),
    [
        ("polar-bear", "polar-bear"),
        ("Polar_Bear", "polar-bear"),
        ("ICE  BEAR", "polar-bear"),
        ("ursus-maritimus", "polar-bear"),
        (("Hound",), "dog"),
        ("pet", "pet"),
        ("__none__", "__none__"),
        ("None", "__none__"),
    ],
)
def test_a_truth_is_an_id_a_name_or_a_synonym(truth: str, label: str) -> None:
    known = TruthMap(PETS)
    assert known.names[known.place(truth)] == label


@pytest.mark.parametrize("truth", ["wolf", "bear", "0", ("dog", "grizzly"), "\0"])
def test_what_fits_none_or_two_labels_is_unknown(truth: str) -> None:
    assert TruthMap(PETS).place(truth) == UNKNOWN


@pytest.mark.parametrize("truth", [None, "", ()])
def test_no_truth_is_missing(truth: object) -> None:
    assert TruthMap(PETS).place(truth) == MISSING  # type: ignore[arg-type]


def test_an_exact_id_goes_before_one_in_another_case() -> None:
    known = TruthMap(prompt_set("cat", "Cat"))
    assert [known.names[known.place(truth)] for truth in ("cat", "Cat")] == ["cat", "Cat"]
    assert known.place("CAT") == UNKNOWN


def test_a_map_and_an_index_say_what_truths_mean() -> None:
    known = TruthMap(PETS, label_map={"n02084071": "hound", "dog": "grizzly"})
    assert known.names[known.place("N02084071")] == "dog"
    assert known.names[known.place("dog")] == "grizzly"
    assert known.names[known.place("polar bear")] == "polar-bear"
    by_index = TruthMap(PETS, by_index=True)
    assert [by_index.names[by_index.place(str(k))] for k in range(3)] == ["polar-bear", "dog", "grizzly"]
    assert by_index.place("3") == UNKNOWN == by_index.place("dog")
    with pytest.raises(RequestError, match="'wolf' stands for 'wolf', which is no label of the prompt set"):
        TruthMap(PETS, label_map={"wolf": "wolf"})


def test_several_truths_of_an_image_are_split_and_counted() -> None:
    counts = TruthCounts()
    truths = ["dog; grizzly", "", "wolf", "dog;wolf", None, ("hound",)]
    judged, found = TruthMap(prompt_multi()).matrix(truths, delimiter=";", counts=counts)
    assert judged.tolist() == [True, True, False, True, False, True]
    assert found.astype(int).tolist() == [[1, 1], [0, 0], [0, 0], [1, 0], [0, 0], [1, 0]]
    assert (counts.judged, counts.unknown, counts.partly, counts.missing) == (4, 1, 1, 1)
    assert counts.names == {"wolf": 2}


def prompt_multi() -> PromptSet:
    labels = (Label(id="dog", synonyms=("hound",)), Label(id="grizzly"))
    return PromptSet(name="several", labels=labels, task="multi")


def test_columns_are_found_carried_in_extra_or_as_caption() -> None:
    rows = pa.RecordBatch.from_pydict(
        {
            "uri": ["/a/dog/1.jpg", "/b/2.jpg"],
            "extra": ['{"kind": "dog", "cls": 3}', None],
            "caption": ["a dog", None],
            "src_breed": ["beagle", None],
        }
    )
    expected = {
        "folder": ["dog", "b"],
        "kind": ["dog", None],
        "cls": ["3", None],
        "txt": ["a dog", None],
        "breed": ["beagle", None],
        "absent": [None, None],
    }
    for name, truths in expected.items():
        source = TruthSource(name=name)
        columns = source.columns(rows.schema)
        assert source.of_rows(rows.select(columns)) == truths, name
    assert TruthSource(name="title", caption_column="title").of_rows(rows) == ["a dog", None]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["wolf", "wolf", "fox"], "none of the truths, such as 'wolf', 'fox', is a label of the prompt set"),
        (["1", "2"], "--label-map index"),
        ([], "no image has a truth there; there are kind, size"),
    ],
)
def test_where_nothing_matches_the_error_says_what_would(names: list[str], said: str) -> None:
    counts = TruthCounts(unknown=len(names))
    for name in names:
        counts.count_unknown(name)
    error = nothing_matches(TruthSource(name="kind"), PETS, counts, columns=["size", "kind"])
    assert said in str(error)


def test_distinct_unknown_truths_are_bounded() -> None:
    counts = TruthCounts()
    for number in range(10_050):
        counts.count_unknown(str(number))
    assert len(counts.names) == 10_000
    assert counts.more_names == 50


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("bare", ("ice bear",)),
        ("a {} in snow", ("a ice bear in snow", "a Ursus maritimus in snow", "a bear in snow")),
        ("photo", None),
    ],
)
def test_what_a_set_can_be_held_against(source: str, texts: tuple[str, ...] | None) -> None:
    rival = rival_of(PETS, source)
    assert rival.derived
    found = rival.prompts.prompts_by_class()["polar-bear"]
    assert found == texts if texts else len(found) > 3
    assert rival.prompts.prompts_by_class()["__none__"] == ("a wall",)


@pytest.mark.parametrize(
    ("source", "said"),
    [("nowhere", "no shipped prompt set"), ("web-flags", "task: multi"), ("animals", None)],
)
def test_what_it_cannot(source: str, said: str | None) -> None:
    if said is None:
        assert not rival_of(PETS, source).derived
        return
    with pytest.raises(RequestError, match=said):
        rival_of(PETS, source)


def test_a_set_is_not_compared_with_itself() -> None:
    bare = PromptSet(name="x", labels=(Label(id="a"),), templates=("{}",))
    with pytest.raises(RequestError, match="these very texts"):
        rival_of(bare, "bare")


def test_places_are_an_array_of_the_rows() -> None:
    found = TruthMap(PETS).places(["dog", "wolf", None])
    assert found.dtype == np.int32
    assert found.tolist()[1:] == [UNKNOWN, MISSING]
