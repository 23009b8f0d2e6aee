"""The store is a postman for streams of Redis too: an object added without the key changes no answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drtool.errors import ExitCode
from drtool.model.finding import Finding, Severity
from drtool.model.target import ToLatest, ToTime
from drtool.repository.keys import NO_SECRET
from drtool.repository.lease import is_lease
from drtool.repository.repository import open_repository
from drtool.stores.local import LocalStore
from drtool.verify.depth import Whole
from drtool.verify.repository import exit_code_of
from tests.wiring.redis_state_rig import A, C, D, RedisPast, over_two_failovers

LOG, MARKS = "log/cache", "marks/cache"
JUNK = (
    f"{LOG}/{C}/000000000000024E-0000000000000300",  # goes on behind the end
    f"{LOG}/{C}/0000000000001000-0000000000001100",  # lies behind a hole
    f"{LOG}/{C}/0000000000000226-0000000000000240",  # begins with the last one
    f"{LOG}/{C}/000000000000020A-0000000000000245",  # reaches across two
    f"{LOG}/{A}/0000000000000096-000000000000014F",  # reaches across three
    f"{LOG}/{A}/0000000000000070-0000000000000078",  # lies within one
    f"{LOG}/{A}/0000000000000040-0000000000000064",  # ends where the first begins
    f"{LOG}/{C}/continues/0000000000000230",
    f"{LOG}/{D}/continues/000000000000024E",
    f"{LOG}/{D}/0000000000000010-0000000000000020",
    f"{LOG}/{C}/begins/0000000000000240",
    f"{LOG}/{C}/late/0000000000000240-0000000000000245",
    f"{LOG}/{C}/late/0000000000000240",
    f"{LOG}/{C}/nonsense",
    f"{LOG}/topology/20990101T000000.000000Z",
    f"{LOG}/topology/nonsense",
    f"{LOG}/ZZ/x",
    f"{MARKS}/{C}/known/reached/FFFFFFFFFFFFFFFF",
    f"{MARKS}/{C}/known/continues/0000000000000FFF",
    f"{MARKS}/{C}/known/begins/0000000000000FFF",
    f"{MARKS}/{C}/known/nonsense",
    f"{MARKS}/{D}/known/reached/0000000000000FFF",
    f"{MARKS}/{C}/20240501/095500.000000-0000000000000FFF",
    "backups/cache/20240501T095900.000Z-abcdef",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RedisPast:
    return over_two_failovers(tmp_path_factory.mktemp("junk"))


@dataclass(frozen=True)
class Answers:
    """What a person is shown."""

    status: object
    checked: object
    plans: object
    code: ExitCode


def answers(past: RedisPast) -> Answers:
    row, code = past.status()
    plans = [
        past.plan(ToLatest()),
        past.plan(ToTime(past.at(530))),
        past.plan(ToTime(past.at(250))),
    ]
    return Answers(
        status=replace(row, findings=without_told(row.findings)),
        checked=without_told(past.checked()),
        plans=[replace(plan, findings=without_told(plan.findings)) for plan in plans],
        code=code,
    )


def without_told(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What was added under the name of a backup is told, as a warning: what is used is an older one."""
    told = "nobody with the key has begun that backup"
    return tuple(
        one for one in findings if told not in one.fact or one.severity is Severity.PROBLEM
    )


@pytest.mark.parametrize("content", ["forged", "empty", "copied"])
def test_objects_added_without_the_key_change_no_answer_and_are_told(
    original: RedisPast, content: str, tmp_path: Path
) -> None:
    expected = answers(original)
    shutil.copytree(original.root / "repository", tmp_path / "repository")
    store = LocalStore(tmp_path / "repository", clock=original.clock)
    contents = {
        "forged": b"DRTOOL1L" + (1).to_bytes(4, "big") + b"nonsense " * 30,
        "empty": b"",
        "copied": store.read(f"{LOG}/{C}/0000000000000226-000000000000024E"),
    }
    for key in JUNK:
        store.create(key, [contents[content]])

    past = replace(original, root=tmp_path, repository=open_repository(store, NO_SECRET))

    assert answers(past) == expected
    outcome = past.verify(Whole())
    assert [one for one in outcome.findings if one.severity is Severity.PROBLEM] == []
    assert exit_code_of(outcome) is ExitCode.DONE
    assert set(JUNK) - {one.subject for one in outcome.findings} == set()
    assert not is_lease(past.repository, JUNK[0])


def test_a_segment_whose_name_is_taken_is_put_and_read_beside_it(tmp_path: Path) -> None:
    past = over_two_failovers(tmp_path)
    expected = past.plan(ToLatest()).recoverable_until
    past.repository.store.create(f"{LOG}/{C}/000000000000024E-0000000000000280", [b"taken"])
    past.repository.store.create(f"{LOG}/{C}/begins/0000000000000300", [b"taken"])

    past.held(C, 590, 640, seconds=595)
    past.begin(C, 0x300, seconds=1)

    assert expected != past.at(595)
    assert past.plan(ToLatest()).recoverable_until == past.at(595)
    assert len([key for key in past.keys(LOG) if "~" in key]) == 2
