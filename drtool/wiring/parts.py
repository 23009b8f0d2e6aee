"""The parts that several commands need, built from the policy and what its secrets refer to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from drtool.errors import PolicyError, RepositoryNotInitialised
from drtool.model.progress import Noted
from drtool.policy.policy import Policy, unsupported
from drtool.policy.secrets import NoEncryption, SecretReference
from drtool.policy.sources import FilesSource, PostgresSource, RedisSource, SourcePolicy
from drtool.repository.keys import KeySecret
from drtool.repository.repository import Repository
from drtool.stores.open import open_store, refuses_conditions
from drtool.stores.protocol import Store
from drtool.wiring import opening
from drtool.wiring.opening import open_now
from drtool.wiring.surroundings import Surroundings

_SINGLE_WRITER = (
    "the store refuses conditional puts, which it took when the repository was made: what it was asked"
    " to put was looked for first. Run one `drtool` at a time against it"
)


@contextmanager
def opened_store(policy: Policy, around: Surroundings) -> Iterator[Store]:
    """The store of the policy, closed at the end of the block."""
    store = open_store(policy.repository.url, clock=around.clock)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def opened_repository(policy: Policy, around: Surroundings) -> Iterator[Repository]:
    """The repository of the policy, opened with its key: the one that is being opened, or anew.

    A store that came to refuse conditional puts since it was probed is told of at the end.
    """
    opened = around.opening.take() if around.opening else None
    if opened is None:
        opened = open_now(policy, around.environ, redactor=around.redactor, clock=around.clock)
    try:
        yield opened.repository
    finally:
        if refuses_conditions(opened.repository.store):
            around.emit(Noted(_SINGLE_WRITER, "warning"))
        opened.store.close()


def key_secret(reference: SecretReference | NoEncryption, around: Surroundings) -> KeySecret:
    """What opens the repository: a variable holds a passphrase, a file is a key file."""
    return opening.key_secret(reference, around.environ, redactor=around.redactor)


def dsn_of(reference: SecretReference, around: Surroundings) -> str:
    """A connection string, hidden from now on."""
    return around.redactor.resolve(reference, around.environ).reveal()


def chosen_sources(names: tuple[str, ...], policy: Policy) -> dict[str, PostgresSource]:
    """The sources that were named, or all that have WAL, in the policy's order."""
    if names:
        return {name: policy.postgres(name) for name in names}
    chosen = {
        str(name): source
        for name, source in policy.sources.items()
        if isinstance(source, PostgresSource)
    }
    if not chosen:
        raise PolicyError(
            "the policy has no source of kind postgres",
            hint="Add one; `drtool policy schema` shows how.",
        )
    return chosen


# Kinds that are kept in the repository; the others have a mirror alone.
SUPPORTED = (PostgresSource, RedisSource, FilesSource)


def restorable_sources(
    names: tuple[str, ...], policy: Policy, around: Surroundings
) -> dict[str, SourcePolicy]:
    """The sources that were named, or all that are kept in the repository; the others are told."""
    chosen: dict[str, SourcePolicy] = {}
    for name in names or tuple(policy.sources):
        source = policy.source(name)
        if isinstance(source, SUPPORTED):
            chosen[str(name)] = source
        elif names:
            raise unsupported(name, source)
        else:
            around.emit(Noted(f"left out: {unsupported(name, source).message}"))
    if not chosen:
        raise PolicyError(
            "the policy has no source that is kept in the repository",
            hint="Add one of kind postgres, redis or files; `drtool policy schema` shows how.",
        )
    return chosen


def is_initialised(store: Store) -> bool:
    """Whether there is a repository in the store."""
    from drtool.repository.layout import ROOT

    return store.stat(ROOT) is not None


def not_initialised(store: Store) -> RepositoryNotInitialised:
    """The error for a store without a repository."""
    return RepositoryNotInitialised(
        f"there is no repository in {store.url}", hint="Run `drtool repository init` to make one."
    )
