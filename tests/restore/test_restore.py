"""Restores of real clusters, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtool.model.progress import Event, PhaseAdvanced, PhaseBegan
from drtool.model.target import ToLatest, ToTime
from drtool.model.wal import Lsn
from tests.restore.rig import (
    local_store,
    moment_of,
    protected,
    restore,
    rows,
    settle,
    started,
    take_backup,
)
from tests.servers.postgres import MakePostgres

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize("major", [15, 18])
def test_a_cluster_comes_back_to_the_latest_moment_and_to_one_in_the_middle(
    make_postgres: MakePostgres, server_root: Path, tmp_path: Path, major: int
) -> None:
    server = make_postgres(major)
    server.query("CREATE TABLE ledger (id int PRIMARY KEY)")
    with protected(server, local_store(tmp_path)) as repository:
        server.query("INSERT INTO ledger VALUES (1)")
        manifest = take_backup(repository, server)
        server.query("INSERT INTO ledger VALUES (2)")
        middle = moment_of(server)
        server.query("INSERT INTO ledger VALUES (3)")
        settle(repository, server)
    latest_at, middle_at = server_root / "latest copy", server_root / "middle"

    events: list[Event] = []
    questions = ["SELECT count(*) = 3 FROM ledger"]
    latest = restore(
        repository, latest_at, target=ToLatest(), questions=questions, emit=events.append
    )
    to_middle = restore(repository, middle_at, target=ToTime(middle))

    with started(major, latest_at) as copy:
        assert rows(copy) == [1, 2, 3]
    with started(major, middle_at) as copy:
        assert rows(copy) == [1, 2]
    assert all(question.passed for question in latest.questions)
    assert to_middle.reached.commit_time is not None
    assert to_middle.reached.commit_time <= middle
    begun = [event for event in events if isinstance(event, PhaseBegan) and event.phase == "replay"]
    told = [
        event for event in events if isinstance(event, PhaseAdvanced) and event.phase == "replay"
    ]
    replayed = told[-1].done
    assert [event.unit for event in begun] == ["bytes"]
    assert begun[0].total is not None
    assert 0 < replayed <= begun[0].total
    assert told[-1].detail == f"at {Lsn(manifest.postgres.start_lsn + replayed)}"
    assert [phase.name for phase in latest.phases] == [
        "plan", "provision", "fetch", "replay", "promote", "answer", "verify", "finish",
    ]  # fmt: skip
