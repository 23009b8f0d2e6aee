"""`drtool schedule run` as a container runs it: a whole stack is protected, and nobody looks."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from tests.acceptance.one_moment_stack import CLOCK, Stack, new_stack
from tests.acceptance.site import DRTOOL, Site, until

RUN = ("schedule", "run")
RECEIVERS = ("wal receive main-db", "redis receive cache")
# Due on New Year's morning alone: whatever runs here runs because it never did before.
SCHEDULE = 'schedule: {backup: "0 3 1 1 *"}'


@pytest.fixture
def stack(site: Site) -> Iterator[Stack]:
    """PostgreSQL, Redis and files, each with a schedule."""
    with new_stack(site) as stack:
        place = site.root / "policies" / "shop.yaml"
        text = place.read_text()
        for kind in ("postgres", "redis", "files"):
            text = text.replace(f"    kind: {kind}\n", f"    kind: {kind}\n    {SCHEDULE}\n")
        place.write_text(text)
        yield stack


@contextmanager
def scheduling(site: Site, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A scheduler, whose progress is in `log`; killed if it does not end by itself."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [DRTOOL, *RUN],
            cwd=site.root,
            env=site.env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
        try:
            yield process
        except BaseException as error:
            error.add_note(log.read_text())
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def running(site: Site, words: str) -> list[int]:
    """The processes of that command of drtool on this machine of the test's, whoever started them."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            told = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            is_ours = (place / "cwd").readlink() == site.root
        except (OSError, UnicodeDecodeError):
            continue
        if is_ours and "drtool.cli.main" in told and told.rstrip().endswith(words):
            found.append(int(place.name))
    return found


def test_a_container_that_nobody_looks_at_protects_the_stack(stack: Stack) -> None:
    site, log, other = stack.site, stack.site.root / "log", stack.site.root / "other-log"
    with scheduling(site, log) as first:
        for name in ("main-db", "cache", "uploads"):  # none had a backup: each gets one at once
            until(lambda: f"backup {name}: done in" in log.read_text(), f"{name} is backed up")  # noqa: B023
        lease = site.repository / "leases" / "redis-cache"
        until(lambda: lease.exists() and running(site, RECEIVERS[0]), "both logs are received")
        [receiver] = running(site, RECEIVERS[1])
        os.kill(receiver, signal.SIGTERM)
        until(lambda: f"{RECEIVERS[1]}: ended with 0" in log.read_text(), "a receiver has ended")
        until(lambda: running(site, RECEIVERS[1]), "and another one runs")
        with scheduling(site, other) as second:
            until(lambda: "is held by" in other.read_text(), "a second scheduler waits")
            first.terminate()
            out, _ = first.communicate(timeout=60)
            assert first.returncode == 0, log.read_text()
            assert "backup cache         1 run, 1 done" in out
            until(
                lambda: all(running(site, words) for words in RECEIVERS),
                "the second has taken over",
            )
            assert ": begins" not in other.read_text()  # every source has a backup now
            stack.postgres.query("INSERT INTO papers VALUES (1, 'kept')")
            with stack.redis.client() as client:
                client.set("paper", "kept")
            written = CLOCK.now()
            for name in ("main-db", "cache"):
                until(lambda: reaches(site, name) > written, f"the log of {name} goes on")  # noqa: B023
            second.kill()
            second.communicate()
            until(
                lambda: not any(running(site, words) for words in RECEIVERS),
                "its receivers end too",
            )


def reaches(site: Site, name: str) -> datetime:
    """Up to when a source can be brought back, as `drtool status` says."""
    answer = site.run("status", "--json", code=None).answer
    [row] = [row for row in answer["rows"] if row["source"] == name]
    return datetime.fromisoformat(row["latest"])


def test_what_no_waiting_heals_ends_the_scheduler_where_it_is_seen(stack: Stack) -> None:
    """A container that goes on without a repository looks well for months."""
    key = stack.site.root / "drtool.key"
    right = key.read_text()
    key.write_text(secrets.token_hex(32))
    stack.site.run(*RUN, code=7)
    key.write_text(right)
    stack.site.repository.rename(stack.site.root / "away")
    ran = stack.site.run(*RUN, code=None)
    assert ran.code == 6, str(ran)


def test_a_day_that_never_comes_is_told(stack: Stack) -> None:
    place = stack.site.root / "policies" / "shop.yaml"
    place.write_text(place.read_text().replace("0 3 1 1 *", "0 3 31 2 *"))
    answer = stack.site.run("schedule", "list", "--json").answer
    assert answer["backup_cache"] is None
    assert "names no day that ever comes" in answer["findings"][0]["fact"]


def test_the_schedule_is_listed_with_what_always_runs(stack: Stack) -> None:
    answer = stack.site.run("schedule", "list", "--json").answer
    assert answer["redis_receive_cache"] == answer["wal_receive_main-db"] == "always"
    assert answer["backup_cache"].endswith("02:00:00+00:00")  # 3 o'clock in Warsaw
