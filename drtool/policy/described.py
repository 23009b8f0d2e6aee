"""A field of the policy is described once, where it is declared: the reader and the schema both use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, field
from typing import Any

DESCRIPTION = "description"


# Any, as in dataclasses.field itself: this stands where a value of the field's own type is declared.
Anything = Any


def described(
    text: str,
    *,
    default: Anything = MISSING,
    factory: Callable[[], Anything] | None = None,
) -> Anything:
    """A dataclass field with its sentence for readers of the schema; without a default it is required."""
    metadata: Mapping[str, str] = {DESCRIPTION: text}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)
