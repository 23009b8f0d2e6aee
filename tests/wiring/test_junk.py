"""The store is a postman: what somebody adds to it without the key changes no answer, and is told.

Whoever may write to the store, and has no key, puts one object beside those of a small repository. Every
screen, plan and exit code has to be as without it, save that a verification tells of the object.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drtool.cli.verdicts import code_of
from drtool.errors import ExitCode
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import VerifyOutcome
from drtool.model.request import VerifyLevel, VerifyRequest
from drtool.model.target import ToBackup, ToLatest, ToTime
from drtool.report.text import Style, render
from drtool.repository.keys import NO_SECRET
from drtool.repository.lease import Lease
from drtool.repository.repository import open_repository, remove_slot
from drtool.repository.rotation import rotate_key
from drtool.repository.sealing import ObjectType
from drtool.stores.local import LocalStore
from drtool.verify.depth import Whole
from drtool.verify.quarantine import movable
from drtool.wiring.verify import verify
from tests.repository.building import SYSTEM, objects_of, put_tail
from tests.wiring.state_rig import Past, a_past

LOG = f"log/main/{SYSTEM}"
MARKS = f"marks/main/{SYSTEM}"


def two_timelines(root: Path) -> Past:
    """Two backups, a failover, and a growing segment of which three parts are there."""
    past = a_past(root)
    past.backup(2, minutes=10)
    past.wal(range(2, 6))
    past.mark(20, 4.5)
    past.history(2, "1\t0/500000")
    past.wal(range(5, 8), timeline=2)
    put_tail(past.repository, 8, [(0, 500), (500, 900), (900, 40_000)], timeline=2)
    past.mark(50, 5.5, timeline=2)
    past.backup(6, minutes=60, timeline=2)
    past.mark(99.99, 8.001, timeline=2)
    return past


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return two_timelines(tmp_path_factory.mktemp("junk"))


def copied(past: Past, root: Path) -> Past:
    """The same repository in another directory."""
    shutil.copytree(past.root / "repository", root / "repository")
    store = LocalStore(root / "repository", clock=past.clock)
    return replace(past, root=root, repository=open_repository(store, NO_SECRET))


@dataclass(frozen=True)
class Answers:
    """What a person is shown, without what names the place."""

    status: object
    looks: object
    wal: object
    plans: object
    codes: tuple[ExitCode, ...]


def answers(past: Past) -> Answers:
    row, code = past.status()
    checked = past.checked()
    wal, gaps = past.wal_status(), past.wal_gaps()
    targets = (ToLatest(), ToTime(past.at(30)), ToBackup(row.last_backup or ""))
    plans = [past.plan(target) for target in targets]
    return Answers(
        status=replace(row, findings=without_told(row.findings)),
        looks=[(look.name, look.seen, without_told(look.findings)) for look in checked.looks],
        wal=(wal.facts, wal.findings, gaps.facts, gaps.findings),
        plans=[replace(plan, findings=without_told(plan.findings)) for plan in plans],
        codes=(code, code_of(wal), code_of(gaps)),
    )


def without_told(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What was added under the name of a backup is told, as a warning: what is used is an older one."""
    told = "nobody with the key has begun that backup"
    return tuple(
        one for one in findings if told not in one.fact or one.severity is Severity.PROBLEM
    )


