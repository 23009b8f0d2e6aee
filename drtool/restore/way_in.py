"""Getting into a promoted copy that does not let in the role and database that it was expected to.

Its names are then asked of PostgreSQL in single-user mode, between a clean shutdown and a new start.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from drtool.errors import DrtoolError, NotRecoverable
from drtool.restore.phases import Phases
from drtool.sources.postgres.binaries import reachable
from drtool.sources.postgres.entrance import Entrance, KnownNames, NoEntrance
from drtool.sources.postgres.server import RunningServer, ServerPlan, start_server
from drtool.sources.postgres.single_user import read_names
from drtool.system.process import ProgramFailed

_LOOK_SECONDS = 0.1


class Enters(Protocol):
    """What tries to get in."""

    def enter(
        self, server: RunningServer, known: KnownNames | None = None
    ) -> Entrance | NoEntrance:
        """Find the way in: by the names that are `known`, else by those that a copy usually has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """How the copy is started once more, without a recovery."""

    plan: ServerPlan
    ready_seconds: float
    scratch: Path | None


@contextmanager
def stopped_by_failure(server: RunningServer) -> Iterator[None]:
    """Nothing of ours goes on running when something fails."""
    try:
        yield
    except BaseException:
        server.stop(is_immediate=True)
        raise


@contextmanager
def ended_when_asked(server: RunningServer, phases: Phases) -> Iterator[None]:
    """Once somebody asks to stop, the server is ended at once: whatever the block asks of it gets an
    error, and what the block found counts for nothing. Then, and after any failure, nothing runs.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            if phases.stop.is_set():
                server.abort()
                return

    watching = threading.Thread(target=watch, name="stop", daemon=True)
    watching.start()
    try:
        with stopped_by_failure(server):
            try:
                yield
            except DrtoolError:
                phases.go_on()
                raise
            phases.go_on()
    finally:
        over.set()
        watching.join()


def shut_down(server: RunningServer) -> None:
    """End a server in good order; NotRecoverable if it does not."""
    code = server.stop()
    if code != 0:
        raise NotRecoverable(
            f"the restored server ended with exit code {code} where a clean shutdown was asked for",
            hint=f"The end of its log:\n{server.log_tail}",
        )


def let_in(
    server: RunningServer, restart: Restart, *, verifier: Enters, phases: Phases
) -> tuple[RunningServer, Entrance | NoEntrance]:
    """The server, which may be another one now, and the way in; why there is none, in the second.

    When this raises, no server runs.
    """
    with ended_when_asked(server, phases):
        entrance = verifier.enter(server)
    if isinstance(entrance, Entrance):
        return server, entrance
    shut_down(server)
    names = _names(restart)
    server = start_server(restart.plan, clock=phases.clock, scratch=restart.scratch)
    with ended_when_asked(server, phases):
        server.wait_ready(timeout_seconds=restart.ready_seconds)
        if isinstance(names, str):
            return server, NoEntrance((*entrance.reasons, names))
        found = verifier.enter(server, names)
        if isinstance(found, NoEntrance) and not names.roles:
            return server, NoEntrance(("no superuser may log in",))
        return server, found


def _names(restart: Restart) -> KnownNames | str:
    plan = restart.plan
    try:
        with reachable(plan.binaries, plan.run_as, scratch=restart.scratch) as binaries:
            return read_names(replace(plan, binaries=binaries))
    except ProgramFailed as error:
        return error.message
