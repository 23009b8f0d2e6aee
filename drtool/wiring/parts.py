"""The parts that several commands need, built from the policy and what its secrets refer to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from drtool.errors import PolicyError, RepositoryNotInitialised
from drtool.model.progress import Noted
from drtool.policy.policy import Policy, unsupported
from drtool.policy.secrets import NoEncryption, SecretReference
from drtool.policy.sources import FilesSource, PostgresSource, RedisSource, SourcePolicy
from drtool.repository.keys import NO_SECRET, KeySecret, SlotKind
from drtool.repository.repository import Repository, open_repository
from drtool.stores.open import open_store
from drtool.stores.protocol import Store
from drtool.wiring.surroundings import Surroundings


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
    """The repository of the policy, opened with its key, believing what was measured of its store."""
    from drtool.stores.remote import RemoteStore

    with opened_store(policy, around) as store:
        repository = open_repository(store, key_secret(policy.repository.key, around))
        if isinstance(store, RemoteStore):
            believing = store.with_capabilities(repository.root.capabilities)
            repository = Repository(believing, repository.ring, repository.root)
        yield repository


def key_secret(reference: SecretReference | NoEncryption, around: Surroundings) -> KeySecret:
    """What opens the repository: a variable holds a passphrase, a file is a key file."""
    if isinstance(reference, NoEncryption):
        return NO_SECRET
    content = around.redactor.resolve(reference, around.environ).reveal().encode()
    kind = SlotKind.PASSPHRASE if reference.place == "env" else SlotKind.KEY_FILE
    return KeySecret(kind, content)


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
