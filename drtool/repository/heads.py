"""Heads of log objects: which were put by a holder of the repository's key."""

from __future__ import annotations

from drtool.repository.repository import Repository
from drtool.repository.sealing import ObjectType
from drtool.repository.taken import has_head


def is_ours(repository: Repository, key: str) -> bool:
    """Whether the log object `key` itself was put by a holder of the key; its head alone is read."""
    return has_head(repository.store, repository.ring, ObjectType.LOG, key=key)


class Heads:
    """Looks at heads of log objects, and keeps the keys of those that are none of ours. Any thread."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.foreign: list[str] = []

    def are_ours(self, key: str) -> bool:
        found = is_ours(self.repository, key)
        if not found:
            self.foreign.append(key)
        return found
