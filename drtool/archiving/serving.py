"""The warm side of `drtool-wal push`: takes files over a Unix socket and answers once they are durable."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from drtool.archiving.beating import Heart
from drtool.archiving.branch import archived_branch
from drtool.archiving.callers import Caller, Callers, allow_users
from drtool.archiving.pushed import Pushed, store_pushed
from drtool.archiving.receive_settings import ReceiveSettings, lease_name
from drtool.archiving.wal_events import PushedEvents, told_of_minimal
from drtool.errors import DrtoolError, RepositoryUnavailable, UsageError
from drtool.model.progress import Emit, Noted, PhaseAdvanced, PhaseBegan, silent
from drtool.model.wal import Lsn
from drtool.repository.layout import Lineage
from drtool.repository.lease import Lease
from drtool.repository.log_events import MINIMAL
from drtool.repository.repository import Repository
from drtool.system.clock import Clock
from drtool.system.durable import make_directory

# The archiver pushes one file at a time; more requests wait for a thread.
THREADS = 4
BACKLOG = 128
ACCEPT_SECONDS = 0.5
REQUEST_SECONDS = 10.0
LONGEST_NAME_BYTES = 256


def _nobody() -> None:
    """Nobody takes a base backup by itself: whoever serves does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSite:
    """Where files are taken, and from whom: from processes of our own user and of `user_ids`.

    `ask_for_base` is called for a new base backup where WAL was not pushed, or no recovery passes it.
    """

    socket: Path
    user_ids: frozenset[int] = field(default_factory=frozenset)
    ask_for_base: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushServed:
    """What came while it was served."""

    files: int
    refused: int


def serve_push(
    repository: Repository,
    settings: ReceiveSettings,
    site: PushSite,
    *,
    stop: threading.Event,
    clock: Clock,
    emit: Emit = silent,
) -> PushServed:
    """Take WAL files at `site` until `stop` is set, and make marks meanwhile.

    The server at the DSN says which cluster it is; WAL of any other is refused (PITFALLS 2), and so
    is a server whose WAL is not what is held of it (BranchLeft). LeaseHeld if another receiver of
    this source runs. Memory: THREADS times a segment.
    """
    with Lease(repository, lease_name(settings.source), clock=clock) as lease:
        facts = archived_branch(
            repository, settings.source, settings.dsn, accepts_new=settings.accepts_new_system
        )
        heart = Heart(
            settings.dsn,
            application_name=settings.application_name,
            seconds=settings.wal.heartbeat.total_seconds(),
            clock=clock,
        )
        intake = _Intake(
            repository=repository,
            source=settings.source,
            system_id=facts.system_id,
            lease=lease,
            heart=heart,
            emit=emit,
            ask_for_base=site.ask_for_base or _nobody,
        )
        heart.start(at_once=threading.Event(), emit=emit)
        emit(PhaseBegan(phase="wal", title=f"WAL of {settings.source}", total=None))
        try:
            with _listening(site) as listener:
                _serve(listener, site, intake, clock=clock, stop=stop)
        finally:
            heart.close()
            site.socket.unlink(missing_ok=True)
    return PushServed(files=intake.files, refused=intake.refused)


def _listening(site: PushSite) -> socket.socket:
    """A socket that only those may use who are meant to; who connects is checked besides."""
    directory = site.socket.parent
    others = site.user_ids - {os.geteuid()}
    try:
        make_directory(directory)
        if directory.stat().st_uid == os.geteuid():
            directory.chmod(0o711 if others else 0o700)
        # We hold the lease: whoever left this socket behind is gone.
        site.socket.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(site.socket))
        site.socket.chmod(0o600)
        if others and not allow_users(str(site.socket), others):
            # Everybody may connect then, and is turned away before anything is taken from them.
            site.socket.chmod(0o666)
    except OSError as error:
        raise UsageError(
            f"no socket can be made at {site.socket}: {error}",
            hint="Set XDG_RUNTIME_DIR to a directory of this user, or make /run/drtool for it.",
        ) from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _serve(
    listener: socket.socket,
    site: PushSite,
    intake: _Intake,
    *,
    clock: Clock,
    stop: threading.Event,
) -> None:
    user_ids = site.user_ids | {os.geteuid()}
    failures: list[BaseException] = []
    with (
        Callers(listener, user_ids, clock=clock) as callers,
        ThreadPoolExecutor(THREADS, thread_name_prefix="push") as pool,
    ):
        while not stop.is_set() and not failures:
            for caller in callers.asking(ACCEPT_SECONDS):
                answered = pool.submit(_answer, caller.connection, intake)
                answered.add_done_callback(partial(_ended, failures))
                answered.add_done_callback(partial(_let_go, callers, caller))
    for error in failures:
        raise error