A_MARK = "20240501/095959.999999-0000000000801000"
JUNK: dict[str, Callable[[Past], str]] = {
    "key version": lambda past: f"keys/{past.repository.ring.repository_id.hex()}/version-0002",
    "key version 9": lambda past: f"keys/{past.repository.ring.repository_id.hex()}/version-999999999",
    "slot": lambda past: f"keys/{past.repository.ring.repository_id.hex()}/slot-00.json",
    "mark of the future": lambda past: f"{MARKS}/00000002/20240501/095959.999999-FFFFFFFFFFFFFFFF",
    "newest mark": lambda past: f"{MARKS}/00000002/20240501/095959.999999-0000000000801000",
    "first mark": lambda past: f"{MARKS}/00000002/20240501/000000.000000-0000000000500100",
    "mark before": lambda past: f"{MARKS}/00000001/20240501/084900.000000-0000000000480100",
    "mark behind": lambda past: f"{MARKS}/00000002/20240501/085100.000000-0000000000480100",
    "mark of a timeline": lambda past: f"{MARKS}/000000FF/20240501/095959.999999-0000000000801000",
    "marks of no day": lambda past: f"{MARKS}/00000002/zz/095959.999999-0000000000801000",
    "mark without digits": lambda past: f"{MARKS}/00000002/20240501/0-5",
    "history": lambda past: f"{LOG}/histories/FFFFFFFF.history",
    "history of the next": lambda past: f"{LOG}/histories/00000003.history",
    "timeline": lambda past: f"{LOG}/000000FF/000000FF0000000000000008",
    "timeline that is none": lambda past: f"{LOG}/ZZZZZZZZ/x",
    "timeline 0": lambda past: f"{LOG}/00000000/000000000000000000000008",
    "timeline with a gap": lambda past: f"{LOG}/000000FE/gaps/0000000000500000-0000000000600000",
    "timeline with an event": lambda past: f"{LOG}/000000FE/events/0000000000500000-minimal",
    "gap": lambda past: f"{LOG}/00000002/gaps/0000000000900000-0000000001200000",
    "gap backwards": lambda past: f"{LOG}/00000002/gaps/0000000001200000-0000000000900000",
    "production": lambda past: f"{LOG}/00000001/events/0000000000480000-production-20300101000000",
    "whole beside parts": lambda past: f"{LOG}/00000002/000000020000000000000008",
    "next segment": lambda past: f"{LOG}/00000002/000000020000000000000009",
    "beside a segment": lambda past: f"{LOG}/00000002/000000020000000000000007~0a1b2c3d",
    "beside the next segment": lambda past: f"{LOG}/00000002/000000020000000000000009~0a1b2c3d",
    "beside a part": lambda past: f"{LOG}/00000002/000000020000000000000008.part-000001F4-00000384~0a1b2c3d",
    "beside a mark": lambda past: f"{MARKS}/00000002/20240501/095959.999998-0000000000801000~0a1b2c3d",
    "beside a history": lambda past: f"{LOG}/histories/00000003.history~0a1b2c3d",
    "far segment": lambda past: f"{LOG}/00000002/000000020000000000000FF0",
    "segment of another size": lambda past: f"{LOG}/00000002/0000000200000000FFFFFFFF",
    "segment of another timeline": lambda past: f"{LOG}/00000002/000000010000000000000009",
    "part that covers all": lambda past: f"{LOG}/00000002/000000020000000000000008.part-00000000-00100000",
    "part beyond its segment": lambda past: f"{LOG}/00000002/000000020000000000000008.part-00000000-00FFFFFF",
    "part that goes on": lambda past: f"{LOG}/00000002/000000020000000000000008.part-00009C40-00010000",
    "part beside a whole": lambda past: f"{LOG}/00000002/000000020000000000000007.part-00000000-00100000",
    "part of nothing": lambda past: f"{LOG}/00000002/000000020000000000000008.part-00000500-00000500",
    "branch": lambda past: f"log/main/{SYSTEM + (1 << 64)}/00000001/000000010000000000000009",
    "cluster": lambda past: "log/main/7/00000001/000000010000000000000009",
    "cluster of other digits": lambda past: "log/main/²/00000001/000000010000000000000009",
    "cluster of many digits": lambda past: f"log/main/{'9' * 200}/00000001/000000010000000000000009",
    "stream": lambda past: f"log/main/{'a' * 40}/continues/0000000000000010",
    "backup": lambda past: "backups/main/junk",
    "backup below": lambda past: "backups/main/a/b",
    "beside a backup": lambda past: "backups/main/20240501T095800.000Z-abcdef~0a1b2c3d",
    "newest backup": lambda past: "backups/main/20240501T095900.000Z-abcdef",
    "attempt": lambda past: "attempts/main/zzz",
    "beside an attempt": lambda past: "attempts/main/20240501T095800.000Z-abcdef~0a1b2c3d",
    "lease": lambda past: "leases/wal-main",
    "pack": lambda past: "packs/zz/junk",
    "pack that nothing needs": lambda past: f"packs/00/{'0' * 32}",
    "evidence": lambda past: "evidence/verify/99991231T000000.000000Z",
    "damage": lambda past: f"evidence/damage/{'0' * 32}/000000",
    "beside the root": lambda past: "drtool.json.old",
    "rescue": lambda past: "RESCUE/rescue.py.new",
    "another room": lambda past: "elsewhere/deep/down",
    "in log": lambda past: "log/junk",
    "in the log of a source": lambda past: "log/main/junk",
    "log of no source": lambda past: "log/Z Z/7/00000001/000000010000000000000009",
    "log of a source without a policy": lambda past: "log/other/7/junk",
    "cluster with a zero before": lambda past: f"log/main/0{SYSTEM}/00000001/000000010000000000000009",
    "topology": lambda past: "log/main/topology/zzz",
    "in marks": lambda past: "marks/junk",
    "in the marks of a source": lambda past: "marks/main/junk",
    "in the marks of a cluster": lambda past: f"{MARKS}/99999999T000000Z",
    "in the marks of a timeline": lambda past: f"{MARKS}/00000001/junk",
    "marks with a zero before": lambda past: f"marks/main/0{SYSTEM}/00000001/{A_MARK}",
    "in keys": lambda past: "keys/junk",
    "key of another name": lambda past: f"keys/{past.repository.ring.repository_id.hex()}/slot-00.txt",
    "in leases": lambda past: "leases/junk",
    "in attempts": lambda past: "attempts/junk",
    "in backups": lambda past: "backups/junk",
    "in evidence": lambda past: "evidence/junk",
    "backup of a source without a policy": lambda past: "backups/other/20240501T095900.000Z-abcdef",
    "pack deep down": lambda past: f"packs/deep/down/{'0' * 32}",
    "pack in another's directory": lambda past: f"packs/00/{'f' * 32}",
}  # fmt: skip
# Their names alone tell, or what a quick verification reads in any case.
TOLD_AT_ONCE = list(JUNK)[list(JUNK).index("another room") :] + [
    "slot",
    "lease",
    "mark without digits",
]


