"""Leases: one writer at a time, by compare-and-swap in the store, with a fencing number.

A lease that ran out, by the store's clock, can be taken over; so can one whose process has ended
without letting go, where that can be seen: on the same machine. Whoever lost it learns so at the
next renewal and at every `check`, which asks the store: a process that was stopped for a while and
goes on must not publish on what it believed before. What it did publish carries the older fencing
number. On a store that cannot compare and swap, a lease only keeps honest runs apart: there a
single writer is required, as `repository init` says.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Protocol

from drtool.errors import DrtoolError, IntegrityError, LeaseHeld, ObjectMissing
from drtool.model.strict_json import JsonObject, read_object
from drtool.repository import layout
from drtool.repository.repository import Repository
from drtool.stores.protocol import Store
from drtool.system.clock import Clock
from drtool.system.identity import ProcessIdentity, this_process

TERM = timedelta(seconds=60)
RENEW_SECONDS = 15.0
# The clocks of a store's servers may differ by so much; a term that lies farther ahead was never given.
LONGEST_SKEW = timedelta(minutes=5)
# A lease has a few hundred bytes.
MOST_LEASE_BYTES = 64 << 10
_MOST_FENCING = 1 << 62
# Characters of what a holder says of itself.
MOST_TROUBLE = 500


@dataclass(frozen=True, slots=True)
class _Held:
    """What the object of a lease says."""

    owner: str
    until: datetime
    fencing: int
    process: ProcessIdentity | None
    trouble: str | None = None

    def is_over(self, now: datetime) -> bool:
        """Whether anybody may take it, at `now` of the store's clock."""
        return self.is_past(now) or (self.process is not None and self.process.has_ended())

    def is_past(self, now: datetime) -> bool:
        """Whether its term has run out, at `now` of the store's clock.

        One that lies farther ahead than a term is none: it was put under a clock that ran ahead, and
        nobody has renewed it since the clock was put right.
        """
        return self.until <= now or self.until > now + TERM + LONGEST_SKEW

    def to_json(self) -> bytes:
        document = {
            "owner": self.owner,
            "until": self.until.isoformat(),
            "fencing": self.fencing,
            "process": None if self.process is None else asdict(self.process),
            "trouble": self.trouble,
        }
        return json.dumps(document).encode()

    @classmethod
    def from_json(cls, content: bytes, *, key: str) -> _Held:
        try:
            document = read_object(content, most_bytes=MOST_LEASE_BYTES)
            # Leases of drtool 0.1.0 do not tell it.
            process = _process_of(document.inner("process")) if document.has("process") else None
            return cls(
                owner=document.text("owner")[:MOST_TROUBLE],
                until=document.moment("until"),
                fencing=document.whole("fencing"),
                process=process,
                trouble=document.text("trouble")[:MOST_TROUBLE]
                if document.has("trouble")
                else None,
            )
        except ValueError as error:
            raise IntegrityError(
                f"object {key} is not a lease: {error}",
                hint="Remove it by hand once no other run is going on.",
            ) from error


def _process_of(told: JsonObject) -> ProcessIdentity:
    pid = told.whole("pid")
    if pid == 0:
        raise ValueError(f"{pid} is no process")
    return ProcessIdentity(
        boot=told.text("boot"),
        namespace=told.text("namespace"),
        pid=pid,
        started=told.whole("started"),
    )


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that somebody holds. `trouble` is what keeps the holder from its work, in its own words
    as of the newest renewal; None if nothing does.
    """

    owner: str
    trouble: str | None = None


def read_lease(repository: Repository, name: str) -> HeldLease | None:
    """Who holds the lease now, by the store's clock; None if nobody does, or who did has ended.

    What is no lease is held by nobody.
    """
    key = layout.lease_key(name)
    try:
        content = repository.store.read(key, most_bytes=MOST_LEASE_BYTES)
        held = _Held.from_json(content, key=key)
    except (ObjectMissing, IntegrityError):
        return None
    return None if held.is_over(repository.store.now()) else HeldLease(held.owner, held.trouble)


def is_lease(repository: Repository, key: str) -> bool:
    """Whether the object `key` is a lease, held or not; True for one that was let go meanwhile."""
    try:
        content = repository.store.read(key, most_bytes=MOST_LEASE_BYTES)
    except ObjectMissing:
        return True
    except IntegrityError:  # larger than any lease
        return False
    return _held_in(content, key=key) is not None


def lease_holder(repository: Repository, name: str) -> str | None:
    """Who holds the lease now, by the store's clock; None if nobody does, or who did has ended."""
    held = read_lease(repository, name)
    return None if held is None else held.owner


class Leases(Protocol):
    """Where leases are kept: a repository, or its store alone, since a lease is not sealed."""

    @property
    def store(self) -> Store:
        """The repository's store."""


