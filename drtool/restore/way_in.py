"""Getting into a promoted copy that does not let in the role and database that it was expected to.

Its names are then asked of PostgreSQL in single-user mode, between a clean shutdown and a new start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from drtool.errors import NotRecoverable
from drtool.sources.postgres.binaries import reachable
from drtool.sources.postgres.entrance import Entrance, KnownNames, NoEntrance
from drtool.sources.postgres.server import RunningServer, ServerPlan, start_server
from drtool.sources.postgres.single_user import read_names
from drtool.system.clock import Clock
from drtool.system.process import ProgramFailed


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


def shut_down(server: RunningServer) -> None:
    """End a server in good order; NotRecoverable if it does not."""
    code = server.stop()
    if code != 0:
        raise NotRecoverable(
            f"the restored server ended with exit code {code} where a clean shutdown was asked for",
            hint=f"The end of its log:\n{server.log_tail}",
        )


def let_in(
    server: RunningServer, restart: Restart, *, verifier: Enters, clock: Clock
) -> tuple[RunningServer, Entrance | NoEntrance]:
    """The server, which may be another one now, and the way in; why there is none, in the second.

    When this raises, no server runs.
    """
    with stopped_by_failure(server):
        entrance = verifier.enter(server)
    if isinstance(entrance, Entrance):
        return server, entrance
    shut_down(server)
    names = _names(restart)
    server = start_server(restart.plan, clock=clock, scratch=restart.scratch)
    with stopped_by_failure(server):
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
