"""Opens the repository beside everything else that a command has to do before it needs it.

A passphrase is made hard to guess by a derivation that keeps one processor busy for a third of a
second. It needs the policy and the key slots and nothing more, so it goes on in a thread while the
command's own modules are loaded, which takes about as long.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from drtool.policy.policy import Policy
from drtool.policy.secrets import NoEncryption, Redactor, SecretReference
from drtool.repository.keys import NO_SECRET, KeySecret, SlotKind
from drtool.repository.repository import Repository, open_repository
from drtool.stores.open import believing, open_store
from drtool.stores.protocol import Store
from drtool.system.clock import Clock


@dataclass(frozen=True, slots=True)
class Opened:
    """A repository, and the store below it, which whoever has taken it closes."""

    store: Store
    repository: Repository


class Opening:
    """A repository that is being opened. What goes wrong is raised by `take`, and nowhere before."""

    def __init__(
        self, policy: Policy, environ: Mapping[str, str], *, redactor: Redactor, clock: Clock
    ) -> None:
        self._policy = policy
        self._environ = environ
        self._redactor = redactor
        self._clock = clock
        self._opened: Opened | None = None
        self._error: BaseException | None = None
        self._is_taken = False
        # A daemon: a command that ends for another reason does not wait for a store that is slow.
        self._thread = threading.Thread(target=self._open, name="open repository", daemon=True)
        self._thread.start()

    def take(self) -> Opened | None:
        """The repository, once: None for whoever asks again. As long as `open_repository` takes."""
        if self._is_taken:
            return None
        self._is_taken = True
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._opened

    def _open(self) -> None:
        try:
            self._opened = open_now(
                self._policy, self._environ, redactor=self._redactor, clock=self._clock
            )
        except BaseException as error:  # noqa: BLE001 - raised by `take`
            self._error = error


def open_now(
    policy: Policy, environ: Mapping[str, str], *, redactor: Redactor, clock: Clock
) -> Opened:
    """The repository of the policy, opened with its key, believing what was measured of its store."""
    store = open_store(policy.repository.url, clock=clock)
    try:
        secret = key_secret(policy.repository.key, environ, redactor=redactor)
        repository = open_repository(store, secret)
    except BaseException:
        store.close()
        raise
    believed = believing(store, repository.root.capabilities)
    return Opened(store, replace(repository, store=believed))


def key_secret(
    reference: SecretReference | NoEncryption, environ: Mapping[str, str], *, redactor: Redactor
) -> KeySecret:
    """What opens the repository: a variable holds a passphrase, a file is a key file."""
    if isinstance(reference, NoEncryption):
        return NO_SECRET
    content = redactor.resolve(reference, environ).reveal().encode()
    kind = SlotKind.PASSPHRASE if reference.place == "env" else SlotKind.KEY_FILE
    return KeySecret(kind, content)
