"""Which program and version a server is, and which of them drtool knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

_PART = re.compile("[0-9]{1,9}")


class Product(StrEnum):
    """A program that speaks Redis' protocol and writes its files."""

    REDIS = "redis"
    VALKEY = "valkey"

    @property
    def label(self) -> str:
        """As its makers write it."""
        return self.value.capitalize()

    @property
    def server_program(self) -> str:
        """What its server is called."""
        return f"{self.value}-server"


# Tried on real servers, or between two that were. What they write is read, counted and rewritten.
_KNOWN = {
    Product.REDIS: ((6, 2), (7, 0), (7, 2), (7, 4)),
    Product.VALKEY: ((7, 2), (8, 0), (8, 1)),
}
# Valkey began as Redis 7.2: it loads all that Redis wrote up to then.
_LAST_COMMON = (7, 2)


@dataclass(frozen=True, slots=True)
class Release:
    """A product and its version, as in `Redis 7.4.1`."""

    product: Product
    version: tuple[int, int, int]

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def series(self) -> str:
        """Without the patch: what a program must at least be."""
        return f"{self.product.label} {self.version[0]}.{self.version[1]}"

    @property
    def is_known(self) -> bool:
        """Whether drtool was made for what it writes."""
        return self.version[:2] in _KNOWN[self.product]

    def can_load(self, writer: Release) -> bool:
        """Whether a server of this release loads the files that `writer` wrote."""
        if self.product is writer.product:
            return self.version[:2] >= writer.version[:2]
        return self.product is Product.VALKEY and writer.version[:2] <= _LAST_COMMON

    def __str__(self) -> str:
        return f"{self.product.label} {self.version_text}"


def newest_release(releases: Iterable[Release]) -> Release:
    """The one whose server loads what all the others wrote; the last where there is no such."""
    return reduce(lambda one, next_one: one if one.can_load(next_one) else next_one, releases)


def read_release(server: Mapping[str, str]) -> Release:
    """What the section `server` of INFO says: Valkey gives a version of Redis beside its own."""
    if "valkey_version" in server:
        return parse_release(Product.VALKEY, server["valkey_version"])
    return parse_release(Product.REDIS, server.get("redis_version", "0"))


def server_mode(server: Mapping[str, str]) -> str:
    """`standalone`, `cluster` or `sentinel`, from the same section: Valkey has a name of its own for it."""
    return server.get("redis_mode") or server.get("server_mode") or "standalone"


def parse_release(product: Product, version: str) -> Release:
    """A release from its version as text; what is missing or no number counts as 0."""
    numbers = [int(word) if _PART.fullmatch(word) else 0 for word in version.split(".")[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return Release(product, (major, minor, patch))


def known_releases() -> str:
    """All of them, for messages."""
    shown = []
    for product, versions in _KNOWN.items():
        words = [f"{major}.{minor}" for major, minor in versions]
        shown.append(f"{product.label} {', '.join(words[:-1])} and {words[-1]}")
    return "; ".join(shown)
