"""A bounded stretch of WAL for a backup: fetched beside it, or waited for while a receiver runs."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Self

from drtool.archiving.patience import Patience
from drtool.archiving.receive import Receiver
from drtool.archiving.receive_settings import ReceiveSettings, lease_name
from drtool.errors import Interrupted, SourceUnavailable
from drtool.model.progress import Emit, silent
from drtool.model.wal import Lsn
from drtool.repository.layout import Lineage
from drtool.repository.lease import Lease
from drtool.repository.log_inventory import take_inventory
from drtool.repository.repository import Repository
from drtool.system.clock import Clock

_LOOK_SECONDS = 0.02
_LISTING_SECONDS = 1.0
_JOIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WalWindow:
    """WAL of one timeline from `begin` up to, not including, `end`."""

    lineage: Lineage
    begin: Lsn
    end: Lsn
    segment_bytes: int


def is_covered(repository: Repository, window: WalWindow) -> bool:
    """Whether all of `window` is durable in the repository, without a hole, as its listing tells."""
    lineage = window.lineage
    inventory = take_inventory(
        repository, lineage.source, lineage.system_id,
        segment_bytes=window.segment_bytes, since=window.begin,
    )  # fmt: skip
    log = inventory.timelines.get(lineage.timeline)
    run = log.run_holding(window.begin) if log else None
    return run is not None and run.end >= window.end


def wait_for_wal(
    repository: Repository,
    window: WalWindow,
    *,
    clock: Clock,
    timeout_seconds: float,
    stop: threading.Event | None = None,
) -> None:
    """Return once a receiver that runs elsewhere has made all of `window` durable.

    SourceUnavailable if it has not in time: a backup without this WAL is none (PITFALLS 23, 28).
    """
    deadline = clock.monotonic() + timeout_seconds
    while not is_covered(repository, window):
        if clock.monotonic() > deadline:
            raise SourceUnavailable(
                f"WAL from {window.begin} to {window.end} of timeline {window.lineage.timeline} has"
                f" not come into the repository within {timeout_seconds:g} s",
                hint="Look with `drtool wal status` whether the receiver gets on.",
            )
        if clock.wait(_LISTING_SECONDS, stop):
            raise Interrupted("the wait for WAL was broken off")


class WalFetch:
    """Receives WAL beside a backup, from `begin` on, in a thread of its own, until it is closed.

    Holds the receiver's lease: LeaseHeld from `__enter__` if a receiver runs, and then `wait_for_wal`
    is the way. With `is_beside` it asks for no lease: for WAL that the holder does not bring, because
    it died or began behind `begin`. Two that store the same WAL store the same bytes. A temporary
    slot keeps the server from removing what is not fetched yet.
    """

    def __init__(
        self,
        repository: Repository,
        settings: ReceiveSettings,
        *,
        begin: Lsn,
        clock: Clock,
        emit: Emit = silent,
        is_beside: bool = False,
    ) -> None:
        self._repository = repository
        self._needs_lease = not is_beside
        self._settings = replace(settings, first=begin, is_window=True)
        self._clock = clock
        self._emit = emit
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._lease: Lease | None = None
        self._receiver: Receiver | None = None
        self._thread = threading.Thread(target=self._run, name="fetch WAL", daemon=True)

    def wait_until(
        self,
        end: Lsn,
        *,
        timeline: int,
        timeout_seconds: float,
        stop: threading.Event | None = None,
    ) -> None:
        """Return once all from `begin` up to `end` of `timeline` is durable.

        SourceUnavailable (WalRemoved) if the server cannot give it, or does not in time.
        """
        receiver = self._running()
        receiver.hurry()
        deadline = self._clock.monotonic() + timeout_seconds
        while not receiver.holds(timeline, end):
            if self._error is not None:
                raise self._error
            if self._clock.monotonic() > deadline:
                raise SourceUnavailable(
                    f"WAL up to {end} of timeline {timeline} was not received within"
                    f" {timeout_seconds:g} s; it is there up to {receiver.durable}",
                    hint="Look at the server's log and at the repository's store; then try again.",
                )
            if self._clock.wait(_LOOK_SECONDS, stop):
                raise Interrupted("the wait for WAL was broken off")

    def __enter__(self) -> Self:
        with ExitStack() as begun:
            if self._needs_lease:
                name = lease_name(self._settings.source)
                self._lease = Lease(self._repository, name, clock=self._clock)
                begun.callback(self._lease.release)
            patience = Patience(
                stop=self._stop, clock=self._clock, emit=self._emit, lease=self._lease
            )
            self._receiver = Receiver(self._repository, self._settings, patience=patience)
            self._thread.start()
            begun.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._receiver is not None:
            self._receiver.hurry()
        self._thread.join(_JOIN_SECONDS)
        if self._lease is not None:
            self._lease.release()

    def _running(self) -> Receiver:
        assert self._receiver is not None, "a WalFetch is a context manager"
        return self._receiver

    def _run(self) -> None:
        try:
            self._running().run()
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            self._error = error


def store_wal_range(
    repository: Repository,
    settings: ReceiveSettings,
    window: WalWindow,
    *,
    clock: Clock,
    timeout_seconds: float,
    emit: Emit = silent,
) -> None:
    """Receive `window` now and return once it is durable; errors as `WalFetch` raises them."""
    if is_covered(repository, window):
        return
    with WalFetch(repository, settings, begin=window.begin, clock=clock, emit=emit) as fetch:
        fetch.wait_until(
            window.end, timeline=window.lineage.timeline, timeout_seconds=timeout_seconds
        )
