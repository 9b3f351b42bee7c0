"""The label sets of a run: which prompt set, at which top-k, kept in `text/` beside its text features."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from clip_transforms.elements import RequestError
from clip_transforms.fingerprint import labels_hash8
from clip_transforms.prompts import Label, PromptSet
from clip_transforms.storage import Store

DEFAULT_TOP_K = 5
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    """One prompt set as a run applies it."""

    prompt_set: PromptSet
    top_k: int = DEFAULT_TOP_K
    calibration: str | None = None  # hash
    probe: str | None = None  # hash

    @property
    def tag(self) -> str:
        """`<set>@<hash8>`: the name of the label folder and of the commit task."""
        hash8 = labels_hash8(self.prompt_set.hash, calibration=self.calibration, probe=self.probe)
        return f"{self.prompt_set.name}@{hash8}"

    def to_json(self) -> bytes:
        """What `text/<tag>.json` holds."""
        body = {**asdict(self), "prompt_set": _plain(self.prompt_set)}
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode()


def parse_label_set(data: bytes) -> LabelSet:
    """The label set of a `text/<tag>.json`.

    >>> pets = LabelSet(prompt_set=PromptSet(name="pets", labels=(Label(id="cat"), Label(id="dog"))))
    >>> parse_label_set(pets.to_json()) == pets
    True
    """
    body = json.loads(data)
    prompts = body.pop("prompt_set")
    labels = tuple(Label(**_tuples(label)) for label in prompts.pop("labels"))
    return LabelSet(prompt_set=PromptSet(labels=labels, **_tuples(prompts)), **body)


def keep_label_set(store: Store, label_set: LabelSet) -> None:
    """Write the label set into `text/` unless it is there; RequestError if it is there with another top-k."""
    name = f"text/{label_set.tag}.json"
    if store.create(name, label_set.to_json()):
        return
    kept = parse_label_set(store.read(name))
    if kept.top_k != label_set.top_k:
        raise RequestError(
            f"the run has the prompt set {label_set.tag} with --top-k {kept.top_k}, asked was "
            f"{label_set.top_k}; leave --top-k out, or label into another --output"
        )


def read_label_set(store: Store, tag: str) -> LabelSet:
    """One label set of a run."""
    return parse_label_set(store.read(f"text/{tag}.json"))


def read_part(store: Store, tag: str, name: str, parse: Callable[[bytes], T]) -> T:
    """The object that a label set was made with, parsed; RequestError where it is gone or cannot be read."""
    mend = "put it back, or name another label set of the run"
    try:
        return parse(store.read(name))
    except FileNotFoundError:
        problem = "is not there any more"
    except (ValueError, KeyError, TypeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
    raise RequestError(f"{store.join(name)} {problem}, and {tag} was made with it; {mend}")


def label_set_tags(store: Store) -> list[str]:
    """The tags of all label sets that a run has."""
    names = (entry.name for entry in store.list("text/"))
    return sorted(name[len("text/") : -len(".json")] for name in names if name.endswith(".json"))


def _plain(prompt_set: PromptSet) -> dict[str, Any]:
    body = {item.name: getattr(prompt_set, item.name) for item in fields(prompt_set) if item.name != "source"}
    body["labels"] = [
        {item.name: getattr(label, item.name) for item in fields(label) if item.name != "line"}
        for label in prompt_set.labels
    ]
    return body


def _tuples(body: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
