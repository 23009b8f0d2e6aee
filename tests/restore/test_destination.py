"""Where a restore writes, and where it refuses to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from drtool.errors import DestinationRefused, ExitCode, IntegrityError
from drtool.model.progress import silent
from drtool.model.target import ToLatest
from drtool.repository.chunks import ChunkReader
from drtool.repository.repository import Repository
from drtool.restore.destination import (
    Destination,
    check_destination,
    make_destination,
)
from drtool.restore.fetch import fetch_files, put_control
from drtool.restore.look import look
from drtool.restore.phases import Phases
from drtool.restore.plan import RestorePlan, plan_restore
from drtool.system.clock import SystemClock
from drtool.system.users import RunAs, current_user
from tests.repository.building import (
    EXTENT_OF_BACKUP,
    a_tree,
    new_repository,
    put_segments,
    store_tree,
)

SOURCE = "main"
OID = 16999


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """Where the source has its tablespace."""
    place = tmp_path / "live space"
    place.mkdir()
    (place / "table").write_bytes(b"live")
    return place


@pytest.fixture
def repository(tmp_path: Path, live: Path) -> Repository:
    repository = new_repository()
    tree = a_tree(
        tmp_path / "tree",
        {
            "base/1/1": bytes(range(256)) * 4000,
            "base/1/2": b"",
            "backup_label": b"START WAL LOCATION: 0/200028 (file x)\n",
            "standby.signal": b"",
            f"pg_tblspc/{OID}/PG_15_1/5/table": b"copied",
        },
    )
    extent = replace(EXTENT_OF_BACKUP, tablespaces=((OID, str(live)),))
    store_tree(repository, tree, extent=extent)
    put_segments(repository, range(2, 5))
    return repository


@pytest.fixture
def plan(repository: Repository) -> RestorePlan:
    return plan_restore(look(repository, SOURCE, ToLatest()), ToLatest())


def checked(
    plan: RestorePlan,
    into: Path,
    *,
    owner: RunAs | None = None,
    spaces: Mapping[str, Path] | None = None,
) -> Destination:
    return check_destination(plan, into, owner=owner or current_user(), tablespaces=spaces or {})


def test_a_directory_with_anything_in_it_is_refused_and_left_alone(
    plan: RestorePlan, tmp_path: Path
) -> None:
    """PITFALLS 53: nothing is overwritten and nothing deleted."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("kept")

    with pytest.raises(DestinationRefused, match="found precious") as refusal:
        checked(plan, tmp_path / "full")

    assert refusal.value.exit_code == ExitCode.DESTINATION_REFUSED
    assert (tmp_path / "full" / "precious").read_text() == "kept"


def test_a_directory_that_was_filled_meanwhile_is_refused(
    plan: RestorePlan, tmp_path: Path
) -> None:
    """PITFALLS 53: the look before the plan is not the last one."""
    destination = checked(plan, tmp_path / "new")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "precious").write_text("kept")

    with pytest.raises(DestinationRefused, match="found precious"):
        make_destination(destination)


@pytest.mark.parametrize("kind", ["file", "dangling link", "root", "line break", "lost+found"])
def test_places_that_are_no_new_directory_are_refused(
    plan: RestorePlan, tmp_path: Path, kind: str
) -> None:
    """PITFALLS 53: a mount point, a link to nowhere, a file."""
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("")
    elif kind == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    elif kind == "root":
        place = Path("/")
    elif kind == "line break":
        place = tmp_path / "two\nlines"
    else:
        (place / "lost+found").mkdir(parents=True)

    with pytest.raises(DestinationRefused):
        checked(plan, place)


