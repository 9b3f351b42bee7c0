"""The rules of pairs: what each keeps, at its bounds and without a value; rule sets and their mistakes."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clip_transforms.elements import RequestError
from clip_transforms.pairs.comparisons import Comparison, parse_comparison
from clip_transforms.pairs.language import COMMON, detect
from clip_transforms.pairs.rule_files import load_rules, parse_rules, rule_sets, rules_from_spec
from clip_transforms.pairs.rules import RuleSet, check_inputs, judge, label_column
from clip_transforms.prompts import load_prompt_set

SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("similarity", pa.float32()),
        ("extra", pa.string()),
        ("src_stars", pa.int64()),
    ]
)
GOOD = {
    "caption": "a red car parked in the street",
    "width": 640,
    "height": 480,
    "bytes": 50_000,
    "similarity": 0.35,
    "extra": None,
    "src_stars": None,
}


def table(*changes: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{**GOOD, **change} for change in changes], schema=SCHEMA)


def rules(*lines: str) -> RuleSet:
    body = "\n".join(f"  - {{{line}}}" for line in lines)
    return parse_rules(f"version: 1\nname: test\nrules:\n{body}\n", source="test.yaml")


def reasons(pairs: pa.Table, found: RuleSet) -> list[str | None]:
    return [found.reasons[place] if place >= 0 else None for place in judge(pairs, found)]


def kept(line: str, *changes: dict[str, Any]) -> list[bool]:
    """What one rule keeps; a row at a time it is the same."""
    found = rules(line)
    pairs = table(*changes)
    answers = [place < 0 for place in judge(pairs, found)]
    (rule,) = found.rules
    one_by_one = [rule.judge_row(row) for row in pairs.to_pylist()]
    assert [keep for keep, _ in one_by_one] == answers
    assert {reason for keep, reason in one_by_one if not keep} <= {rule.reason}
    assert all(reason is None for keep, reason in one_by_one if keep)
    return answers


# --- each rule ----------------------------------------------------------------------------------------------


def test_characters_are_pythons() -> None:
    captions = ["abcd", "abcde", "  a  ", "äöü", "äöüß€", "👩‍👩‍👧", "", None]
    changes = [{"caption": caption} for caption in captions]
    long_enough = [len(text) >= 5 for text in captions[:-1]]
    assert kept("rule: caption_characters, at_least: 5", *changes) == [*long_enough, False]
    assert kept("rule: caption_characters, at_least: 5, missing: keep", *changes) == [*long_enough, True]
    assert kept("rule: caption_characters, at_most: 4", *changes)[:2] == [True, False]


def test_words_are_pythons() -> None:
    captions = ["one two three", " one\ttwo \n three ", "one two", "one\x1ctwo\u2003three", "   ", "", None]
    expected = [len(text.split()) >= 3 for text in captions[:-1]]
    assert expected == [True, True, False, True, False, False]
    changes = [{"caption": caption} for caption in captions]
    assert kept("rule: caption_words, at_least: 3", *changes) == [*expected, False]
    assert kept("rule: caption_words, at_most: 2", *changes)[:3] == [False, False, True]


def test_language() -> None:
    captions = ["a red car parked in the street", "ein rotes Auto steht auf der Straße", None, "  "]
    changes = [{"caption": caption} for caption in captions]
    assert kept("rule: language, any_of: [en]", *changes) == [True, False, False, False]
    assert kept("rule: language, any_of: [de, en]", *changes) == [True, True, False, False]
    assert kept("rule: language, any_of: [en], missing: keep", *changes) == [True, False, True, True]
    codes, chances = detect(["Dog", *captions])
    assert codes[1:] == ["en", "de", None, None]
    assert chances[1] > 0.9 and chances[2] > 0.9 and chances[0] < 0.5 and np.isnan(chances[3:]).all()
    assert kept("rule: language, any_of: [en], probability: 0.9", *changes[:1]) == [True]
    sure = [{"caption": "Map of France"}]
    assert kept("rule: language, any_of: [en]", *sure) == [True]
    assert kept("rule: language, any_of: [en], probability: 0.9", *sure) == [False]


def test_fewer_languages_to_choose_from_help_short_captions() -> None:
    captions = [
        *(
            "a cat on a sofa",
            "beautiful sunset over the ocean",
            "Set of 4 dining chairs",
            "Happy Birthday Card",
        ),
        *("iPhone 12 case blue", "woman walking in the park", "chocolate cake recipe", "Map of France"),
    ]
    codes, _ = detect(captions)
    assert codes.count("en") == 8
    assert len(COMMON) == 43


def test_sides_and_their_ratio() -> None:
    sizes = [(200, 600), (600, 200), (199, 199), (200, 601), (200, 200), (1, 3)]
    changes = [{"width": width, "height": height} for width, height in sizes]
    assert kept("rule: smaller_side, at_least: 200", *changes) == [True, True, False, True, True, False]
    assert kept("rule: aspect_ratio, at_most: 3", *changes) == [True, True, True, False, True, True]
    assert kept("rule: aspect_ratio, at_least: 2, at_most: 3", *changes) == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]


def test_sides_of_the_input() -> None:
    changes = [
        {"extra": json.dumps({"original_width": 900, "original_height": 100})},
        {"extra": json.dumps({"original_width": "300", "original_height": "300"})},  # as CSV has it
        {"extra": json.dumps({"original_width": 300})},
        {"extra": None},
        {"extra": json.dumps({"original_width": 0, "original_height": 5})},
    ]
    columns = "width: original_width, height: original_height"
    assert kept(f"rule: smaller_side, at_least: 200, {columns}", *changes) == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert kept(f"rule: aspect_ratio, at_most: 3, {columns}", *changes) == [False, True, False, False, False]
    expected = [False, True, True, True, True]
    assert kept(f"rule: aspect_ratio, at_most: 3, {columns}, missing: keep", *changes) == expected


def test_bytes_and_similarity() -> None:
    sizes = [{"bytes": size} for size in (4999, 5000, 5001)]
    assert kept("rule: image_bytes, at_least: 5000", *sizes) == [False, True, True]
    below, above = np.nextafter(np.float32(0.3), np.float32([0, 1])).tolist()
    scores = [{"similarity": score} for score in (0.3, below, above, None, float("nan"), -1.0)]
    assert kept("rule: similarity, at_least: 0.3", *scores) == [True, False, True, False, False, False]
    assert kept("rule: similarity, at_least: 0.3, missing: keep", *scores)[3:] == [True, True, False]


LABELS = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32()), ("cosine", pa.float32())]))


def labelled(*rows: dict[str, float] | None) -> pa.Table:
    listed = [
        None
        if row is None
        else [{"label": name, "score": score, "cosine": 0.0} for name, score in row.items()]
        for row in rows
    ]
    column = pa.array(listed, LABELS)
    return table(*[{}] * len(rows)).append_column(label_column("web-flags"), column)


def test_labels() -> None:
    found = rules("rule: label, set: web-flags, label: watermark, at_most: 0.75")
    pairs = labelled(
        {"watermark": 0.76, "logo": 0.1},
        {"logo": 0.9, "watermark": 0.75},
        {"logo": 0.75},  # the watermark's score is no more
        None,
        {"watermark": 0.0},
    )
    assert reasons(pairs, found) == ["label_watermark", None, None, "label_watermark", None]
    assert found.prompt_sets["web-flags"].hash == load_prompt_set("web-flags").hash
    with pytest.raises(RequestError, match=r"'web-flags': the 1 best classes .* do not tell .* 'watermark'"):
        judge(labelled({"logo": 0.76}), found)


def test_columns() -> None:
    extras = [{"punsafe": 0.4}, {"punsafe": "0.4"}, {"punsafe": 0.5}, {"punsafe": None}, {"punsafe": "?"}, {}]
    changes = [{"extra": json.dumps(extra)} for extra in extras] + [{"extra": None}]
    line = "rule: column, keep: punsafe < 0.5"
    assert kept(line, *changes) == [True, True, False, False, False, False, False]
    assert kept(f"{line}, missing: keep", *changes) == [True, True, False, True, True, True, True]
    words = [{"extra": json.dumps({"NSFW": word})} for word in ("UNLIKELY", "NSFW", "", None, 1, True)]
    assert kept("rule: column, keep: NSFW == UNLIKELY", *words) == [True, False, False, False, False, False]
    assert kept("rule: column, keep: NSFW != UNLIKELY", *words) == [False, True, False, False, True, True]


def test_carried_columns_come_before_extra() -> None:
    changes = [{"src_stars": 5, "extra": '{"stars": 1}'}, {"src_stars": 2, "extra": '{"stars": 9}'}]
    for name in ("stars", "src_stars"):
        assert kept(f"rule: column, keep: {name} >= 3", *changes) == [True, False]
    assert kept("rule: column, keep: extra.stars >= 3", *changes) == [False, True]
    assert kept("rule: column, keep: width > 600", {"extra": '{"width": 1}'}) == [True]
    found = rules(
        "rule: column, keep: stars > 1", "rule: column, keep: other > 1", "rule: caption_words, at_least: 1"
    )
    assert found.columns(SCHEMA.names) == ("caption", "src_stars", "extra")


# --- comparisons --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "column", "sign", "value"),
    [
        ("punsafe<0.5", "punsafe", "<", 0.5),
        ("  a_b.c-d  >=  -1e-3 ", "a_b.c-d", ">=", -0.001),
        ("a == .5", "a", "==", 0.5),
        ("NSFW != UNLIKELY", "NSFW", "!=", "UNLIKELY"),
        ("NSFW == 'not known'", "NSFW", "==", "not known"),
        ('NSFW == "0.5"', "NSFW", "==", "0.5"),
        ("n == 'say \"x\"'", "n", "==", 'say "x"'),
        ("ok == true", "ok", "==", "true"),
    ],
)
def test_comparisons(text: str, column: str, sign: str, value: float | str) -> None:
    found = parse_comparison(text)
    assert found == Comparison(column=column, operator=sign, value=value)
    assert parse_comparison(str(found)) == found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("punsafe", "is no comparison"),
        ("punsafe <", "is no comparison"),
        ("< 0.5", "is no comparison"),
        ("a = 1", "has a single ="),
        ("a < b < c", "more than one comparison"),
        ("a < 1 and b < 2", "more than one comparison"),
        ("a == 1 or True", "more than one comparison"),
        ("a == f(x)", "more than one comparison"),
        ("a == 'x", "a quote that is not closed"),
        ("a == 'x' or 'y'", "more than one text"),
        ("a < b", "only numbers have one"),
        ("a < '1'", "only numbers have one"),
        ("a < 1e999", "too large"),
        ("__import__('os').system('x') == 1", "is no comparison"),
    ],
)
def test_what_is_no_comparison(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_comparison(text)


def test_booleans_compare_as_words_and_as_numbers() -> None:
    for text, expected in (("ok == true", [True, False, True]), ("ok == 1", [True, False, False])):
        holds, missing = parse_comparison(text).holds([True, False, "true"])
        assert holds.tolist() == expected
        assert missing.tolist() == [False, False, text == "ok == 1"]


# --- sets ---------------------------------------------------------------------------------------------------


def test_the_first_rule_that_drops_names_the_reason() -> None:
    found = rules(
        "rule: caption_words, at_least: 3",
        "rule: smaller_side, at_least: 200, reason: too_small",
        "rule: aspect_ratio, at_most: 3",
        "rule: image_bytes, at_least: 5000, reason: too_small",
    )
    assert found.reasons == ("caption_words", "too_small", "aspect_ratio")
    pairs = table(
        {},
        {"caption": "two words", "width": 5},
        {"width": 5, "bytes": 1},
        {"width": 2000},
        {"width": 2000, "bytes": 1},
        {"bytes": 1},
    )
    assert reasons(pairs, found) == [
        None,
        "caption_words",
        "too_small",
        "aspect_ratio",
        "aspect_ratio",
        "too_small",
    ]
    assert judge(pairs, found).dtype == np.int16
    assert judge(pairs.slice(0, 0), found).tolist() == []
    again = pickle.loads(pickle.dumps(found))
    assert judge(pairs, again).tolist() == judge(pairs, found).tolist()


def test_rows_and_their_order_change_nothing() -> None:
    generator = np.random.default_rng(0)
    words = ["a", "red", "car", "in", "the", "street", "Straße", "rotes", "Auto"]
    pairs = table(
        *(
            {
                "caption": " ".join(generator.choice(words, generator.integers(0, 8))) or None,
                "width": int(generator.integers(50, 900)),
                "height": int(generator.integers(50, 900)),
                "bytes": int(generator.integers(1, 20_000)),
                "similarity": float(generator.uniform(0, 0.6)),
            }
            for _ in range(500)
        )
    )
    found = load_rules(["datacomp-basic", "laion-400m"])
    whole = judge(pairs, found)
    assert len(set(whole.tolist())) == 7  # each rule drops some, and some are kept
    order = generator.permutation(500)
    assert judge(pairs.take(pa.array(order)), found).tolist() == whole[order].tolist()
    pieces = [judge(pairs.slice(start, 37), found) for start in range(0, 500, 37)]
    assert np.concatenate(pieces).tolist() == whole.tolist()
    chunked = pa.concat_tables([pairs.slice(start, 37) for start in range(0, 500, 37)])
    assert judge(chunked, found).tolist() == whole.tolist()


def test_the_shipped_sets() -> None:
    assert rule_sets() == ("coyo-700m", "datacomp-basic", "datacomp-laion-2b", "laion-400m", "web")
    for name in rule_sets():
        found = load_rules([name])
        assert found.name == name
        assert rules_from_spec(json.loads(json.dumps(found.spec()))).spec() == found.spec()
    assert list(load_rules(["web"]).prompt_sets) == ["web-flags"]


def test_datacomp_basic_is_that_of_its_code() -> None:
    """(words > 2) & (characters > 5) & (smaller side >= 200) & (ratio <= 3.0), of English."""
    sides = [(199, 300), (200, 600), (200, 601), (640, 480)]
    captions = ["the cat", "a b cd", "a b c", "the red car", "a red car in the street"]
    changes = [
        {"caption": caption, "width": width, "height": height}
        for caption in captions
        for width, height in sides
    ]
    found = load_rules(["datacomp-basic"])
    english = [code == "en" for code in detect([change["caption"] for change in changes])[0]]
    expected = [
        is_english
        and len(change["caption"].split()) > 2
        and len(change["caption"]) > 5
        and min(change["width"], change["height"]) >= 200
        and max(change["width"], change["height"]) / min(change["width"], change["height"]) <= 3.0
        for change, is_english in zip(changes, english, strict=True)
    ]
    assert sum(expected) >= 4
    assert [place < 0 for place in judge(table(*changes), found)] == expected


def test_laion_400m() -> None:
    pairs = table({}, {"caption": "cats"}, {"bytes": 4999}, {"similarity": 0.29}, {"caption": None})
    assert reasons(pairs, load_rules(["laion-400m"])) == [
        None,
        "caption_characters",
        "image_bytes",
        "similarity",
        "caption_characters",
    ]


def test_files_with_prompt_sets_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("version: 1\nname: mine\ntask: multi\nlabels: [cat, dog]\n")
    body = "version: 1\nname: a\nrules:\n  - {rule: label, set: mine.yaml, label: cat, at_most: 0.5}\n"
    (tmp_path / "a.yaml").write_text(body)
    found = load_rules([str(tmp_path / "a.yaml"), "laion-400m"])
    assert (found.name, list(found.prompt_sets)) == ("a+laion-400m", ["mine"])
    assert found.reasons[0] == "label_cat"
    monkeypatch.chdir(tmp_path)
    spec = load_rules(["a.yaml"]).spec()
    monkeypatch.chdir("/")
    assert rules_from_spec(spec).spec() == spec
    (tmp_path / "mine.yaml").write_text("version: 1\nname: mine\ntask: multi\nlabels: [cat, bird]\n")
    with pytest.raises(RequestError, match="the prompt set 'mine' of the rules has changed"):
        rules_from_spec(spec)
    changed, recorded = load_prompt_set(str(tmp_path / "mine.yaml")), found.prompt_sets["mine"]
    with pytest.raises(RequestError, match="has changed"):
        rules_from_spec(spec, recorded=[changed])
    for text in (None, "version: 1\nname: other\ntask: multi\nlabels: [cat, bird]\n", "not YAML: ["):
        if text is not None:
            (tmp_path / "mine.yaml").write_text(text)
        assert rules_from_spec(spec, recorded=[changed, recorded]).spec() == spec
    (tmp_path / "mine.yaml").unlink()
    again = rules_from_spec(spec, recorded=[recorded])
    assert (again.spec(), again.prompt_sets) == (spec, {"mine": recorded})
    with pytest.raises(RequestError, match="does not exist"):
        rules_from_spec(spec)


def test_columns_that_the_input_does_not_have() -> None:
    found = parse_rules(
        "version: 1\nname: x\nrules:\n- {rule: column, keep: punsave < 0.5}\n", source="x.yaml"
    )
    pairs = table({"extra": '{"punsafe": 0.1}', "src_stars": 1})
    with pytest.raises(RequestError) as caught:
        check_inputs(pairs, found)
    assert str(caught.value) == (
        "the rule 'column' asks for the column 'punsave', which the input does not have; it has punsafe, "
        "src_stars; did you mean 'punsafe'? (x.yaml, line 4)"
    )
    check_inputs(pairs, rules("rule: column, keep: punsafe < 0.5", "rule: column, keep: stars < 2"))
    check_inputs(pairs.slice(0, 0), found)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "rule: caption_word, at_least: 3",
            "the rule 'caption_word' is not known; did you mean 'caption_words'?",
        ),
        ("at_least: 3", "a rule has no `rule`"),
        ("rule: caption_words", "has neither `at_least` nor `at_most`"),
        ("rule: caption_words, at_least: x", "`at_least` is the text 'x', expected a number"),
        (
            "rule: caption_words, at_least: -1",
            "`at_least` of 'caption_words' is -1, expected a number from 0",
        ),
        ("rule: caption_words, at_least: 2.5", "is 2.5, expected a whole number"),
        ("rule: caption_words, at_least: 5, at_most: 4", "keeps nothing: at_least 5 is above at_most 4"),
        ("rule: caption_words, atleast: 5", "unknown key 'atleast' in a rule; did you mean 'at_least'?"),
        ("rule: caption_words, at_least: 5, keep: a < 1", "unknown key 'keep' in the rule 'caption_words'"),
        ("rule: caption_words, at_least: 5, at_least: 6", "the key 'at_least' comes twice"),
        ("rule: caption_words, at_least: 5, missing: maybe", "`missing` is 'maybe', expected keep or drop"),
        ("rule: caption_words, at_least: 5, reason: no_caption", "the reason 'no_caption' is one that"),
        ("rule: aspect_ratio, at_most: 0.5", "`at_most` of 'aspect_ratio' is 0.5, expected a number from 1"),
        ("rule: aspect_ratio, at_most: 2, width: w", "names a column for one side only"),
        ("rule: similarity, at_least: 30", "is 30, expected a number from -1 to 1"),
        ("rule: similarity, at_least: .nan", "expected a number"),
        ("rule: language", "has no `any_of`"),
        ("rule: language, any_of: []", "has no `any_of`"),
        ("rule: language, any_of: [no]", 'put it in quotes: "no"'),
        ("rule: language, any_of: [english]", "the language 'english' is not known"),
        ("rule: language, any_of: [en], probability: 2", "`probability` is 2, expected a number from 0 to 1"),
        ("rule: label, set: web-flags, label: watermark", "has no `at_most`"),
        ("rule: label, set: web-flags, label: watermarks, at_most: 0.5", "did you mean 'watermark'?"),
        (
            "rule: label, set: web-flag, label: watermark, at_most: 0.5",
            "no shipped prompt set is called 'web-flag'",
        ),
        ("rule: label, set: web-flags, label: watermark, at_most: 1", "`at_most` is 1, expected a score"),
        ("rule: column", "has no `keep`"),
        ("rule: column, keep: a < 1 and b < 2", "more than one comparison"),
    ],
)
def test_mistakes_name_the_line(line: str, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        rules("rule: image_bytes, at_least: 1", line)
    assert problem in str(caught.value)
    assert str(caught.value).endswith("(test.yaml, line 5)")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty (r.yaml)"),
        ("name: x\nrules: []", "the key 'version' is missing"),
        ("version: 2\nname: x\nrules: [a]", "version 2 is not known, expected 1 (r.yaml, line 1)"),
        ("version: 1\nname: x\nrules: []", "rule set 'x' has no rules (r.yaml, line 3)"),
        ("version: 1\nname: x\nrules:", "rule set 'x' has no rules (r.yaml, line 3)"),
        (
            "version: 1\nname: x\nrules: [a]",
            "a rule is the text 'a', expected keys and values (r.yaml, line 3)",
        ),
        ("version: 1\nname: x\nrule: []", "unknown key 'rule' in the rule set; did you mean 'rules'?"),
        ("[" * 1000, "nested hundreds deep"),
        ("version: 1\n\tname: x", "not sound YAML"),
    ],
)
def test_mistakes_of_whole_files(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_rules(text, source="r.yaml")
    assert problem in str(caught.value)


def test_sets_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no shipped rule set is called so; did you mean 'web'"):
        load_rules(["wep"])
    with pytest.raises(RequestError, match="there is no such file"):
        load_rules([str(tmp_path / "gone.yaml")])
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="not UTF-8"):
        load_rules([str(tmp_path / "bad.yaml")])
    with pytest.raises(RequestError, match="no rules are given; shipped are coyo-700m"):
        load_rules([])


def test_without_the_detector_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    monkeypatch.setattr("clip_transforms.pairs.language._models", {})
    with pytest.raises(RequestError, match=r"needs py3langid; pip install 'beamclip\[filter\]'") as caught:
        load_rules(["datacomp-basic"])
    assert "(datacomp-basic.yaml, line " in str(caught.value)
    load_rules(["web", "laion-400m"])  # need none
