"""Prompt sets: every form loads, a mistake is named with its line, the hash covers what counts."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import fsspec
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.prompts import (
    DEFAULT_NEGATIVES,
    Label,
    PromptSet,
    load_prompt_set,
    parse_prompt_set,
    prompt_sets,
    shipped_templates,
    template_sets,
)

HEAD = "version: 1\nname: cats\n"


def parse(text: str, source: str = "cats.yaml") -> PromptSet:
    return parse_prompt_set(text.encode(), source=source)


def message(text: str, source: str = "cats.yaml") -> str:
    with pytest.raises(RequestError) as caught:
        parse(text, source)
    return str(caught.value)


def test_every_field_of_the_file_is_read() -> None:
    found = parse(
        """
version: 1
name: animals
task: single
templates: [photo, "a sketch of a {c}"]
none: ["a blank picture"]
threshold: 0.25
labels:
  - cat
  - {id: bird, group: true, threshold: 0.5}
  - id: crane-bird
    name: crane
    synonyms: [wading crane]
    prompts: ["a tall grey
      bird by water"]
    description: for annotators
    parent: bird
    threshold: 0.4
    templates: ["the {}", "a {}, a {c}"]
"""
    )
    assert found == PromptSet(
        name="animals",
        templates=(*shipped_templates("photo"), "a sketch of a {}"),
        none=("a blank picture",),
        threshold=0.25,
        labels=(
            Label(id="cat"),
            Label(id="bird", group=True, threshold=0.5),
            Label(
                id="crane-bird",
                name="crane",
                synonyms=("wading crane",),
                prompts=("a tall grey bird by water",),
                description="for annotators",
                parent="bird",
                threshold=0.4,
                templates=("the {}", "a {}, a {}"),
            ),
        ),
    )
    assert [label.line for label in found.labels] == [9, 10, 11]
    assert found.classes == ("cat", "crane-bird", "__none__")
    assert found.groups == ("bird",)
    assert found.paths() == {
        "cat": ("cat",),
        "crane-bird": ("bird", "crane-bird"),
        "__none__": ("__none__",),
        "bird": ("bird",),
    }
    assert found.thresholds() == {"cat": 0.25, "crane-bird": 0.4, "__none__": 0.25, "bird": 0.5}
    texts = found.prompts_by_class()
    assert texts["crane-bird"] == (
        "the crane",
        "a crane, a crane",
        "the wading crane",
        "a wading crane, a wading crane",
        "a tall grey bird by water",
    )
    assert texts["__none__"] == ("a blank picture",)
    assert texts["cat"][-1] == "a sketch of a cat" and len(texts["cat"]) == 13


def test_multi_lists_what_each_label_is_held_against() -> None:
    body = HEAD + "task: multi\ntemplates: ['a {}']\nlabels: [b, {id: a, negatives: [not a]}]\n"
    assert parse(body).prompts_by_class() == {
        "a": ("a a",),
        "b": ("a b",),
        "__negatives__:a": ("not a",),
        "__negatives__": DEFAULT_NEGATIVES,
    }
    with_none = parse(body + "none: [nothing]\n")
    assert with_none.classes == ("a", "b")
    assert list(with_none.prompts_by_class()) == ["a", "b", "__negatives__:a", "__none__"]
    assert with_none.thresholds() == {"a": 0.5, "b": 0.5}


def test_without_templates_the_short_set_is_used() -> None:
    assert parse(HEAD + "labels: [cat]").prompts_by_class()["cat"][0] == "itap of a cat."
    assert len(parse(HEAD + "labels: [cat]").prompts_by_class()["cat"]) == 7


def test_a_text_that_comes_twice_counts_once() -> None:
    found = parse(
        HEAD + "templates: ['a {}', 'a {c}']\nlabels: [{id: cat, synonyms: [cat], prompts: [a cat]}]"
    )
    assert found.prompts_by_class() == {"cat": ("a cat",)}


MISTAKES = [
    ("labels: []", "prompt set 'cats' has no labels (cats.yaml, line 3)"),
    ("labels:", "prompt set 'cats' has no labels (cats.yaml, line 3)"),
    (
        "labels: [cat]\nlabls: 1",
        "unknown key 'labls' in the prompt set; did you mean 'labels'? (cats.yaml, line 4)",
    ),
    ("labels: [cat]\nname: x", "the key 'name' comes twice, first on line 2 (cats.yaml, line 4)"),
    (
        "labels:\n- id: cat\n  naem: x",
        "unknown key 'naem' in a label; did you mean 'name'? (cats.yaml, line 5)",
    ),
    ("labels:\n- id: cat\n  id: dog", "the key 'id' comes twice, first on line 4 (cats.yaml, line 5)"),
    ("labels:\n- cat\n- dog\n- cat", "'cats': the id 'cat' comes twice, first on line 4 (cats.yaml, line 6)"),
    (
        "labels:\n- yes\n",
        'a label is yes, which YAML reads as a boolean; put it in quotes: "yes" (cats.yaml, line 4)',
    ),
    (
        "labels:\n- cat\n- no\n",
        'a label is no, which YAML reads as a boolean; put it in quotes: "no" (cats.yaml, line 5)',
    ),
    (
        "labels:\n- 1\n",
        'a label is 1, which YAML reads as a number; put it in quotes: "1" (cats.yaml, line 4)',
    ),
    ("labels:\n- 2024-01-01\n", "which YAML reads as a date"),
    ("labels:\n- id: cat\n  name: 7\n", "`name` is 7, which YAML reads as a number"),
    ("labels:\n-\n", "a label is empty, expected a text (cats.yaml, line 4)"),
    ("labels:\n- ' '\n", "a label is empty (cats.yaml, line 4)"),
    ("labels:\n- {name: x}\n", "a label has no `id` (cats.yaml, line 4)"),
    ("labels:\n- [cat]\n", "a label is a list, expected a text"),
    (
        "labels: cat",
        "`labels` is the text 'cat', expected a list; write a list, as in labels: [cat] (cats.yaml, line 3)",
    ),
    ("labels:\n- __none__\n", "write the texts of that class under `none` of the set (cats.yaml, line 4)"),
    ("labels:\n- __x\n", "ids that begin with two underscores are reserved (cats.yaml, line 4)"),
    (
        "labels:\n- cat\n- {id: tabby, parent: cta}\n",
        "the parent 'cta' of 'tabby' does not exist (cats.yaml, line 5)",
    ),
    (
        "labels:\n- {id: cat, group: true}\n- {id: tabby, parent: cats}\n",
        "did you mean 'cat'? (cats.yaml, line 5)",
    ),
    (
        "labels:\n- cat\n- {id: tabby, parent: cat}\n",
        "the parent 'cat' of 'tabby' is no group; write {id: cat, group: true} (",
    ),
    (
        "labels:\n- x\n- {id: a, group: true, parent: b}\n- {id: b, group: true, parent: a}\n",
        "the parents go in a circle: a -> b -> a (cats.yaml, line 5)",
    ),
    ("labels:\n- x\n- {id: a, group: true, parent: a}\n", "the parents go in a circle: a -> a"),
    ("labels:\n- x\n- {id: a, group: true}\n", "no label has the group 'a' above it (cats.yaml, line 5)"),
    ("labels:\n- {id: a, group: true}\n", "all labels are groups"),
    ("labels:\n- {id: a, group: true, prompts: [x]}\n- b", "the group 'a' has `prompts`"),
    ("labels:\n- {id: a, negatives: [x]}\n", "the label 'a' has `negatives`; they are for `task: multi`"),
    ("task: multi\nlabels:\n- {id: a, group: true}\n- {id: b, parent: a}\n", "groups are for `task: single`"),
    (
        "task: mutli\nlabels: [a]",
        "the task is 'mutli', expected 'single' or 'multi'; did you mean 'multi'? (cats.yaml, line 3)",
    ),
    (
        "labels: [{id: a, threshold: 1.5}]",
        "the threshold is 1.5, expected a number from 0.0 to 1.0 (cats.yaml, line 3)",
    ),
    (
        "labels: [a]\nthreshold: .nan",
        "`threshold` is .nan, expected a number such as 0.5 (cats.yaml, line 4)",
    ),
    ("labels: [a]\nthreshold: yes", "`threshold` is yes, expected a number such as 0.5"),
    ("labels: [a]\nthreshold: -0.1", "the threshold is -0.1"),
    ("labels: [{id: a, group: maybe}]", "`group` is the text 'maybe', expected true or false"),
    ("templates: [a photo]\nlabels: [a]", "the template 'a photo' has no place for the name; write {} where"),
    (
        "templates:\n- openai80\nlabels: [a]",
        "no template set is called 'openai80'; did you mean 'openai-80'? Shipped are",
    ),
    ("templates: ['a {x} {}']\nlabels: [a]", "the template 'a {x} {}' holds {x}"),
    (
        "templates: short\nlabels: [a]",
        "`templates` is the text 'short', expected a list; write a list, as in templates: [short]",
    ),
    (
        "templates: []\nlabels: [a]",
        "the label 'a' has no texts; give it templates or prompts (cats.yaml, line 4)",
    ),
    ("labels:\n- {id: a, templates: []}", "the label 'a' has no texts"),
    (
        "labels:\n- {id: a, templates: [], synonyms: [b], prompts: [c]}",
        "the label 'a' has synonyms but no templates",
    ),
    ("none: []\nlabels: [{id: a, prompts: ['']}]", "an entry of `prompts` is empty (cats.yaml, line 4)"),
    ("none:\nlabels: [a]", "`none` is empty, expected a list"),
    ('labels: ["a\\0b"]', "a label holds the character U+0000, which is not text"),
    ('labels: ["\\ud800"]', "U+D800"),
    ("labels: [!x a]", "the tag !x is not known"),
    ("labels: [a]\n? [x]\n: y", "a key is a list, expected a text"),
    ("labels: &x\n- *x", "an anchor holds itself (cats.yaml, line 3)"),
    ("labels: [a", "not sound YAML"),
    (
        "labels: [a]\n\tx: 1",
        "not sound YAML: found character '\\t' that cannot start any token (cats.yaml, line 4)",
    ),
    ("labels: [a]\n---\nname: x", "not sound YAML"),
    ("labels: " + "[" * 1000, "nested hundreds deep"),
]


@pytest.mark.parametrize(("body", "expected"), MISTAKES, ids=[body[:40] for body, _ in MISTAKES])
def test_a_mistake_is_named_with_its_line(body: str, expected: str) -> None:
    found = message(HEAD + body)
    assert expected in found
    assert "(cats.yaml" in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty (cats.yaml)"),
        ("- a\n", "the prompt set is a list, expected keys and values (cats.yaml, line 1)"),
        ("name: a\nlabels: [x]", "the key 'version' is missing; write `version: 1` (cats.yaml, line 1)"),
        ("version: 1\nlabels: [x]", "the key 'name' is missing"),
        ("version: 1\nname: a", "the key 'labels' is missing"),
        (
            "version: 2\nname: a\nlabels: [x]",
            "version 2 of the file format is not known, expected 1 (cats.yaml, line 1)",
        ),
        ("version: 1.5\nname: a\nlabels: [x]", "`version` is 1.5, expected 1"),
        (
            "version: 1\nname: My Cats\nlabels: [x]",
            "the name 'My Cats' of the prompt set: expected small letters, digits and hyphens only, ",
        ),
        ("version: 1\nname: true\nlabels: [x]", "which YAML reads as a boolean"),
    ],
)
def test_a_mistake_of_the_whole_file_is_named(text: str, expected: str) -> None:
    assert expected in message(text)


def test_an_alias_stands_for_its_anchor() -> None:
    found = parse(HEAD + "templates: &t ['a {}']\nlabels: [{id: cat, templates: *t}]")
    assert found.labels[0].templates == ("a {}",)


def test_sets_made_in_code_are_checked_too() -> None:
    with pytest.raises(RequestError, match="prompt set 'x' has no labels"):
        PromptSet(name="x", labels=())
    with pytest.raises(RequestError, match="the id ' cat' is empty or has blanks around it"):
        PromptSet(name="x", labels=(Label(id=" cat"),))
    with pytest.raises(RequestError, match="the threshold of 'cat' is nan"):
        PromptSet(name="x", labels=(Label(id="cat", threshold=float("nan")),))
    with pytest.raises(RequestError, match="`none` has an empty text"):
        PromptSet(name="x", labels=(Label(id="cat"),), none=("",))


FULL = """
version: 1
name: x
templates: ["a {}"]
none: [nothing]
threshold: 0.5
labels:
  - {id: g, group: true}
  - {id: cat, name: kitty, synonyms: [puss], prompts: [p], description: d, parent: g, threshold: 0.1}
  - dog
"""


@pytest.mark.parametrize(
    "same",
    [
        FULL.replace("description: d", "description: other"),
        FULL.replace(", description: d", ""),
        FULL.replace("version: 1\nname: x", "name: 'x' # comment\nversion: 1"),
        FULL.replace("  - dog\n", "").replace("labels:\n", "labels:\n  - {id: dog, name: dog}\n"),
        FULL.replace("a {}", "a  {c}"),
        FULL.replace("threshold: 0.5\n", "task: single\nthreshold: 0.50\n"),
    ],
)
def test_the_hash_is_of_the_meaning(same: str) -> None:
    assert same != FULL
    assert parse(same).hash == parse(FULL).hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: x", "name: y"),
        ('["a {}"]', '["the {}"]'),
        ("[nothing]", "[void]"),
        ("threshold: 0.5", "threshold: 0.4"),
        ("kitty", "kitten"),
        ("[puss]", "[pussy-cat]"),
        ("[p]", "[q]"),
        ("threshold: 0.1", "threshold: 0.2"),
        (", parent: g", ""),
        ("- dog", "- dogs"),
        ("prompts: [p]", "prompts: [p], templates: []"),
    ],
)
def test_the_hash_covers_every_field(old: str, new: str) -> None:
    changed = FULL.replace(old, new)
    if "parent" in old:
        changed = changed.replace("- dog", "- {id: dog, parent: g}")
    if new.endswith("templates: []"):
        changed = changed.replace("synonyms: [puss], ", "")
    assert parse(changed).hash != parse(FULL).hash


def test_the_hash_of_a_multi_set_covers_negatives_and_task() -> None:
    hashes = {
        parse(HEAD + f"task: {task}\nlabels: [a, {{id: b{extra}}}]").hash
        for task, extra in [("single", ""), ("multi", ""), ("multi", ", negatives: [x]")]
    }
    assert len(hashes) == 3


def test_the_hash_does_not_change_between_versions() -> None:
    found = PromptSet(name="x", labels=(Label(id="cat"),), templates=("a {}",))
    assert found.hash == "d5b3e480656e2c019be1d4540babb4ea7569eca80eb100a7bcc38b660a226206"


def test_a_list_of_class_names(tmp_path: Path) -> None:
    file = tmp_path / "ImageNet_classes.TXT"
    file.write_bytes("\ufeffT-shirt\r\n\r\npolar_bear\r\ncafe\u0301\r\n".encode())
    found = load_prompt_set(str(file))
    assert (found.name, found.task) == ("imagenet-classes", "single")
    assert [(label.id, label.name, label.line) for label in found.labels] == [
        ("T-shirt", "T-shirt", 1),
        ("polar_bear", "polar bear", 3),
        ("caf\u00e9", "caf\u00e9", 4),
    ]
    assert found.prompts_by_class()["polar_bear"][0] == "itap of a polar bear."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat\ndog\ncat\n", "the id 'cat' comes twice, first on line 1 (c.txt, line 3)"),
        ("\n \n", "prompt set 'c' has no labels (c.txt)"),
        ("a\n\x00\n", "holds the character U+0000, which is not text (c.txt, line 2)"),
    ],
)
def test_mistakes_in_a_list_of_class_names(text: str, expected: str) -> None:
    assert expected in message(text, "c.txt")


def test_cupl() -> None:
    body = {"tench": ["A tench is a fish.", 'It: "green":  "x": y'], "goldfish": ["Orange."]}
    found = parse(json.dumps(body, indent=1), "CuPL_image.json")
    assert found.name == "cupl-image"
    assert found.prompts_by_class() == {
        "goldfish": ("Orange.",),
        "tench": ("A tench is a fish.", 'It: "green": "x": y'),
    }
    assert [label.line for label in found.labels] == [2, 6]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": ["x"],\n "a": ["y"]}', "the id 'a' comes twice, first on line 1 (c.json, line 2)"),
        ('{"a": ["x"],\n\n "b": "y"}', "the label 'b' holds no list of prompts; expected"),
        ('{"a": [1]}', "the label 'a' holds no list of prompts"),
        ('{"a": []}', "the label 'a' has no texts; give it templates or prompts (c.json, line 1)"),
        ('{"a": [""]}', "`prompts` of 'a' has an empty text"),
        ("{}", "prompt set 'c' has no labels (c.json)"),
        ('["a"]', "not a CuPL file"),
        ("3", "not a CuPL file"),
        ('{"a": ["x"],\n}', "not sound JSON"),
        ('{"a": ["\\ud800"]}', "U+D800"),
        ("[" * 100_000, "nested hundreds deep"),
    ],
)
def test_mistakes_in_cupl(text: str, expected: str) -> None:
    found = message(text, "c.json")
    assert expected in found
    assert "c.json" in found


def test_a_template_file_lies_beside_the_set(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# comment\nthe {c}\n\nmy {}\n")
    (tmp_path / "set.yaml").write_text(HEAD + "templates: [mine.txt]\nlabels: [cat]")
    found = load_prompt_set(str(tmp_path / "set.yaml"))
    assert found.prompts_by_class() == {"cat": ("the cat", "my cat")}
    (tmp_path / "mine.txt").write_text("my {}\nyour own\n")
    with pytest.raises(RequestError, match=r"'your own' has no place .* \(mine.txt, line 2\)"):
        load_prompt_set(str(tmp_path / "set.yaml"))


def test_a_set_in_a_store_and_its_template_file() -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/prompts/set.yaml", (HEAD + "templates: [mine.txt]\nlabels: [cat]").encode())
    store.pipe("/prompts/mine.txt", b"the {}\n")
    try:
        assert load_prompt_set("memory://prompts/set.yaml").prompts_by_class() == {"cat": ("the cat",)}
    finally:
        store.rm("/prompts", recursive=True)


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: str) -> str:
        with pytest.raises(RequestError) as caught:
            load_prompt_set(source)
        return str(caught.value)

    monkeypatch.chdir(tmp_path)
    assert refused("animalz").startswith("no shipped prompt set is called 'animalz'; did you mean 'animals'?")
    Path("pets").write_text("cat\n")
    assert "there is such a file, but its suffix must say its form" in refused("pets")
    assert refused("./pets").startswith(
        "'./pets' is no prompt set: expected a file that ends in .yaml, .yml, .txt"
    )
    assert refused("gone.yaml") == "the file 'gone.yaml' does not exist"
    Path("folder.yaml").mkdir()
    assert refused("folder.yaml").startswith("'folder.yaml' is a folder")
    assert "cannot be read" in refused("nosuchscheme://x/a.yaml")
    Path("latin.txt").write_bytes(b"cat\nch\xe8vre\n")
    assert refused("latin.txt") == "'latin.txt' is not UTF-8 text, on line 2; save it as UTF-8"


def test_no_credentials_in_errors() -> None:
    found = message("version: 2", "https://me:secret@example.org/cats.yaml?signature=secret")
    assert "(https://example.org/cats.yaml, line 1)" in found and "secret" not in found


def test_a_set_travels_to_workers() -> None:
    found = load_prompt_set("animals")
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "x"  # type: ignore[misc]


@pytest.mark.parametrize("name", prompt_sets())
def test_shipped_sets_are_sound_and_called_by_their_files(name: str) -> None:
    assert load_prompt_set(name).name == name


def test_shipped_sets_are_what_their_names_say() -> None:
    assert len(load_prompt_set("everyday").classes) == 30
    assert load_prompt_set("animals").paths()["dog"] == ("animal", "mammal", "pet", "dog")
    assert load_prompt_set("animals").classes[-1] == "__none__"
    flags = load_prompt_set("web-flags")
    assert flags.task == "multi" and all(label.negatives for label in flags.labels)


def test_shipped_templates_are_the_published_ones() -> None:
    zero_shot = pytest.importorskip("open_clip.zero_shot_metadata")
    assert shipped_templates("openai-80") == tuple(t("{}") for t in zero_shot.OPENAI_IMAGENET_TEMPLATES)
    assert shipped_templates("short") == tuple(t("{}") for t in zero_shot.SIMPLE_IMAGENET_TEMPLATES)
    assert template_sets() == ("illustration", "openai-80", "photo", "short")
