"""Warnings about prompt sets, and CLIP's token counts without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clip_transforms.encoders import FakeEncoder
from clip_transforms.encoders.base import Float32
from clip_transforms.prompts import Label, PromptSet, load_prompt_set, parse_prompt_set, prompt_sets
from clip_transforms.prompts.checks import PromptWarning, ambiguous_words, check_prompt_set
from clip_transforms.prompts.clip_tokens import ClipTokenCounter


def pets(*labels: Label, **options: object) -> PromptSet:
    return PromptSet(name="pets", labels=labels, templates=("a {}",), **options)  # type: ignore[arg-type]


def test_texts_over_the_context_length() -> None:
    long = " ".join(["grey"] * 80)
    prompts = pets(Label(id="cat", prompts=(long,), line=4), Label(id="dog"))
    lead = "1 of 2 texts of 'cat' are over 77 tokens and will be cut; the longest has 82: "
    message = lead + f"'{long[:57]}...'"
    assert check_prompt_set(prompts, counter=ClipTokenCounter()) == [
        PromptWarning(kind="too_long", classes=("cat",), line=4, message=message)
    ]


def test_the_limit_itself_is_no_warning() -> None:
    fits = " ".join(["grey"] * 75)
    prompts = pets(Label(id="cat", prompts=(fits,)), Label(id="dog"))
    assert check_prompt_set(prompts, counter=ClipTokenCounter()) == []
    assert [found.kind for found in check_prompt_set(prompts, encoder=_Pairs(context_length=76))] == [
        "too_long"
    ]


def test_negatives_and_none_are_counted_too() -> None:
    long = " ".join(["grey"] * 80)
    multi = pets(Label(id="cat", negatives=(long,)), task="multi")
    assert [found.classes for found in check_prompt_set(multi, counter=ClipTokenCounter())] == [
        ("__negatives__:cat",)
    ]
    single = pets(Label(id="cat"), none=(long,))
    assert [found.classes for found in check_prompt_set(single, counter=ClipTokenCounter())] == [
        ("__none__",)
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Label(id="T-shirt"), Label(id="tshirts")),
        (Label(id="cafe"), Label(id="Café")),
        (Label(id="a", name="the dog"), Label(id="b", name="Dog")),
        (Label(id="dog", synonyms=("puppy",)), Label(id="pup", synonyms=("puppies", "Puppy"))),
        (Label(id="x", prompts=("a red car.",)), Label(id="y", prompts=("a red car",))),
    ],
)
def test_labels_that_are_the_same_but_for_spelling(first: Label, second: Label) -> None:
    found = check_prompt_set(pets(first, second))
    assert [(warning.kind, set(warning.classes)) for warning in found] == [
        ("near_identical", {first.id, second.id})
    ]


def test_different_labels_give_no_warning() -> None:
    assert (
        check_prompt_set(pets(Label(id="dress"), Label(id="dresses frame"), Label(id="bus"), Label(id="bu")))
        == []
    )


def test_ambiguous_words() -> None:
    labels = (
        Label(id="crane", line=7),
        Label(id="bats"),
        Label(id="mouse", synonyms=("small rodent",)),
        Label(id="jaguar", name="jaguar car"),
    )
    found = check_prompt_set(pets(*labels))
    assert [(warning.kind, warning.classes, warning.line) for warning in found] == [
        ("ambiguous", ("bats",), None),
        ("ambiguous", ("crane",), 7),
    ]
    assert found[1].message == "'crane' may be a bird, a machine; say which by its name, synonyms or prompts"
    assert {"crane", "bat", "mouse", "jaguar"} <= set(ambiguous_words())


def test_one_class_alone() -> None:
    assert [found.kind for found in check_prompt_set(pets(Label(id="cat")))] == ["one_class"]
    assert check_prompt_set(pets(Label(id="cat"), none=("a wall",))) == []
    assert check_prompt_set(pets(Label(id="cat"), task="multi")) == []


class _Pairs(FakeEncoder):
    """A fake that cannot tell texts with `puma` from those with `cougar`."""

    def __init__(self, *, context_length: int = 77) -> None:
        super().__init__()
        self.context_length = context_length

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        return super().encode_texts([text.replace("cougar", "puma") for text in texts])

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return ClipTokenCounter().token_counts(texts)


def test_labels_that_an_encoder_cannot_tell_apart() -> None:
    prompts = pets(
        Label(id="cougar", line=3), Label(id="puma cat", line=4), Label(id="puma-cat2", name="cougar cat")
    )
    assert check_prompt_set(prompts) == []
    found = check_prompt_set(prompts, encoder=_Pairs())
    assert [(warning.kind, warning.classes, warning.line) for warning in found] == [
        ("near_identical", ("puma cat", "puma-cat2"), 4)
    ]
    assert found[0].message == "'puma cat' and 'puma-cat2' are the same to fake: cosine 1.000"


def test_a_pair_is_warned_of_once() -> None:
    prompts = pets(Label(id="a", name="dog"), Label(id="b", name="Dog"), Label(id="c", name="dog"))
    found = check_prompt_set(prompts, encoder=FakeEncoder(), near_cosine=0.999)
    assert sorted(warning.classes for warning in found) == [("a", "b"), ("a", "c")]


@pytest.mark.parametrize("name", prompt_sets())
def test_shipped_sets_give_no_warning(name: str) -> None:
    assert check_prompt_set(load_prompt_set(name), counter=ClipTokenCounter()) == []


def test_lines_come_from_the_file() -> None:
    found = parse_prompt_set(b"version: 1\nname: x\nlabels:\n- dog\n- crane\n", source="x.yaml")
    assert [warning.line for warning in check_prompt_set(found)] == [5]


def test_token_counts_are_those_of_open_clip() -> None:
    tokenizer = pytest.importorskip("open_clip").SimpleTokenizer()
    rng = np.random.default_rng(5)
    alphabet = list("abcdefghij  '\".,-XYZ019é漢😀&;ßöЖ\u0301")
    texts = ["".join(rng.choice(alphabet, size=int(rng.integers(0, 60)))) for _ in range(200)]
    texts += [
        "a photo of a cat's fur &amp; don't",
        "<start_of_text> x <end_of_text>",
        "jack-o'-lantern 1234",
        "a" * 300,
    ]
    texts += [
        text
        for name in prompt_sets()
        for found in load_prompt_set(name).prompts_by_class().values()
        for text in found
    ]
    assert ClipTokenCounter().token_counts(texts) == [len(tokenizer.encode(text)) + 2 for text in texts]


def test_counting_tokens_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from clip_transforms.elements import RequestError
    from clip_transforms.prompts import clip_tokens

    clip_tokens._merge_ranks.cache_clear()
    monkeypatch.setattr(clip_tokens.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="needs the open_clip package: pip install open_clip_torch"):
        ClipTokenCounter()


def test_the_list_of_words_is_in_order_and_without_blanks() -> None:
    file = Path(__file__).parents[1] / "clip_transforms" / "prompt_sets" / "ambiguous-words.txt"
    words = [line.split(":")[0] for line in file.read_text().splitlines() if not line.startswith("#")]
    assert words == sorted(set(words))
    assert all(word.isalpha() and word.islower() for word in words)