def test_a_link_to_an_empty_directory_is_followed_to_it(plan: RestorePlan, tmp_path: Path) -> None:
    """PITFALLS 26."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    destination = checked(plan, tmp_path / "link")

    assert destination.data == tmp_path / "real"


def test_a_tablespace_never_goes_where_the_source_has_it(
    plan: RestorePlan, tmp_path: Path, live: Path
) -> None:
    """PITFALLS 25: not there, not below it, not around it."""
    for place in (live, live / "below", live.parent):
        with pytest.raises(DestinationRefused):
            checked(plan, tmp_path / "copy", spaces={str(OID): place})


def test_tablespaces_go_beside_the_copy_unless_the_policy_says_where(
    plan: RestorePlan, tmp_path: Path, live: Path
) -> None:
    """PITFALLS 25."""
    beside = checked(plan, tmp_path / "copy")
    elsewhere = checked(plan, tmp_path / "copy", spaces={str(live): tmp_path / "there"})

    assert beside.tablespaces[0].path == tmp_path / "copy-tablespaces" / str(OID)
    assert elsewhere.tablespaces[0].path == tmp_path / "there"


def test_too_little_room_is_refused_before_anything_is_copied(
    plan: RestorePlan, tmp_path: Path
) -> None:
    """PITFALLS 57."""
    sizes = replace(plan.manifest.sizes, read_bytes=1 << 60)
    huge = replace(plan, manifest=replace(plan.manifest, sizes=sizes))

    with pytest.raises(DestinationRefused, match="free, and the restore needs"):
        checked(huge, tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


def test_a_place_that_the_servers_user_cannot_reach_is_refused(
    plan: RestorePlan, tmp_path: Path
) -> None:
    """PITFALLS 61."""
    (tmp_path / "closed").mkdir(mode=0o700)
    other = RunAs(uid=os.geteuid() + 4321, gid=os.getegid() + 4321, name="other")

    with pytest.raises(DestinationRefused, match="is closed to it"):
        checked(plan, tmp_path / "closed" / "copy", owner=other)


@pytest.mark.parametrize("path", [b"../out", b"/etc/x", b"base/../../out", b"", b"a//b", b"a/\0"])
def test_a_path_of_the_table_that_leads_outside_is_refused(
    plan: RestorePlan, tmp_path: Path, path: bytes
) -> None:
    """PITFALLS 53, 62: a manifest is data, and data does not choose where we write."""
    destination = checked(plan, tmp_path / "copy")

    with pytest.raises(IntegrityError, match="no place in a data directory"):
        destination.place_of(path)


def test_files_are_written_where_they_belong_and_the_control_file_last(
    repository: Repository, plan: RestorePlan, tmp_path: Path, live: Path
) -> None:
    """PITFALLS 25, 61: modes, empty directories, tablespaces; nothing startable before the end."""
    destination = checked(plan, tmp_path / "copy")
    make_destination(destination)
    reader = ChunkReader(repository.store, repository.ring)

    fetched = fetch_files(
        plan.manifest, reader, destination, workers=3, phases=Phases(SystemClock(), silent)
    )

    copy = tmp_path / "copy"
    assert not (copy / "global" / "pg_control").exists()
    assert not (copy / "standby.signal").exists()
    assert (copy / "base/1/1").read_bytes() == bytes(range(256)) * 4000
    assert (copy / "base/1/2").read_bytes() == b""
    assert copy.stat().st_mode & 0o777 == 0o700
    assert (copy / "base").stat().st_mode & 0o777 in (0o700, 0o750)
    assert (copy / "pg_notify").is_dir()
    assert (copy / "pg_wal" / "archive_status").is_dir()
    moved = tmp_path / "copy-tablespaces" / str(OID) / "PG_15_1" / "5" / "table"
    assert moved.read_bytes() == b"copied"
    assert [entry.name for entry in live.iterdir()] == ["table"]

    put_control(fetched, destination)

    assert (copy / "global" / "pg_control").read_bytes() == b"control"


def test_a_full_disk_is_a_refused_destination_and_nothing_can_be_started(
    repository: Repository, plan: RestorePlan, tmp_path: Path
) -> None:
    """PITFALLS 57: here a directory that cannot be written into, in the middle of the files."""
    destination = checked(plan, tmp_path / "copy")
    make_destination(destination)
    (tmp_path / "copy" / "base").write_text("in the way")
    reader = ChunkReader(repository.store, repository.ring)

    with pytest.raises(DestinationRefused, match="cannot be written"):
        fetch_files(
            plan.manifest, reader, destination, workers=3, phases=Phases(SystemClock(), silent)
        )

    assert not (tmp_path / "copy" / "global" / "pg_control").exists()
