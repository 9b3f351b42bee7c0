"""YAML as a tree that knows its line numbers, refuses repeated keys and checks types as it is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

from clip_transforms.elements import RequestError
from clip_transforms.prompts.errors import mistake, nearest, tidy

_KINDS = {"str": "text", "bool": "boolean", "int": "number", "float": "number", "null": "nothing"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One value of the file: a text, boolean, number, nothing, another scalar, a list or a map."""

    kind: str
    line: int
    source: str
    raw: str = ""  # of a scalar, as it stands in the file
    items: tuple[Node, ...] = ()
    entries: dict[str, Node] = field(default_factory=dict)
    key_lines: dict[str, int] = field(default_factory=dict)

    def mistake(self, message: str) -> RequestError:
        """The error for something wrong with this value."""
        return mistake(message, source=self.source, line=self.line)

    def text(self, what: str) -> str:
        """The value as one tidy line of text. what: how a message calls it, such as `name`."""
        if self.kind in ("boolean", "number", "other"):
            read = {"boolean": "a boolean", "number": "a number"}.get(self.kind, "a date")
            mend = f'put it in quotes: "{self.raw}"'
            raise self.mistake(f"{what} is {self.raw}, which YAML reads as {read}; {mend}")
        if self.kind != "text":
            raise self.mistake(f"{what} is {self._described()}, expected a text")
        try:
            found = tidy(self.raw)
        except ValueError as error:
            raise self.mistake(f"{what} {error}")
        if not found:
            raise self.mistake(f"{what} is empty")
        return found

    def list_of(self, what: str) -> tuple[Node, ...]:
        """The items of a list."""
        if self.kind != "list":
            shape = f"write a list, as in {what}: [{self.raw or '...'}]"
            raise self.mistake(f"`{what}` is {self._described()}, expected a list; {shape}")
        return self.items

    def texts(self, what: str) -> tuple[str, ...]:
        """The items of a list of texts."""
        return tuple(item.text(f"an entry of `{what}`") for item in self.list_of(what))

    def number(self, what: str) -> float:
        """The value as a number."""
        try:
            if self.kind == "number":
                return float(self.raw.replace("_", ""))
        except ValueError:
            pass  # YAML's own spellings: 0x1F, 1:30, .inf
        raise self.mistake(f"`{what}` is {self._described()}, expected a number such as 0.5")

    def boolean(self, what: str) -> bool:
        """The value as a boolean."""
        if self.kind != "boolean":
            raise self.mistake(f"`{what}` is {self._described()}, expected true or false")
        return self.raw.lower() in ("true", "yes", "on")

    def map_of(self, what: str, known: Iterable[str]) -> dict[str, Node]:
        """The entries of a map whose keys are among `known`."""
        if self.kind != "map":
            raise self.mistake(f"{what} is {self._described()}, expected keys and values")
        known = list(known)
        for key in self.entries:
            if key not in known:
                hint = nearest(key, known) or f"; known are {', '.join(known)}"
                line = self.key_lines[key]
                raise mistake(f"unknown key '{key}' in {what}{hint}", source=self.source, line=line)
        return self.entries

    def _described(self) -> str:
        if self.kind == "text":
            return f"the text '{self.raw}'" if self.raw.strip() else "an empty text"
        if self.kind in ("boolean", "number", "other"):
            return f"{self.raw}"
        return {"nothing": "empty", "list": "a list", "map": "a map of keys and values"}[self.kind]


def read_yaml(text: str, *, source: str) -> Node:
    """The one document of a YAML file. Raises RequestError, with the line, for what is not sound YAML.

    >>> node = read_yaml("a: 1\\nb: [x, no]", source="x.yaml")
    >>> node.entries["b"].items[1].kind, node.entries["b"].line
    ('boolean', 2)
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "cannot be read"
        raise mistake(f"not sound YAML: {problem}", source=source, line=mark.line + 1 if mark else None)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise mistake(f"not sound YAML: it holds {chr(error.character)!r}", source=source, line=line)
    except RecursionError:
        raise mistake("not sound YAML: its lists are nested hundreds deep", source=source)
    if root is None:
        raise mistake("the file is empty", source=source)
    return _Reader(source).node(root)


class _Reader:
    """Turns PyYAML's nodes into ours; an alias shares its anchor's node, so aliases cannot blow up."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.done: dict[int, Node | None] = {}

    def node(self, raw: yaml.Node) -> Node:
        line = raw.start_mark.line + 1
        if id(raw) in self.done:
            known = self.done[id(raw)]
            if known is None:
                raise mistake("an anchor holds itself", source=self.source, line=line)
            return known
        self.done[id(raw)] = None
        made = self._make(raw, line)
        self.done[id(raw)] = made
        return made

    def _make(self, raw: yaml.Node, line: int) -> Node:
        if isinstance(raw, yaml.SequenceNode):
            items = tuple(self.node(item) for item in raw.value)
            return Node(kind="list", line=line, source=self.source, items=items)
        if isinstance(raw, yaml.MappingNode):
            return self._map(raw, line)
        kind = _KINDS.get(raw.tag.removeprefix("tag:yaml.org,2002:"), "other")
        if raw.tag.startswith("!"):
            message = f"the tag {raw.tag} is not known; put a text with ! in quotes"
            raise mistake(message, source=self.source, line=line)
        return Node(kind=kind, line=line, source=self.source, raw=str(raw.value))

    def _map(self, raw: yaml.MappingNode, line: int) -> Node:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in raw.value:
            key = self.node(key_node)
            name = key.raw if key.kind == "other" and key.raw == "<<" else key.text("a key")
            if name in entries:
                first = f"first on line {lines[name]}"
                raise key.mistake(f"the key '{name}' comes twice, {first}")
            entries[name] = self.node(value_node)
            lines[name] = key.line
        return Node(kind="map", line=line, source=self.source, entries=entries, key_lines=lines)
