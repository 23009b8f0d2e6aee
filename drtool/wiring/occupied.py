"""Where nothing is restored on this machine, as its policy knows: asked before anything is planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from drtool.policy.policy import Policy
from drtool.policy.sources import FilesSource, PostgresSource
from drtool.restore.destination import beside
from drtool.restore.occupied import InUse, refuse_occupied
from drtool.stores.place import LocalPlace, parse_place


def require_unoccupied(places: Mapping[str, Path], policy: Policy) -> None:
    """DestinationRefused if a source's place, or one of its tablespaces', is part of what is in use."""
    place = parse_place(policy.repository.url)
    in_use = InUse(
        repository=place.path if isinstance(place, LocalPlace) else None,
        trees={
            str(name): source
            for name, source in policy.sources.items()
            if isinstance(source, FilesSource)
        },
    )
    for name, into in places.items():
        for destination in _written(name, into, policy):
            refuse_occupied(destination, in_use, source=name)


def _written(name: str, into: Path, policy: Policy) -> Iterator[Path]:
    yield into
    source = policy.source(name)
    if isinstance(source, PostgresSource):
        yield beside(into)
        yield from source.restore.tablespaces.values()
