"""The shape of a policy, taken from its types: what drives both the reader and the schema.

A shape is made from a type hint: a dataclass is a record of keys, a union of dataclasses with a
`kind` is a choice, `tuple[X, ...]` a list, `Mapping[K, V]` named values, the rest single values. A record
that names a `short` key may be written as that key's value alone.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Union, get_args, get_origin, get_type_hints

from drtool.config.scalars import SCALARS, Scalar
from drtool.policy.described import DESCRIPTION

KIND = "kind"
SHORT = "short"


@dataclass(frozen=True, slots=True)
class OneValue:
    """A single value."""

    scalar: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """A word out of a list."""

    words: type[StrEnum]

    def values(self) -> list[str]:
        return [str(word) for word in self.words]


@dataclass(frozen=True, slots=True)
class ListOf:
    """Any number of values of one shape, in order."""

    item: Shape


@dataclass(frozen=True, slots=True)
class NamedValues:
    """Values of one shape under names that the writer chooses."""

    key: Scalar
    value: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a record."""

    shape: Shape
    description: str
    required: bool


@dataclass(frozen=True, slots=True)
class Record:
    """`make` is the dataclass; it refuses, by ValueError, what its keys together cannot be.

    A single value in its place is that of the key `short`.
    """

    make: type
    keys: Mapping[str, Key]
    kind: str | None = None
    short: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Records told apart by their key `kind`."""

    records: Mapping[str, Record]


Shape = OneValue | OneOf | ListOf | NamedValues | Record | Choice


# A class, a union, a generic alias or a NewType: these have no narrower type in common.
Hint = object


def shape_of(hint: Hint) -> Shape:
    """The shape of a type hint; TypeError for one that no policy file can hold."""
    hint = _without_none(hint)
    if hint in SCALARS:
        return OneValue(SCALARS[hint])
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return OneOf(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return ListOf(shape_of(arguments[0]))
    if origin is Mapping:
        return NamedValues(SCALARS[arguments[0]], shape_of(arguments[1]))
    if origin in (Union, types.UnionType):
        return Choice({member.kind: record_of(member) for member in arguments})
    if is_dataclass(hint) and isinstance(hint, type):
        return record_of(hint)
    raise TypeError(f"a policy file cannot hold a {hint}")


def _without_none(hint: Hint) -> Hint:
    """`X | None` is an X that may be left out; nothing in a policy file is written as null."""
    arguments = get_args(hint)
    if get_origin(hint) not in (Union, types.UnionType) or type(None) not in arguments:
        return hint
    rest = [argument for argument in arguments if argument is not type(None)]
    return Union[tuple(rest)]  # noqa: UP007  # the members are known only here


@cache
def record_of(make: type) -> Record:
    """The keys of a dataclass, in the order in which it declares them."""
    hints = get_type_hints(make)
    keys = {
        field.name: Key(
            shape=shape_of(hints[field.name]),
            description=field.metadata.get(DESCRIPTION, ""),
            required=field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(make)
    }
    return Record(make, keys, getattr(make, KIND, None), getattr(make, SHORT, None))
