"""Which PostgreSQL clusters a source has had, as its log tells."""

from __future__ import annotations

from drtool.repository import layout
from drtool.repository.heads import is_ours
from drtool.repository.names import parse_system_id
from drtool.repository.repository import Repository


def logged_systems(repository: Repository, source: str) -> list[int]:
    """The clusters that have WAL here, each branch of one counted, in ascending order.

    A directory alone says nothing, for anybody may make one: an object of ours has to be in it.
    """
    names = repository.store.list_directories(layout.source_log(source))
    systems = {system for name in names if (system := parse_system_id(name)) is not None}
    return sorted(one for one in systems if _is_held(repository, source, one))


def _is_held(repository: Repository, source: str, system_id: int) -> bool:
    listed = repository.store.list(layout.system_log(source, system_id))
    return any(is_ours(repository, found.key) for found in listed)
