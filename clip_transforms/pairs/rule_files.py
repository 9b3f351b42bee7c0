"""Rule sets from YAML: the shipped ones, files on disk or at any fsspec url, and what a run has recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clip_transforms.elements import RequestError
from clip_transforms.filesystems import open_filesystem
from clip_transforms.pairs.rule_nodes import RuleReader
from clip_transforms.pairs.rules import RuleSet
from clip_transforms.prompts import PromptSet
from clip_transforms.prompts.errors import mistake, nearest, shown
from clip_transforms.prompts.nodes import read_yaml

VERSION = 1
_SUFFIXES = (".yaml", ".yml")
_SET_KEYS = ("version", "name", "description", "sources", "rules")


def rule_sets() -> tuple[str, ...]:
    """The names of the shipped rule sets, sorted.

    >>> rule_sets()
    ('coyo-700m', 'datacomp-basic', 'datacomp-laion-2b', 'laion-400m', 'web')
    """
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def load_rules(sources: Iterable[str], *, storage_options: Mapping[str, object] | None = None) -> RuleSet:
    """The rules of shipped names and of YAML files, one after the other, with the prompt sets that they ask for.

    Raises RequestError, with file and line, for whatever is wrong; also where the language detector is missing.
    """
    found = [_load(source, dict(storage_options or {})) for source in sources]
    if not found:
        raise RequestError(f"no rules are given; shipped are {', '.join(rule_sets())}")
    sets: dict[str, PromptSet] = {}
    for each in found:
        for name, prompts in each.prompt_sets.items():
            if name in sets and sets[name].hash != prompts.hash:
                raise RequestError(f"two different prompt sets are called '{name}'; rename one")
            sets[name] = prompts
    return RuleSet(
        name="+".join(each.name for each in found),
        rules=tuple(rule for each in found for rule in each.rules),
        prompt_sets=sets,
    )


def parse_rules(
    text: str,
    *,
    source: str,
    storage_options: Mapping[str, object] | None = None,
    recorded: Mapping[str, PromptSet] | None = None,
) -> RuleSet:
    """The rule set that a YAML text holds. source: the file, for messages, and where prompt sets lie beside it.

    recorded: as of RuleReader.
    """
    root = read_yaml(text, source=source)
    entries = root.map_of("the rule set", _SET_KEYS)
    for key, example in (("version", "version: 1"), ("name", "name: my-rules"), ("rules", "rules: [...]")):
        if key not in entries:
            raise mistake(f"the key '{key}' is missing; write `{example}`", source=source, line=root.line)
    if entries["version"].number("version") != VERSION:
        raise entries["version"].mistake(f"version {entries['version'].raw} is not known, expected {VERSION}")
    name = entries["name"].text("the name of the rule set")
    if "description" in entries:
        entries["description"].text("`description`")
    if "sources" in entries:
        entries["sources"].texts("sources")
    if entries["rules"].kind == "nothing" or not entries["rules"].list_of("rules"):
        raise mistake(f"rule set '{name}' has no rules", source=source, line=root.key_lines["rules"])
    reader = RuleReader(source=source, options=dict(storage_options or {}), recorded=recorded or {})
    rules = tuple(reader.rule(node) for node in entries["rules"].items)
    return RuleSet(name=name, rules=rules, prompt_sets=reader.sets)


def rules_from_spec(
    spec: Mapping[str, Any],
    *,
    storage_options: Mapping[str, object] | None = None,
    recorded: Iterable[PromptSet] = (),
) -> RuleSet:
    """What `RuleSet.spec` has said, read again.

    recorded: prompt sets that the run has. Where all that the rules ask for are among them, their files are not
    needed; else RequestError is raised where one has changed since.
    """
    body = {"version": VERSION, "name": spec["name"], "rules": spec["rules"]}
    hashes = spec["prompt_sets"]
    kept = {prompts.name: prompts for prompts in recorded if hashes.get(prompts.name) == prompts.hash}
    found = parse_rules(
        json.dumps(body),
        source="",
        storage_options=storage_options,
        recorded=kept if len(kept) == len(hashes) else {},
    )
    for name, prompts in found.prompt_sets.items():
        if prompts.hash != hashes.get(name):
            raise RequestError(
                f"the prompt set '{name}' of the rules has changed since they were recorded: put its file back as "
                "it was; or finish with `beamclip label --output RUN --resume`, then choose anew with "
                "`beamclip filter --from-run RUN --rules ...`"
            )
    return found


def _load(source: str, options: dict[str, object]) -> RuleSet:
    if source in rule_sets():
        text = _folder().joinpath(f"{source}.yaml").read_text(encoding="utf-8")
        return parse_rules(text, source=f"{source}.yaml", storage_options=options)
    if not source.lower().endswith(_SUFFIXES):
        hint = nearest(source, rule_sets()) or "."
        raise RequestError(
            f"--rules {shown(source)}: no shipped rule set is called so{hint} Shipped are "
            f"{', '.join(rule_sets())}; a file ends in {' or '.join(_SUFFIXES)}"
        )
    try:
        filesystem, path = open_filesystem(source, options)
        with filesystem.open(path, "rb") as file:
            text = bytes(file.read()).decode("utf-8-sig")
    except FileNotFoundError:
        raise RequestError(f"--rules {shown(source)}: there is no such file") from None
    except UnicodeDecodeError:
        raise RequestError(f"--rules {shown(source)}: it is not UTF-8 text") from None
    except OSError as error:
        raise RequestError(f"--rules {shown(source)}: it cannot be read: {shown(str(error))}") from error
    return parse_rules(text, source=source, storage_options=options)


def _folder() -> Path:
    return Path(__file__).parent / "rule_sets"
