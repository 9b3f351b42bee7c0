"""`DATASET_CARD.md` of a finished data set: the facts of its `dataset.json`, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clip_transforms.evaluation.text import percent
from clip_transforms.prompts import NONE
from clip_transforms.review.final_facts import images_since
from clip_transforms.review.report_format import flat

_MOST_ROWS = 200  # labels in the card's table; the JSON holds all
_LONGEST = 120  # characters of a figure; longer ones are in the JSON alone

_MEANINGS = {
    "reviewer": "people; where they differed, most of them",
    "probe": "a probe on reviewed images, above a threshold with a guarantee",
    "model_auto_accept": "the model, above a threshold with a guarantee",
    "model": "the model, without any guarantee (--all)",
    "undecided": "nobody: without a label",
}


def card(content: Mapping[str, Any]) -> bytes:
    """The card, Markdown: who decided, labels, how often the model was right, what it was made with."""
    audit, reviews = content["audit"], content["reviews"]
    lines = [
        f"# {_words(content['name'])}",
        "",
        f"{content['decided']:,} of {content['images']:,} images have a final label of the set "
        f"`{content['prompt_set']}` ({content['task']}-label).",
        "",
        "## Who decided",
        "",
        *_table(
            ("decided by", "images", "share", "who that is"),
            [
                (name, f"{count:,}", percent(count / max(1, content["images"])), _MEANINGS[name])
                for name, count in content["decided_by"].items()
            ],
        ),
        "",
        "## Labels",
        "",
        *_labels(content),
        "",
        "## How good the labels are",
        "",
        *_quality(content, audit),
        f"- Reviews: {reviews['images']:,} images; {reviews['outvoted']:,} decided by most of several reviewers; "
        f"{reviews['undecided_conflicts']:,} undecided, as reviewers differ and none has a majority.",
        *(
            [f"- Reviewed, but not in the run: {reviews['not_in_run']:,} images."]
            if reviews["not_in_run"]
            else []
        ),
        *(
            [
                f"- Reviewed before the image changed, so not counted: {reviews['of_earlier_pictures']:,} images."
            ]
            if reviews["of_earlier_pictures"]
            else []
        ),
        *(_outside(reviews["labels_not_in_set"])),
        "",
        "## What it was made with",
        "",
        *[f"- {key}: {value}" for key, value in _made_with(content)],
        "",
    ]
    return "\n".join(lines).encode("utf-8", "replace")


def _labels(content: Mapping[str, Any]) -> list[str]:
    found = sorted(content["labels"].items(), key=lambda entry: (-entry[1]["images"], entry[0]))
    rows = [
        (
            _words(key),
            f"{entry['images']:,}",
            ", ".join(f"{count:,} {name}" for name, count in entry["decided_by"].items()) or "-",
            _words(entry["description"] or ""),
        )
        for key, entry in found[:_MOST_ROWS]
    ]
    lines = _table(("label", "images", "decided by", "description"), rows)
    if len(found) > _MOST_ROWS:
        lines += ["", f"{len(found) - _MOST_ROWS:,} more are in dataset.json."]
    if content["images_without_labels"]:
        lines += ["", f"{content['images_without_labels']:,} decided images have none of the labels."]
    return lines


def _quality(content: Mapping[str, Any], audit: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, words in (("all", "all images"), ("auto_accepted", "images that are accepted unseen")):
        found = audit[key]
        if found["images"]:
            low, high = found["error_wilson_95"]
            lines.append(
                f"- The model's label of {words} is wrong for an estimated {percent(found['error'])} "
                f"(95 % Wilson interval {100 * low:.1f} to {100 * high:.1f} %): reviewers agreed with "
                f"{found['agreed']:,} of {found['images']:,} images of a uniform random audit."
            )
    if not lines:
        lines.append("- There is no reviewed random audit, so how often the model is wrong is not known.")
    if audit["drawn"] > audit["all"]["images"]:
        lines.append(f"- Of the audit's {audit['drawn']:,} images {audit['all']['images']:,} are decided.")
    if audit["learnt_by_the_probe"]:
        lines.append(
            f"- Left out are {audit['learnt_by_the_probe']:,} audit images that the probe has learnt from."
        )
    elif content["probe"] and audit["all"]["images"] and not content["probe"]["trained_on"]:
        lines.append(
            "- What the probe has learnt from is not known; audit images among it flatter these figures."
        )
    calibration = content["calibration"] or {"accept": {}, "figures": {}}
    claim = calibration["figures"].get("claim") or {}
    if calibration["accept"] and claim.get("target") and claim.get("confidence"):
        lines.append(
            f"- Promised by the calibration of labels that are accepted unseen: a precision of at least "
            f"{percent(claim['target'])}, at a confidence of {percent(claim['confidence'])}."
        )
    if since := images_since(content):
        lines.append(
            f"- Not promised of the {since:,} images that the run has more than when it was calibrated: they are "
            "accepted by the same thresholds."
        )
    return lines


def _outside(labels: Mapping[str, int]) -> list[str]:
    if not labels:
        return []
    told = ", ".join(f"{_words(key)} ({count:,})" for key, count in labels.items())
    return [f"- Undecided, as reviewers gave labels that the set does not have: {told}."]


def _made_with(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [
        ("encoder", content["encoder"]),
        ("prompt set", f"{content['prompt_set']}, sha256 {content['prompt_set_hash']}"),
        ("fingerprint of the labels", content["fingerprint"]),
        ("fingerprint of the embeddings", content["embedding_fingerprint"]),
        ("run", content["run"]),
        ("sources", ", ".join(content["sources"])),
        ("date", content["created_at"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in content["versions"].items())),
    ]
    for kind in ("calibration", "probe"):
        entry = content[kind]
        if entry:
            told = [(key, value) for key, value in flat(entry) if len(value) <= _LONGEST]
            found += [(f"{kind}, {key}", value) for key, value in told]
    return [(key, _words(str(value))) for key, value in found]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _words(text: str) -> str:
    """Text from outside in one line of a Markdown table.

    >>> _words("a|b\\nc <i>")
    'a\\\\|b c &lt;i>'
    """
    if text == NONE:
        return "none of these"
    plain = " ".join(text.split())
    for char, shown in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("*", "\\*")):
        plain = plain.replace(char, shown)
    return plain