def _ended(failures: list[BaseException], answered: Future[None]) -> None:
    """A request is over. What it failed with, beside what is answered, ends the whole service: it is
    a bug, and PostgreSQL would try again for ever without anybody being told.
    """
    error = answered.exception()
    if error is not None:
        failures.append(error)


def _let_go(callers: Callers, caller: Caller, _: Future[None]) -> None:
    callers.done(caller)


def _answer(connection: socket.socket, intake: _Intake) -> None:
    """One request, one line of answer. A client that has gone meanwhile will push again."""
    with connection:
        connection.settimeout(REQUEST_SECONDS)
        try:
            answer = _answer_to(connection, intake)
            connection.sendall(answer.encode("utf-8", "replace") + b"\n")
        except OSError:
            return


def _answer_to(connection: socket.socket, intake: _Intake) -> str:
    message, descriptors, _, _ = socket.recv_fds(connection, LONGEST_NAME_BYTES, 4)
    try:
        if len(descriptors) != 1 or not message.endswith(b"\n"):
            return f"{int(UsageError.exit_code)} not a request of drtool-wal"
        return intake.store(message[:-1].decode("utf-8", "replace"), descriptors[0])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@dataclass(slots=True, kw_only=True)
class _Intake:
    """Stores and counts; any thread."""

    repository: Repository
    source: str
    system_id: int
    lease: Lease
    heart: Heart
    emit: Emit
    ask_for_base: Callable[[], None]
    events: PushedEvents = field(default_factory=PushedEvents)
    reached: dict[int, Lsn] = field(default_factory=dict)
    files: int = 0
    size_bytes: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    marking: threading.Lock = field(default_factory=threading.Lock)

    def store(self, name: str, descriptor: int) -> str:
        """The answer: `0` once the file is durable, else an exit code and why."""
        try:
            self.lease.check()
            pushed = store_pushed(
                self.repository,
                self.source,
                system_id=self.system_id,
                name=name,
                descriptor=descriptor,
                events=self.events,
            )
        except DrtoolError as error:
            return self._refuse(name, error)
        with self.lock:
            self.files += 1
            self.size_bytes += os.fstat(descriptor).st_size
            advanced = PhaseAdvanced(phase="wal", done=self.size_bytes, detail=name)
        self._look_for_gap(pushed)
        if pushed.end is not None:
            self.emit(advanced)
            self._keep_marks(Lineage(self.source, self.system_id, pushed.timeline), pushed.end)
        return "0"

    def _look_for_gap(self, pushed: Pushed) -> None:
        """Ask for a base backup where an older one cannot be recovered to what was pushed."""
        if pushed.begin is None or pushed.end is None:
            return
        for event in pushed.events:
            if event.kind == MINIMAL:
                self.emit(Noted(told_of_minimal(event.lsn, pushed.timeline), "warning"))
                self.ask_for_base()
        with self.lock:
            reached = self.reached.get(pushed.timeline, pushed.begin)
            self.reached[pushed.timeline] = max(reached, pushed.end)
        if pushed.begin > reached:
            self.ask_for_base()

    def _keep_marks(self, lineage: Lineage, end: Lsn) -> None:
        """One request at a time puts marks; others need not wait for it: theirs are put by the next."""
        if not self.marking.acquire(blocking=False):
            return
        try:
            self.heart.keep(self.repository, lineage, end)
        finally:
            self.marking.release()

    def _refuse(self, name: str, error: DrtoolError) -> str:
        with self.lock:
            self.refused += 1
        if not isinstance(error, RepositoryUnavailable):
            self.emit(Noted(f"{name} is refused: {error.message}. {error.hint}", "warning"))
        text = " ".join(f"{error.message}. {error.hint}".split())
        return f"{int(error.exit_code)} {text[:3000]}"
