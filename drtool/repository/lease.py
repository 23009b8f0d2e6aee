"""Leases: one writer at a time, by compare-and-swap in the store, with a fencing number.

A lease that ran out can be taken over; whoever lost it learns so at the next renewal, and what
it publishes carries the older fencing number. On a store that cannot compare and swap, a lease
only keeps honest runs apart: there a single writer is required, as `repository init` says.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from datetime import datetime, timedelta

from drtool.errors import DrtoolError, LeaseHeld, ObjectMissing
from drtool.repository import layout
from drtool.repository.repository import Repository
from drtool.system.clock import Clock

TERM = timedelta(seconds=60)
RENEW_SECONDS = 15.0


class Lease:
    """A lease that is held, and renewed by a thread of its own until `release`."""

    def __init__(self, repository: Repository, name: str, *, clock: Clock) -> None:
        """Take the lease; LeaseHeld if another run holds it."""
        self._store = repository.store
        self._key = layout.lease_key(name)
        self._name = name
        self._clock = clock
        self._owner = f"{socket.gethostname()} pid {os.getpid()} {secrets.token_hex(4)}"
        self._stop = threading.Event()
        self._lost = False
        self.fencing = 0
        self._content = self._take()
        self._thread = threading.Thread(target=self._renew, name=f"lease {name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """LeaseHeld if the lease was lost meanwhile. Called before anything is published."""
        if self._lost:
            raise LeaseHeld(
                f"the lease {self._name} was lost while the run went on",
                hint="Another run took over; look at its result with `drtool status`.",
            )

    def release(self) -> None:
        """Let go, so that the next run need not wait. No error if the store is away by now."""
        self._stop.set()
        self._thread.join(timeout=RENEW_SECONDS)
        if self._lost:
            return
        try:
            ended = self._document(self._clock.now())
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
        if current is not None:
            held = json.loads(current)
            self.fencing = int(held["fencing"])
            until = datetime.fromisoformat(held["until"])
            if until > self._clock.now():
                raise self._held_by(held["owner"], until)
        self.fencing += 1
        content = self._document(self._clock.now() + TERM)
        if not self._store.replace_if(self._key, content, current):
            raise self._held_by("another run", None)
        return content

    def _held_by(self, owner: str, until: datetime | None) -> LeaseHeld:
        term = f" until {until:%H:%M:%SZ}" if until else ""
        return LeaseHeld(
            f"the lease {self._name} is held by {owner}{term}",
            hint="Wait for that run, or stop it; a run that died loses its lease after a minute.",
        )

    def _read(self) -> bytes | None:
        try:
            return self._store.read(self._key)
        except ObjectMissing:
            return None

    def _document(self, until: datetime) -> bytes:
        document = {"owner": self._owner, "until": until.isoformat(), "fencing": self.fencing}
        return json.dumps(document).encode()

    def _renew(self) -> None:
        expires = self._clock.monotonic() + TERM.total_seconds()
        while not self._clock.wait(RENEW_SECONDS, self._stop):
            content = self._document(self._clock.now() + TERM)
            try:
                renewed = self._store.replace_if(self._key, content, self._content)
            except DrtoolError:
                # The store is away: the lease is ours until its term has surely run out.
                self._lost = self._lost or self._clock.monotonic() > expires
                continue
            if not renewed:
                self._lost = True
                return
            self._content = content
            expires = self._clock.monotonic() + TERM.total_seconds()
