"""Verification names each thing that is wrong, and nothing that is right."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drtool.errors import ExitCode, RepositoryUnavailable
from drtool.model.finding import Severity
from drtool.model.outcome import VerifyOutcome
from drtool.model.progress import silent
from drtool.model.wal import Lsn, WalSegment
from drtool.model.window import LogGap
from drtool.report.text import Style, render
from drtool.repository import layout
from drtool.repository.backups import Manifest
from drtool.repository.layout import Lineage
from drtool.repository.log import put_history
from drtool.repository.repository import Repository
from drtool.repository.rotation import rotate_key
from drtool.repository.sealing import ObjectType
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.stores.protocol import Store, StoredObject
from drtool.system.clock import SystemClock
from drtool.verify.depth import Depth, Quick, Sampled, Whole
from drtool.verify.repository import exit_code_of, last_verified, verify_repository
from tests.repository.building import (
    EXTENT_OF_BACKUP,
    MIB,
    SYSTEM,
    ManualClock,
    a_tree,
    new_repository,
    put_segments,
    put_tail,
    store_tree,
    tamper,
)

LINEAGE = Lineage("main", SYSTEM, 1)


@dataclasses.dataclass(frozen=True)
class Kept:
    """A repository with one backup and the log from its start on."""

    repository: Repository
    manifest: Manifest
    tree: Path

    @property
    def store(self) -> Store:
        return self.repository.store

    @property
    def data_pack(self) -> str:
        """The largest pack: the one with the content of files."""
        return max(self.store.list("packs/"), key=lambda found: found.size_bytes).key


@pytest.fixture(params=["memory", "local"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    (tmp_path / "repository").mkdir()
    stores: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "local": lambda: LocalStore(tmp_path / "repository", clock=SystemClock()),
    }
    repository = new_repository(stores[request.param]())
    files = {f"base/1/{n}": os.urandom(30_000) for n in range(20)}
    tree = a_tree(tmp_path / "tree", files)
    manifest = store_tree(repository, tree)
    put_segments(repository, range(2, 6))
    put_tail(repository, 6, [(0, 500), (500, 900)])
    return Kept(repository, manifest, tree)


def verified(repository: Repository, depth: Depth = Whole(), seed: int = 1) -> VerifyOutcome:  # noqa: B008 - frozen
    return verify_repository(
        repository, depth=depth, sources=None, emit=silent, clock=ManualClock(), seed=seed
    )


def problems(outcome: VerifyOutcome) -> list[str]:
    return [
        f"{finding.subject}: {finding.fact}"
        for finding in outcome.findings
        if finding.severity is Severity.PROBLEM
    ]


def segment_key(number: int, timeline: int = 1) -> str:
    lineage = Lineage("main", SYSTEM, timeline)
    return lineage.segment_key(WalSegment(timeline, number).name(MIB))


def flip(store: Store, key: str, place: int) -> None:
    content = bytearray(store.read(key))
    content[place] ^= 0x10
    tamper(store, key, bytes(content))


@pytest.mark.parametrize(
    "depth", [Quick(), Sampled(50), Whole()], ids=["quick", "sampled", "whole"]
)
def test_a_whole_repository_has_no_findings(kept: Kept, depth: Depth) -> None:
    outcome = verified(kept.repository, depth)

    assert (outcome.findings, outcome.gaps) == ((), ())
    assert outcome.backups == 1
    assert exit_code_of(outcome) is ExitCode.DONE


def test_quick_reads_no_content_sampled_some_and_whole_all(kept: Kept) -> None:
    wal = 4 * MIB + 900
    files = sum(path.stat().st_size for path in kept.tree.rglob("*") if path.is_file())

    quick = verified(kept.repository, Quick())
    sampled = verified(kept.repository, Sampled(50))
    whole = verified(kept.repository, Whole())

    assert quick.read_bytes == 0
    assert 0 < sampled.read_bytes < whole.read_bytes
    assert whole.read_bytes >= wal + files


def test_equal_seeds_read_the_same_sample(kept: Kept) -> None:
    runs = [verified(kept.repository, Sampled(30), seed).read_bytes for seed in (7, 7, 8, 9, 10)]

    assert runs[0] == runs[1]
    assert len(set(runs)) > 1


def test_a_flipped_bit_in_a_chunk_is_found_by_reading_the_whole(kept: Kept) -> None:
    flip(kept.store, kept.data_pack, 1000)

    outcome = verified(kept.repository)

    assert any(line.startswith(f"{kept.data_pack}: ") for line in problems(outcome))
    assert any("cannot be restored whole" in line for line in problems(outcome))
    assert exit_code_of(outcome) is ExitCode.INTEGRITY
    assert exit_code_of(verified(kept.repository, Quick())) is ExitCode.DONE


@pytest.mark.parametrize("depth", [Quick(), Whole()], ids=["quick", "whole"])
def test_a_missing_pack_is_found_at_once(kept: Kept, depth: Depth) -> None:
    pack = kept.data_pack
    kept.store.delete(pack)

    outcome = verified(kept.repository, depth)

    assert f"{pack}: is missing, and a backup needs it" in problems(outcome)
    assert any("cannot be restored whole" in line for line in problems(outcome))


@pytest.mark.parametrize("length", [0, 7, 8, 5000])
def test_a_pack_that_was_cut_short_is_found_by_a_quick_look(kept: Kept, length: int) -> None:
    """PITFALLS 6 and 10."""
    pack = kept.data_pack
    tamper(kept.store, pack, kept.store.read(pack)[:length])

    outcome = verified(kept.repository, Quick())

    assert any(line.startswith(f"{pack}: ") for line in problems(outcome))
    assert exit_code_of(outcome) is ExitCode.INTEGRITY


def test_a_pack_with_bytes_inserted_is_found_by_a_quick_look(kept: Kept) -> None:
    pack = kept.data_pack
    content = kept.store.read(pack)
    tamper(kept.store, pack, content[:100] + b"more" + content[100:])

    outcome = verified(kept.repository, Quick())

    assert any("its footer speaks of" in line for line in problems(outcome))


def test_a_damaged_manifest_is_a_problem_and_the_others_are_still_verified(kept: Kept) -> None:
    store_tree(kept.repository, kept.tree, backup_id="20240502T100000Z-000002")
    flip(kept.store, layout.manifest_key("main", kept.manifest.backup_id), -1)

    outcome = verified(kept.repository)

    assert outcome.backups == 1
    assert len(problems(outcome)) == 1
    assert exit_code_of(outcome) is ExitCode.INTEGRITY


def test_a_missing_segment_in_the_middle_is_a_gap(kept: Kept) -> None:
    """PITFALLS 40: a missing middle segment looks like the end. PITFALLS 72: a lifecycle rule took it."""
    kept.store.delete(segment_key(4))

    outcome = verified(kept.repository, Quick())

    assert outcome.gaps == (LogGap(timeline=1, begin=Lsn(4 * MIB), end=Lsn(5 * MIB)),)
    assert exit_code_of(outcome) is ExitCode.NOT_RECOVERABLE


def test_a_gap_that_a_newer_backup_left_behind_is_told_and_fails_nothing(kept: Kept) -> None:
    kept.store.delete(segment_key(4))
    extent = dataclasses.replace(
        EXTENT_OF_BACKUP, start_lsn=Lsn(5 * MIB + 40), stop_lsn=Lsn(5 * MIB + 80)
    )
    store_tree(kept.repository, kept.tree, extent=extent, backup_id="20240502T100000Z-000002")

    outcome = verified(kept.repository, Quick())

    assert len(outcome.gaps) == 1
    assert [finding.severity for finding in outcome.findings] == [Severity.NOTE]
    assert "verified (quick): nothing is wrong" in render(outcome, Style(ZoneInfo("UTC")))
    assert exit_code_of(outcome) is ExitCode.DONE


def test_wal_missing_inside_a_backup_makes_that_backup_unusable(kept: Kept) -> None:
    """PITFALLS 28."""
    kept.store.delete(segment_key(2))

    outcome = verified(kept.repository, Quick())

    assert any(
        f"backup {kept.manifest.backup_id} of main: it cannot become consistent" in line
        for line in problems(outcome)
    )


def test_a_log_object_without_a_byte_is_a_problem_and_a_gap(kept: Kept) -> None:
    """PITFALLS 6: a zero-length segment."""
    tamper(kept.store, segment_key(3), b"")

    outcome = verified(kept.repository, Quick())

    assert any(segment_key(3) in line for line in problems(outcome))
    assert outcome.gaps == (LogGap(timeline=1, begin=Lsn(3 * MIB), end=Lsn(4 * MIB)),)
    assert exit_code_of(outcome) is ExitCode.INTEGRITY


def test_a_damaged_segment_is_found_by_reading_it(kept: Kept) -> None:
    flip(kept.store, segment_key(3), 120)

    outcome = verified(kept.repository)

    assert any(line.startswith(f"{segment_key(3)}: ") for line in problems(outcome))


def test_contiguity_follows_the_switch_of_a_timeline(kept: Kept) -> None:
    put_history(kept.repository, "main", SYSTEM, timeline=2, content=b"1\t0/500100\treason\n")
    put_segments(kept.repository, range(5, 8), timeline=2)

    assert verified(kept.repository, Quick()).gaps == ()

    kept.store.delete(segment_key(6, timeline=2))
    gaps = verified(kept.repository, Quick()).gaps

    assert gaps == (LogGap(timeline=2, begin=Lsn(6 * MIB), end=Lsn(7 * MIB)),)


def test_the_tail_of_the_old_timeline_must_be_there_up_to_the_switch(kept: Kept) -> None:
    """PITFALLS 18: a receiver that skips the tail of the old timeline."""
    put_history(kept.repository, "main", SYSTEM, timeline=2, content=b"1\t0/650000\treason\n")
    put_segments(kept.repository, [7], timeline=2)

    gaps = verified(kept.repository, Quick()).gaps

    assert LogGap(timeline=1, begin=Lsn(6 * MIB + 900), end=Lsn(0x650000)) in gaps


def test_a_missing_history_is_a_problem(kept: Kept) -> None:
    """PITFALLS 41: it would stop recovery on an older timeline, reported as success."""
    put_segments(kept.repository, range(5, 8), timeline=3)

    outcome = verified(kept.repository, Quick())

    assert any(
        "the history of timeline 3 of main cannot be read" in line for line in problems(outcome)
    )
    assert exit_code_of(outcome) is ExitCode.INTEGRITY


def test_a_missing_key_version_is_a_problem_and_what_is_no_slot_is_told(kept: Kept) -> None:
    """Of a slot nobody can tell whether somebody has added it."""
    rotate_key(kept.repository)
    ring = kept.repository.ring
    ring.versions[2] = ring.versions[1]
    kept.store.delete(layout.version_key(ring.repository_id, 2))
    tamper(kept.store, layout.slot_key(ring.repository_id, "00"), b"{}")

    outcome = verified(kept.repository, Quick())

    [problem] = problems(outcome)
    assert "version-0002" in problem
    told = [one for one in outcome.findings if "slot-00" in one.subject]
    assert [one.severity for one in told] == [Severity.WARNING]


class Away(MemoryStore):
    """A store that cannot be asked any more once `is_away`, in mid-listing too."""

    is_away = False

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[StoredObject]:
        yield from super().list(prefix, after=after)
        if self.is_away and prefix.startswith("log/"):
            raise RepositoryUnavailable("connection reset")


def test_a_store_that_cannot_be_asked_is_an_error_and_not_a_finding(tmp_path: Path) -> None:
    """Promise 4: "it is not there" and "I could not look" are different answers."""
    store = Away()
    repository = new_repository(store)
    store_tree(repository, a_tree(tmp_path / "tree", {}))
    store.is_away = True

    with pytest.raises(RepositoryUnavailable):
        verified(repository)

    assert last_verified(repository) is None


def test_what_was_read_is_remembered(kept: Kept) -> None:
    clock = ManualClock()
    clock.pass_(timedelta(days=3))

    outcome = verify_repository(
        kept.repository, depth=Whole(), sources=["main"], emit=silent, clock=clock, seed=5
    )

    assert last_verified(kept.repository) == clock.now()
    [found] = kept.store.list("evidence/verify/")
    document = json.loads(kept.repository.get(ObjectType.EVIDENCE, found.key))
    assert document["read_bytes"] == outcome.read_bytes
    assert sorted(document["packs"]) == sorted(pack.hex() for pack in kept.manifest.packs)


def test_a_source_without_a_backup_is_not_recoverable(kept: Kept) -> None:
    put_segments(kept.repository, [1], source="other")

    outcome = verified(kept.repository, Quick())

    assert problems(outcome) == ["backups of other: there is none that opens"]
    assert exit_code_of(outcome) is ExitCode.NOT_RECOVERABLE