class Lease:
    """A lease that is held, and renewed by a thread of its own until `release`."""

    def __init__(
        self,
        repository: Leases,
        name: str,
        *,
        clock: Clock,
        outlives_process: bool = False,
        numbered_above: Callable[[], int] | None = None,
    ) -> None:
        """Take the lease; LeaseHeld if another run holds it. `clock` only paces the renewals.

        `numbered_above` is asked where no object of the lease is left: the fencing number, by which
        what was published is put in order, goes on behind its answer.

        `outlives_process` is for what writes over objects in place: the last request of a process
        that was killed may still be carried out, so its term is waited for all the same.
        """
        self._outlives_process = outlives_process
        self._numbered_above = numbered_above
        self._store = repository.store
        self._key = layout.lease_key(name)
        self._name = name
        self._clock = clock
        self._owner = f"{socket.gethostname()} pid {os.getpid()} {secrets.token_hex(4)}"
        self._process = this_process()
        self._stop = threading.Event()
        self._changing = threading.Lock()
        self._lost = False
        self._trouble: str | None = None
        self.fencing = 0
        self._content = self._take()
        self._thread = threading.Thread(target=self._renew, name=f"lease {name}", daemon=True)
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether another run has taken over, as of the newest renewal, or may; asks nobody."""
        return self._lost or not self._thread.is_alive()

    def say(self, trouble: str | None) -> None:
        """Let others see what keeps the holder from its work; None once nothing does. For any thread.

        It is put with the next renewal, within 15 seconds. It may not hold a secret.
        """
        self._trouble = None if trouble is None else trouble[:MOST_TROUBLE]

    def check(self) -> None:
        """Renew now; LeaseHeld if the lease was lost meanwhile. Called before anything is published.

        RepositoryUnavailable if the store could not be asked: then nothing can be published either.
        """
        self._renew_once()
        if self._lost:
            raise LeaseHeld(
                f"the lease {self._name} was lost while the run went on",
                hint="Another run took over; look at its result with `drtool status`.",
            )

    def release(self) -> None:
        """Let go, so that the next run need not wait. No error if the store is away by now."""
        self._stop.set()
        self._thread.join(timeout=RENEW_SECONDS)
        try:
            with self._changing:
                if not self._lost:
                    ended = self._document(self._store.now())
                    self._store.replace_if(self._key, ended, self._content)
        except DrtoolError:
            # The term runs out by itself; an error here would hide the run's own result.
            return

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self) -> bytes:
        current = self._read()
        now = self._store.now()
        held = None if current is None else _held_in(current, key=self._key)
        if held is not None:
            # Whoever writes the store may have written any number: there is always one above it.
            self.fencing = min(held.fencing, _MOST_FENCING)
            is_over = held.is_past(now) if self._outlives_process else held.is_over(now)
            if not is_over:
                raise self._held_by(held.owner, held.until)
        elif self._numbered_above is not None:
            self.fencing = self._numbered_above()
        self.fencing += 1
        content = self._document(now + TERM)
        if not self._store.replace_if(self._key, content, current) and self._read() != content:
            raise self._held_by("another run", None)
        return content

    def _held_by(self, owner: str, until: datetime | None) -> LeaseHeld:
        term = f" until {until:%H:%M:%SZ}" if until else ""
        here = "" if self._outlives_process else ", on this machine at once"
        return LeaseHeld(
            f"the lease {self._name} is held by {owner}{term}",
            hint=f"Wait for that run, or stop it; one that died loses its lease after a minute{here}.",
        )

    def _read(self) -> bytes | None:
        try:
            return self._store.read(self._key, most_bytes=MOST_LEASE_BYTES)
        except ObjectMissing:
            return None

    def _document(self, until: datetime) -> bytes:
        held = _Held(self._owner, until, self.fencing, self._process, self._trouble)
        return held.to_json()

    def _renew(self) -> None:
        while not self._lost and not self._clock.wait(RENEW_SECONDS, self._stop):
            try:
                self._renew_once()
            except DrtoolError:
                # The store is away from here; before anything is published, `check` asks it again.
                continue

    def _renew_once(self) -> None:
        """Put the term off, or learn that the lease is lost."""
        with self._changing:
            if self._lost:
                return
            content = self._document(self._store.now() + TERM)
            if self._store.replace_if(self._key, content, self._content):
                self._content = content
                return
            found = self._read()
            if found is None or not self._is_mine(found):
                self._lost = True
                return
            # An earlier renewal was put although its answer was an error.
            self._content = found

    def _is_mine(self, content: bytes) -> bool:
        held = _held_in(content, key=self._key)
        mine = (self._owner, self.fencing)
        return held is not None and (held.owner, held.fencing) == mine


def _held_in(content: bytes, *, key: str) -> _Held | None:
    """What a lease says; None for what is none. Anybody who may write to the store can put that, and it
    keeps nobody from the lease: it is the one kind of object that is replaced.
    """
    try:
        return _Held.from_json(content, key=key)
    except IntegrityError:
        return None