# A pack that no backup needs may be one that an interrupted backup has left.
NEEDLESS = {"pack that nothing needs"}


@pytest.fixture(scope="module")
def expected(original: Past) -> Answers:
    found = answers(original)
    assert original.verify(Whole()).findings == ()
    return found


def contents(past: Past) -> dict[str, bytes]:
    """What an object may hold that nobody with the key has put: a forged head, nothing at all, another
    object of the repository byte for byte.
    """
    forged = b"DRTOOL1L" + (1).to_bytes(4, "big") + b"nonsense " * 30
    segment = f"{LOG}/00000002/000000020000000000000007"
    return {"forged": forged, "empty": b"", "copied": past.repository.store.read(segment)}


def with_junk(original: Past, root: Path, *, cases: Iterable[str], content: str) -> Past:
    """A copy of the repository, opened anew, to which somebody has added objects."""
    past = copied(original, root)
    store = past.repository.store
    for case in cases:
        store.create(JUNK[case](past), [contents(past)[content]])
    return replace(past, repository=open_repository(store, NO_SECRET))


@pytest.mark.parametrize("content", ["forged", "empty", "copied"])
def test_objects_added_without_the_key_change_no_answer(
    original: Past, expected: Answers, content: str, tmp_path: Path
) -> None:
    past = with_junk(original, tmp_path, cases=JUNK, content=content)

    assert answers(past) == expected


@pytest.mark.parametrize("content", ["forged", "empty", "copied"])
def test_a_verification_tells_of_each_object_that_was_added_and_ends_well(
    original: Past, content: str, tmp_path: Path
) -> None:
    past = with_junk(original, tmp_path, cases=JUNK, content=content)

    quick, whole = past.verify(), past.verify(Whole())

    for outcome in (quick, whole):
        assert [one for one in outcome.findings if one.severity is Severity.PROBLEM] == []
        assert code_of(outcome) is ExitCode.DONE
    told = {one.subject for one in whole.findings}
    added = {make(past) for name, make in JUNK.items() if name not in NEEDLESS}
    assert added - told == set()
    at_once = {JUNK[name](past) for name in TOLD_AT_ONCE}
    at_once.discard(
        JUNK["backup of a source without a policy"](past)
    )  # which a quick one does not read
    assert at_once - {one.subject for one in quick.findings} == set()
    assert told - {make(past) for make in JUNK.values()} == set()


def test_a_repair_puts_aside_what_was_added_and_nothing_of_ours(
    original: Past, expected: Answers, tmp_path: Path
) -> None:
    past = with_junk(original, tmp_path, cases=JUNK, content="forged")
    store = past.repository.store
    before = objects_of(store)
    rotated = rotate_key(past.repository)
    newest = open_repository(store, NO_SECRET)
    newest.put(ObjectType.MARK, f"{MARKS}/00000001/20240501/080000.000000-0000000000200001", b"{}")

    planned = repaired(past, is_dry_run=True)
    after_plan = objects_of(store)
    done = repaired(past, is_dry_run=False)
    after = objects_of(store)

    kept = {"slot", "pack that nothing needs"}
    added = {make(past) for name, make in JUNK.items() if name not in kept}
    told = {one.subject for one in planned.findings if "would be put aside" in one.fact}
    assert (told, code_of(planned), rotated) == (added, ExitCode.DONE, 3)
    assert set(before) - set(after_plan) == set()
    assert set(before) - set(after) == added
    aside = {key.split("/", 2)[2]: key for key in after if key.startswith("quarantine/")}
    assert {key: after[place] for key, place in aside.items()} == {
        key: before[key] for key in added
    }
    assert code_of(done) is ExitCode.DONE
    assert [one for one in past.verify(Whole()).findings if one.subject in added] == []
    fixes = {one.fix for one in done.findings if one.subject in added}
    assert [fix for fix in fixes if "--repair" in fix] == []
    assert len([one for one in done.findings if one.subject in added]) == len(added)


