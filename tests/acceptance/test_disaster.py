"""The server killed in mid-write and its directory gone: what is lost, and whether the report knows."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from drtool.drill.ledger import Ledger, LedgerEntry
from drtool.drill.loss import is_prefix
from drtool.drill.writing import Writers, prepare_table, recovered_writes
from drtool.system.clock import SystemClock
from tests.acceptance.site import RECEIVE, SOURCE, Site, until
from tests.restore.rig import started
from tests.servers.postgres import MakePostgres

pytestmark = pytest.mark.postgres
FLUSH = timedelta(seconds=1)
# Beside the interval there is the put itself, on a machine that is busy with other tests.
PUT = timedelta(seconds=1)
# Long enough that the loss of all of it could not pass for one interval.
ENOUGH = 2 * (FLUSH + PUT)


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What was acknowledged, what came back, and what the report made of it."""

    failed_at: datetime
    entries: list[LedgerEntry]
    writes: set[tuple[int, int]]
    reported: tuple[timedelta, timedelta]

    @property
    def lost(self) -> list[LedgerEntry]:
        return [entry for entry in self.entries if entry.name not in self.writes]

    @property
    def age_of_the_oldest_loss(self) -> timedelta:
        """The true RPO: how long before the failure the first lost write was acknowledged."""
        ages = [self.failed_at - entry.acknowledged for entry in self.lost]
        return max([*ages, timedelta(0)])


def struck(site: Site, make_postgres: MakePostgres, *, is_receiver_lost: bool) -> Recovered:
    """Four sessions write; the server is killed (and the receiver with it); `--to latest`."""
    # So large that no segment becomes whole meanwhile: it is the growing tail that must not be lost.
    server = make_postgres(15, segment_mb=64)
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy(flush=f"{FLUSH.total_seconds():g}s")
    prepare_table(server.dsn())
    site.run("repository", "init")
    ledger = Ledger(site.root / "ledger")
    receiver = site.receiver()
    writers = Writers(server.dsn(), ledger, count=4, clock=SystemClock())
    try:
        site.run("backup", SOURCE)
        site.mark_after(datetime.now(UTC))
        begun = datetime.now(UTC)
        until(lambda: ledger.entries()[-1].acknowledged > begun + ENOUGH, "enough is written")
        if is_receiver_lost:
            # First: what it might still save must not count.
            receiver.kill()
        failed_at = datetime.now(UTC)
        server.kill9()
        server.destroy_data()
    except BaseException:
        receiver.kill()
        raise
    finally:
        writers.stop()
        receiver.terminate()
        site.finished(receiver, RECEIVE, code=None if is_receiver_lost else 0)
    return recovered(site, ledger.entries(), failed_at)


def recovered(site: Site, entries: list[LedgerEntry], failed_at: datetime) -> Recovered:
    place = site.root / "copy"
    command = ["restore", SOURCE, "--to", "latest", "--lost-at", failed_at.isoformat()]
    report = site.run(*command, "--into", str(place), "--json").answer
    [judgement] = [j for j in report["outcomes"][0]["judgements"] if j["objective"] == "rpo"]
    measured = judgement["measured"]
    low, high = measured["at_least_seconds"], measured["at_most_seconds"]
    with started(15, place) as copy:
        writes = set(recovered_writes(copy.socket_dsn()))
    return Recovered(
        failed_at=failed_at,
        entries=entries,
        writes=writes,
        reported=(timedelta(seconds=low), timedelta(seconds=high)),
    )


def test_with_the_receiver_lost_too_no_more_is_lost_than_one_flush_interval(
    site: Site, make_postgres: MakePostgres
) -> None:
    """PITFALLS 24: the growing segment is worth having. What came back is a prefix, and the report
    knows how much is missing.
    """
    after = struck(site, make_postgres, is_receiver_lost=True)

    low, high = after.reported
    assert after.age_of_the_oldest_loss <= FLUSH + PUT
    assert is_prefix(after.entries, after.writes)
    assert low <= after.age_of_the_oldest_loss <= high


def test_a_receiver_that_survives_loses_only_what_was_on_its_way(
    site: Site, make_postgres: MakePostgres
) -> None:
    """What arrived is made durable although the server is gone, and the receiver ends cleanly."""
    after = struck(site, make_postgres, is_receiver_lost=False)

    low, high = after.reported
    assert after.age_of_the_oldest_loss <= PUT
    assert is_prefix(after.entries, after.writes)
    assert low <= after.age_of_the_oldest_loss <= high


@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_a_backup_beside_a_receiver_that_brings_nothing_fetches_its_wal_itself(
    site: Site, make_postgres: MakePostgres, sent: signal.Signals
) -> None:
    """PITFALLS 23, 28: a receiver that hangs holds its lease, and one that was killed no longer does.
    Neither may keep a backup waiting for WAL that never comes.
    """
    server = make_postgres(15)
    site.environ["MAIN_DB_DSN"] = server.dsn()
    site.write_policy(flush="100ms")
    site.run("repository", "init")
    receiver = site.receiver()
    try:
        if sent is signal.SIGSTOP:
            until(lambda: _is_stopped(receiver, site), "a moment at which it holds no lock")
        else:
            receiver.kill()
            os.waitid(os.P_PID, receiver.pid, os.WEXITED | os.WNOWAIT)

        taken = site.run("backup", SOURCE)
    finally:
        receiver.kill()
        site.finished(receiver, RECEIVE, code=None)

    is_waited_for = "the receiver does not bring the WAL" in taken.err
    assert is_waited_for is (sent is signal.SIGSTOP)
    assert site.status()["latest"] is not None


def _is_stopped(receiver: subprocess.Popen[str], site: Site) -> bool:
    """Stop it, unless it holds the lock of the store just now, on which everybody would wait."""
    receiver.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, receiver.pid, os.WSTOPPED)
    with (site.repository / ".drtool-lock.tmp").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            receiver.send_signal(signal.SIGCONT)
            return False
    return True
