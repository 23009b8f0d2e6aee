"""From a parsed YAML document to typed values; whatever is wrong is kept with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from drtool.config.nearest import nearest
from drtool.config.shapes import (
    KIND,
    Choice,
    ListOf,
    NamedValues,
    OneOf,
    OneValue,
    Record,
    Shape,
)

MERGE = "<<"
MAX_MERGES = 20
# A policy of a hundred sources has a few thousand keys and values; through aliases a short one could have
# more than there are atoms.
MAX_NODES = 50_000
MAX_PROBLEMS = 100
_LONGEST_PROBLEM = 500


class Place(Protocol):
    """Where a node stands, counted from zero."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that a policy may not say; counted from one, as editors do."""

    line: int
    column: int
    text: str


class Wrong(Exception):
    """A part could not be read; its problems are already noted."""


class TooMuch(Exception):
    """Nothing more is read: there are too many problems, or too much to read. What is found is noted."""


@dataclass(slots=True)
class Reader:
    """Reads nodes by shape, and goes on after a problem, so that one run finds them all."""

    problems: list[Problem] = field(default_factory=list)
    _nodes: int = 0

    def read(self, node: Node, shape: Shape, path: str) -> object:
        """The typed value of `node`; raise Wrong after noting what is wrong with it, TooMuch to end all."""
        self._count(node)
        match shape:
            case OneValue(scalar):
                text = self._text(node, path)
                return self._attempt(node, path, lambda: scalar.read(text))
            case OneOf():
                return self._read_word(node, shape, path)
            case ListOf(item):
                return self._read_list(node, item, path)
            case NamedValues():
                return self._read_named(node, shape, path)
            case Choice(records):
                return self._read_choice(node, records, path)
            case Record():
                return self._read_record(node, shape, path)

    def note(self, node: Node, text: str) -> None:
        place: Place = node.start_mark
        if len(text) > _LONGEST_PROBLEM:
            text = f"{text[:_LONGEST_PROBLEM]} ..."
        self.problems.append(Problem(place.line + 1, place.column + 1, text))
        if len(self.problems) >= MAX_PROBLEMS:
            raise TooMuch

    def _count(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self.note(
                node, f"with its aliases, the policy has more than {MAX_NODES:,} keys and values"
            )
            raise TooMuch

    def _refuse(self, node: Node, text: str) -> Wrong:
        self.note(node, text)
        return Wrong()

    def _text(self, node: Node, path: str) -> str:
        if not isinstance(node, ScalarNode):
            raise self._refuse(node, f"{path} is one value, not {_kind_of(node)}")
        if _is_nothing(node):
            raise self._refuse(node, f"{path} has no value")
        return str(node.value)

    def _attempt(self, node: Node, path: str, make: Make) -> object:
        try:
            return make()
        except ValueError as error:
            raise self._refuse(node, f"{path}: {error}") from None

    def _read_word(self, node: Node, shape: OneOf, path: str) -> object:
        word, valid = self._text(node, path), shape.values()
        if word not in valid:
            near = nearest(word, valid) or f": write one of {', '.join(valid)}"
            raise self._refuse(node, f"{path}: {word!r} is not a choice{near}")
        return shape.words(word)

    def _read_list(self, node: Node, item: Shape, path: str) -> object:
        if not isinstance(node, SequenceNode):
            raise self._refuse(node, f"{path} is a list, not {_kind_of(node)}")
        return tuple(
            self._complete(
                {
                    index: self._try(entry, item, f"{path}[{index}]")
                    for index, entry in enumerate(node.value)
                }
            ).values()
        )

    def _read_named(self, node: Node, shape: NamedValues, path: str) -> object:
        named: dict[object, object] = {}
        for key_node, value_node in self._pairs(node, path):
            try:
                key = self._attempt(
                    key_node, path, lambda node=key_node: shape.key.read(node.value)
                )
            except Wrong:
                key = Wrong()
            named[key] = self._try(value_node, shape.value, f"{path}.{key_node.value}")
        return self._complete(named)

    def _read_choice(self, node: Node, records: Mapping[str, Record], path: str) -> object:
        pairs = list(self._pairs(node, path))
        for key_node, value_node in pairs:
            if key_node.value == KIND:
                kind = self._text(value_node, f"{path}.{KIND}")
                if kind in records:
                    return self._read_record(node, records[kind], path)
                near = nearest(kind, records) or f": write one of {', '.join(records)}"
                raise self._refuse(value_node, f"{path}.{KIND}: {kind!r} is not a kind{near}")
        raise self._refuse(node, f"{path} lacks the key {KIND!r}: one of {', '.join(records)}")

    def _read_record(self, node: Node, record: Record, path: str) -> object:
        if record.short is not None and isinstance(node, ScalarNode):
            value = self.read(node, record.keys[record.short].shape, path)
            return self._attempt(node, path, lambda: record.make(**{str(record.short): value}))
        valid = [*record.keys, *([KIND] if record.kind else [])]
        values: dict[object, object] = {}
        for key_node, value_node in self._pairs(node, path):
            name = key_node.value
            inner = f"{path}.{name}" if path else name
            if name == KIND and record.kind:
                continue
            if name in record.keys:
                values[name] = self._try(value_node, record.keys[name].shape, inner)
            else:
                near = nearest(name, valid) or f": valid are {', '.join(valid)}"
                self.note(key_node, f"unknown key {inner!r}{near}")
        for name, key in record.keys.items():
            if key.required and name not in values:
                values[name] = self._refuse(node, f"{path or 'the policy'} lacks the key {name!r}")
        arguments = {str(name): value for name, value in self._complete(values).items()}
        return self._attempt(node, path or "the policy", lambda: record.make(**arguments))

    def _try(self, node: Node, shape: Shape, path: str) -> object:
        try:
            return self.read(node, shape, path)
        except Wrong as wrong:
            return wrong

    def _complete(self, values: dict[object, object]) -> dict[object, object]:
        """All values, or Wrong if one of them could not be read."""
        if any(isinstance(part, Wrong) for pair in values.items() for part in pair):
            raise Wrong
        return values

    def _pairs(self, node: Node, path: str) -> Iterator[tuple[ScalarNode, Node]]:
        """Keys and values of a mapping, each key once; merged keys come after the mapping's own."""
        seen: set[str] = set()
        for key_node, value_node in self._own_pairs(node, path):
            if key_node.value in seen:
                self.note(key_node, f"duplicate key {key_node.value!r}")
                continue
            seen.add(key_node.value)
            if key_node.value != MERGE:
                yield key_node, value_node
        for key_node, value_node in self._merged_pairs(node, path, depth=0):
            if key_node.value not in seen:
                seen.add(key_node.value)
                yield key_node, value_node

    def _own_pairs(self, node: Node, path: str) -> Iterator[tuple[ScalarNode, Node]]:
        if not isinstance(node, MappingNode):
            name = path or "a policy"
            raise self._refuse(node, f"{name} is a mapping of keys, not {_kind_of(node)}")
        for key_node, value_node in node.value:
            self._count(key_node)
            if not isinstance(key_node, ScalarNode):
                raise self._refuse(key_node, "a key is one word")
            if _is_nothing(value_node):
                # Its own mark stands at whatever comes next in the file.
                value_node.start_mark = key_node.start_mark
            yield key_node, value_node

    def _merged_pairs(
        self, node: Node, path: str, *, depth: int
    ) -> Iterator[tuple[ScalarNode, Node]]:
        if depth > MAX_MERGES:
            raise self._refuse(node, f"{MERGE} merges more than {MAX_MERGES} levels deep")
        for key_node, value_node in self._own_pairs(node, path):
            if key_node.value != MERGE:
                continue
            merged = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
            for source in merged:
                own = self._own_pairs(source, f"{path}.{MERGE}")
                yield from (pair for pair in own if pair[0].value != MERGE)
                yield from self._merged_pairs(source, path, depth=depth + 1)


class Make(Protocol):
    """Makes a value; ValueError if it cannot be."""

    def __call__(self) -> object: ...


def _is_nothing(node: Node) -> bool:
    """A key with nothing behind it; quotes around nothing are an empty text."""
    return isinstance(node, ScalarNode) and not node.value and not node.style


def _kind_of(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return "a single value" if node.value else "nothing"