def test_what_was_sealed_under_a_key_that_is_newer_than_the_run_is_not_put_aside(
    original: Past, tmp_path: Path
) -> None:
    past = copied(original, tmp_path)
    rotate_key(past.repository)
    newest = open_repository(past.repository.store, NO_SECRET)
    key = f"{LOG}/00000002/000000020000000000000010"
    newest.put(ObjectType.LOG, key, bytes(1 << 20))

    assert key in past.verify(Whole()).foreign  # as this run's keys tell
    assert movable(past.repository, [key]) == ()


@pytest.fixture(scope="module")
def added(original: Past, tmp_path_factory: pytest.TempPathFactory) -> Past:
    """A repository with a few objects that somebody made by `touch`, and a key of another repository."""
    cases = ("newest backup", "slot", "in log")
    past = with_junk(original, tmp_path_factory.mktemp("added"), cases=cases, content="empty")
    past.repository.store.create(ANOTHERS, [b"cut off"])
    return past


ANOTHERS = f"keys/{'ab' * 16}/slot-0123456789abcdef.json"


def test_status_and_a_verification_say_the_same_of_a_manifest_that_somebody_added(
    added: Past,
) -> None:
    key = JUNK["newest backup"](added)

    row, _ = added.status()

    [shown] = [one for one in row.findings if "is no manifest" in one.fact]
    assert [one for one in added.verify().findings if one.subject == key] == [shown]
    assert "it changes nothing" in shown.fact
    assert "another backup" not in shown.fix


def test_a_slot_that_is_none_is_named_once_and_told_how_it_goes(added: Past) -> None:
    key = JUNK["slot"](added)

    [told] = [one for one in added.verify().findings if one.subject == key]

    assert told.fact == "is not a key slot: it is empty"
    assert "repository key remove" in told.fix
    assert "--repair" not in told.fix
    remove_slot(added.repository, "00", kept=NO_SECRET)  # as the advice says
    assert [one for one in added.verify().findings if one.subject == key] == []
    added.repository.store.create(key, [b""])


def test_warnings_stand_in_the_headline(added: Past) -> None:
    assert "verified (quick): 4 warnings" in render(added.verify(), Style(ZoneInfo("UTC")))


def test_a_key_of_another_repository_is_told_and_never_moved(added: Past) -> None:
    planned = repaired(added, is_dry_run=True)

    [told] = [one for one in planned.findings if one.subject == ANOTHERS]
    assert "another repository" in told.fact
    assert "it stays" in told.fact
    assert movable(added.repository, [ANOTHERS]) == ()


def test_a_lease_that_a_run_took_meanwhile_is_not_put_aside(added: Past) -> None:
    with Lease(added.repository, "wal-main", clock=added.clock):
        assert movable(added.repository, ["leases/wal-main"]) == ()


def test_a_thousand_of_many_objects_are_named_and_the_rest_counted(
    original: Past, tmp_path: Path
) -> None:
    past = copied(original, tmp_path)
    for number in range(1100):
        (past.root / "repository" / "log" / f"junk{number}").touch()

    findings = past.verify().findings

    assert len(findings) == 1001
    assert findings[-1].fact.startswith("holds 100 more objects")


def repaired(past: Past, *, is_dry_run: bool) -> VerifyOutcome:
    request = VerifyRequest(
        sources=(), level=VerifyLevel.WHOLE, percent=100, is_dry_run=is_dry_run, repairs=True
    )
    outcome = verify(request, past.policy, past.around)
    assert isinstance(outcome, VerifyOutcome)
    return outcome


@pytest.mark.soak
@pytest.mark.parametrize("content", ["forged", "empty", "copied"])
@pytest.mark.parametrize("case", JUNK)
def test_each_object_added_without_the_key_changes_no_answer(
    original: Past, expected: Answers, case: str, content: str, tmp_path: Path
) -> None:
    past = with_junk(original, tmp_path, cases=[case], content=content)

    assert answers(past) == expected
