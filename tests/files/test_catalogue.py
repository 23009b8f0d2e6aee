"""The catalogue remembers what is stored, survives a kill at any moment, and is begun anew if it must."""

from __future__ import annotations

import dataclasses
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from drtool.errors import LeaseHeld
from drtool.sources.files.catalogue import (
    Catalogue,
    CatalogueUnavailable,
    KnownFile,
    default_place,
    open_catalogue,
)
from drtool.sources.files.guard import PlaceSigns
from drtool.sources.files.unchanged import Signs

WHO = "uploads s3://mirror/uploads"


def known(path: bytes, run: int, size: int = 10) -> KnownFile:
    signs = Signs(size_bytes=size, modified_ns=5, changed_ns=6, inode=(1 << 64) - 2)
    return KnownFile(
        path=path, signs=signs, content=b"\x01" * 32, entropy=7.25, version="v1", run=run
    )


def _fill(catalogue: Catalogue, count: int) -> list[KnownFile]:
    run = catalogue.begin_run(1000)
    files = [known(b"dir/%05d" % number, run.run) for number in range(count)]
    catalogue.record(files)
    catalogue.end_run(run)
    return files


def test_what_was_recorded_is_found_again_after_it_was_closed(tmp_path: Path) -> None:
    path = tmp_path / "cache/catalogue.sqlite"
    catalogue = open_catalogue(path, identity=WHO)
    assert catalogue.begun_anew == "there was none"
    odd = [known(b"\xff\n\0".replace(b"\0", b"x"), 1), known(b"dir/" + b"y" * 255, 1)]
    odd.append(dataclasses.replace(known(b"plain", 1), version=None, entropy=None))
    catalogue.record(odd)
    place = PlaceSigns(is_mount_point=True, device=65, file_system_id=(1 << 64) - 1)
    catalogue.remember_place(place)
    catalogue.close()

    again = open_catalogue(path, identity=WHO)

    assert again.begun_anew is None
    assert again.find([file.path for file in odd] + [b"other"]) == {file.path: file for file in odd}
    assert again.place() == place
    assert again.counts() == (3, 30)
    again.close()


def test_files_come_in_order_of_path_page_by_page(tmp_path: Path) -> None:
    catalogue = open_catalogue(tmp_path / "c", identity=WHO)
    files = _fill(catalogue, 2500)
    catalogue.record([known(b"", 1), known(b"\xff", 1)])

    paths = [file.path for file in catalogue]

    assert paths == sorted([b"", b"\xff", *(file.path for file in files)])
    assert len(catalogue.find([file.path for file in files])) == 2500
    catalogue.close()


def test_what_a_run_did_not_see_is_what_is_gone(tmp_path: Path) -> None:
    catalogue = open_catalogue(tmp_path / "c", identity=WHO)
    files = _fill(catalogue, 1500)
    run = catalogue.begin_run(2000)
    catalogue.saw((file.path for file in files[:1400]), run)
    catalogue.record([known(b"new", run.run)])

    gone = [file.path for file in catalogue.not_seen(run)]
    for file in catalogue.not_seen(run):
        catalogue.forget([file.path])
    catalogue.end_run(run)

    assert gone == [file.path for file in files[1400:]]
    assert catalogue.counts()[0] == 1401
    catalogue.close()


def test_a_run_that_was_given_up_is_taken_up_with_its_own_beginning(tmp_path: Path) -> None:
    path = tmp_path / "c"
    catalogue = open_catalogue(path, identity=WHO)
    _fill(catalogue, 3)
    first = catalogue.begin_run(5000)
    catalogue.record([known(b"done", first.run)])
    catalogue.close()

    catalogue = open_catalogue(path, identity=WHO)
    ended = catalogue.last_ended()
    resumed = catalogue.begin_run(9000)

    assert resumed == first
    assert ended is not None
    assert ended.began_ns == 1000
    assert catalogue.find([b"done"])[b"done"].run == resumed.run
    catalogue.end_run(resumed)
    assert catalogue.unfinished() is None
    assert catalogue.begin_run(9000).run > resumed.run
    catalogue.close()


