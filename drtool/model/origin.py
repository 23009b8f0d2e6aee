"""By what the source of a backup is recognised, so that one stack's data is never taken for another's."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from drtool.model.strict_json import JsonObject

# A pair of machines that take turns, a path that moved now and then: more nobody accepts by hand.
_MOST_VALUES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Each sign is a tuple: the present value last, before it those that were accepted earlier.

    `stack` is the policy's name, `path` that of a tree, `machine` the machine whose tree it is, `node`
    the addresses of Redis servers (any of them). What is empty is not known, or says nothing.
    """

    stack: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()
    node: tuple[str, ...] = ()

    def difference(self, now: Origin) -> str | None:
        """In what `now` is surely another source than the one whose backups have this origin, in words.

        Addresses are not judged: a server may move, and tells by its replication id whether it is the
        same one.
        """
        if _differs(self.stack, now.stack):
            return (
                f"they are of stack {self.stack[-1]}, and this policy is of stack {now.stack[-1]}"
            )
        if _differs(self.path, now.path):
            return f"they are of {self.path[-1]}, and this one is {now.path[-1]}"
        if _differs(self.machine, now.machine):
            return f"they are of {now.path[-1] if now.path else 'a tree'} on another machine"
        return None

    def has_moved(self, now: Origin) -> bool:
        """Whether none of the addresses is known."""
        return bool(self.node and now.node) and not set(self.node) & set(now.node)

    def followed_by(self, now: Origin) -> Origin:
        """What the next backup records: the signs of now, and those that were accepted before."""
        return Origin(
            **{
                field.name: _merged(getattr(self, field.name), getattr(now, field.name))
                for field in fields(self)
            }
        )

    def to_json(self) -> dict[str, list[str]]:
        """Only what is known."""
        return {
            field.name: list(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name)
        }

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Signs that a later drtool has added are left out; ValueError for nonsense."""
        told = JsonObject(document)
        return cls(**{field.name: told.texts(field.name, ()) for field in fields(cls)})


def _differs(known: tuple[str, ...], now: tuple[str, ...]) -> bool:
    return bool(known and now) and now[-1] not in known


def _merged(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    kept = [value for value in before if value not in now]
    return (*kept, *now)[-_MOST_VALUES:]


NOT_TOLD = Origin()
