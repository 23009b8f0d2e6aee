"""Long sequences taken a thousand at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

PAGE = 1000


def pages(items: Iterable[T], size: int = PAGE) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter; never an empty one."""
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page