def test_a_run_that_an_alarm_stopped_is_not_resumed(tmp_path: Path) -> None:
    catalogue = open_catalogue(tmp_path / "c", identity=WHO)
    _fill(catalogue, 3)
    stopped = catalogue.begin_run(5000)

    catalogue.abandon_run(stopped)

    assert catalogue.unfinished() is None
    assert catalogue.begin_run(6000).began_ns == 6000
    catalogue.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.files.test_catalogue import WHO, known
from drtool.sources.files.catalogue import open_catalogue
catalogue = open_catalogue(Path(sys.argv[1]), identity=WHO)
run = catalogue.begin_run(1)
for batch in range(100000):
    catalogue.record([known(b"%d/%d" % (batch, number), run.run) for number in range(10)])
    print(batch, flush=True)
"""


def test_a_kill_loses_no_batch_that_was_recorded_and_leaves_no_half_one(tmp_path: Path) -> None:
    path = tmp_path / "c"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = [int(next(process.stdout)) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    said += [int(line) for line in process.stdout]
    process.wait(60)
    process.stdout.close()

    catalogue = open_catalogue(path, identity=WHO)

    assert catalogue.begun_anew is None
    batches: dict[bytes, int] = {}
    for file in catalogue:
        batch = file.path.split(b"/")[0]
        batches[batch] = batches.get(batch, 0) + 1
    assert set(batches.values()) == {10}
    assert {b"%d" % batch for batch in said} <= batches.keys()
    assert catalogue.unfinished() is not None
    catalogue.close()


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    catalogue = open_catalogue(tmp_path / "c", identity=WHO)

    with pytest.raises(LeaseHeld, match="in use by another run"):
        open_catalogue(tmp_path / "c", identity=WHO)

    catalogue.close()
    open_catalogue(tmp_path / "c", identity=WHO).close()


def _overwrite_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * 40_000)


def _set_version(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(b"no database" * 1000), "damaged"),
        (lambda path: path.write_bytes(b""), "schema version 0"),
        (_overwrite_middle, "damaged"),
        (_set_version, "schema version 99"),
    ],
)
def test_a_catalogue_that_cannot_be_trusted_is_begun_anew(
    tmp_path: Path, spoil: object, why: str
) -> None:
    """PITFALLS 57: a note of what was done is no proof of it."""
    assert callable(spoil)
    path = tmp_path / "c"
    catalogue = open_catalogue(path, identity=WHO)
    _fill(catalogue, 2000)
    catalogue.close()

    spoil(path)
    catalogue = open_catalogue(path, identity=WHO)

    assert why in str(catalogue.begun_anew)
    assert list(catalogue) == []
    assert len(_fill(catalogue, 5)) == catalogue.counts()[0]
    catalogue.close()


def test_a_catalogue_of_another_mirror_is_not_believed(tmp_path: Path) -> None:
    catalogue = open_catalogue(tmp_path / "c", identity=WHO)
    _fill(catalogue, 5)
    catalogue.close()

    catalogue = open_catalogue(tmp_path / "c", identity="uploads s3://other/uploads")

    assert catalogue.begun_anew == "it was of another source or mirror"
    assert list(catalogue) == []
    catalogue.close()


def test_a_place_that_cannot_be_written_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(CatalogueUnavailable) as caught:
        open_catalogue(tmp_path / "file/c", identity=WHO)

    assert caught.value.hint


def test_each_source_and_mirror_has_a_place_of_its_own(tmp_path: Path) -> None:
    places = {default_place(who, tmp_path) for who in (WHO, WHO + "/x", "../../etc")}

    assert len(places) == 3
    assert all(place.parent == tmp_path for place in places)
    assert default_place(WHO).parent.name == "drtool"
