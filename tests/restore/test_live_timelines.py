"""Two timelines of one source that were written at the same time: how that ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drtool.archiving.status import wal_status
from drtool.errors import NotRecoverable
from drtool.model.finding import Finding
from drtool.model.target import ToLatest, ToTime
from drtool.repository.backups import read_manifests
from drtool.repository.layout import Lineage
from drtool.repository.production import put_production
from tests.repository.building import SYSTEM
from tests.restore.test_plan import SOURCE, Invented, at, lsn


@pytest.fixture
def parted(tmp_path: Path) -> Invented:
    """A copy went on as timeline 2, and was stopped at 20; its source went on, as timeline 1."""
    invented = Invented(tmp_path / "tree")
    invented.backup(2)
    invented.wal(range(2, 10))
    invented.history(2, "1\t0/480000")
    invented.wal(range(4, 6), timeline=2)
    invented.mark(10, lsn(4.2))
    invented.mark(15, lsn(4.7), timeline=2)
    invented.mark(20, lsn(5.5), timeline=2)
    invented.mark(30, lsn(7))
    return invented


def found(parted: Invented) -> list[Finding]:
    manifests, _ = read_manifests(parted.repository, SOURCE)
    backups = {one.backup_id: one.postgres for one in manifests}
    status = wal_status(parted.repository, SOURCE, backups, now=at(90))
    return [one for one in status.findings if "two servers" in one.fact]


def test_a_finding_says_since_when_one_is_silent_and_how_long_it_counts(parted: Invented) -> None:
    [told] = found(parted)

    assert "Timeline 2 has had no new mark since 2024-05-01 10:20:00Z" in told.fact
    assert "counts as alive until the other one is at 2024-05-01 11:20:00Z" in told.fact
    assert "--timeline 2 or --timeline 1" in told.fix
    assert "--accept-source" in told.fix


@pytest.mark.parametrize("target", [ToLatest(), ToTime(at(25))], ids=["latest", "a moment between"])
def test_every_refusal_names_the_timeline(parted: Invented, target: ToLatest | ToTime) -> None:
    with pytest.raises(NotRecoverable) as refusal:
        parted.plan(target)

    assert "--timeline 1" in refusal.value.hint
    assert parted.plan(target, timeline=1).timeline == 1


def an_hour_passes(parted: Invented) -> None:
    parted.mark(81, lsn(8))


def a_person_says(parted: Invented) -> None:
    put_production(parted.repository, Lineage(SOURCE, SYSTEM, 1), lsn(7), moment=at(31))


@pytest.mark.parametrize("happens", [an_hour_passes, a_person_says])
def test_it_is_settled_by_an_hour_or_by_a_word(
    parted: Invented, happens: Callable[[Invented], None]
) -> None:
    happens(parted)

    assert found(parted) == []
    assert parted.plan(ToLatest()).timeline == 1
    assert parted.plan(ToTime(at(18))).timeline == 2  # the only one that was written then
    if happens is a_person_says:
        assert parted.plan(ToTime(at(25))).timeline == 1


def test_after_a_word_a_server_that_writes_again_is_told_again(parted: Invented) -> None:
    a_person_says(parted)
    parted.wal(range(6, 9), timeline=2)
    parted.mark(33, lsn(8), timeline=2)

    [told] = found(parted)
    with pytest.raises(NotRecoverable, match="at the same time"):
        parted.plan(ToLatest())

    assert "on timelines 1 (until" in told.fact


def test_a_word_on_the_old_server_goes_along_with_its_next_failover(parted: Invented) -> None:
    a_person_says(parted)
    parted.history(3, "1\t0/850000")
    parted.wal(range(8, 12), timeline=3)
    parted.mark(50, lsn(9), timeline=3)

    assert found(parted) == []
    assert parted.plan(ToLatest()).path == (1, 3)
