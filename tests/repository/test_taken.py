"""Names that somebody without the key has taken: what is ours is put, and found, beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drtool.errors import AlreadyExists, NotAuthentic
from drtool.model.objective import Mark
from drtool.model.wal import Lsn, WalSegment
from drtool.repository import layout
from drtool.repository.damage import known_damage, remember_damage
from drtool.repository.layout import Lineage, SegmentPart
from drtool.repository.log import put_history, read_history, read_segment
from drtool.repository.log_events import MINIMAL, LogEvent, put_event
from drtool.repository.log_inventory import take_inventory
from drtool.repository.marks import newest_mark, put_mark
from drtool.repository.names import is_beside
from drtool.repository.repository import Repository, open_repository
from drtool.repository.rotation import recorded_versions, rotate_key
from drtool.repository.sealing import ObjectType
from tests.repository.building import (
    MIB,
    NOW,
    SECRET,
    SYSTEM,
    new_repository,
    put_segments,
    put_tail,
    wal_bytes,
)

LINEAGE = Lineage("main", SYSTEM, 1)
FORGED = b"DRTOOL1L" + (1).to_bytes(4, "big") + bytes(200)
SEGMENT = "000000010000000000000003"


def inventory_runs(repository: Repository) -> list[tuple[int, int]]:
    found = take_inventory(repository, "main", SYSTEM, segment_bytes=MIB)
    return [(run.begin, run.end) for run in found.timelines[1].runs]


def put_a_segment(repository: Repository) -> None:
    put_segments(repository, [3])

    assert read_segment(repository, LINEAGE, WalSegment(1, 3), segment_bytes=MIB) == wal_bytes(3)
    assert inventory_runs(repository) == [(3 * MIB, 4 * MIB)]


def put_a_part(repository: Repository) -> None:
    put_tail(repository, 3, [(0, 500), (500, 900)])

    held = read_segment(repository, LINEAGE, WalSegment(1, 3), segment_bytes=MIB)
    assert held == wal_bytes(3)[:900].ljust(MIB, b"\0")
    assert inventory_runs(repository) == [(3 * MIB, 3 * MIB + 900)]


def put_a_history(repository: Repository) -> None:
    content = b"1\t0/300000\tno reason\n"
    put_history(repository, "main", SYSTEM, timeline=2, content=content)

    assert read_history(repository, "main", SYSTEM, timeline=2).path() == (1, 2)
    assert take_inventory(repository, "main", SYSTEM, segment_bytes=MIB).histories == {2}


def put_the_newest_mark(repository: Repository) -> None:
    mark = Mark(NOW, 4 * MIB, 1)
    put_mark(repository, LINEAGE, mark)

    assert newest_mark(repository, LINEAGE, most_lsn=5 * MIB) == mark


def put_an_event(repository: Repository) -> None:
    put_segments(repository, [3])
    put_event(repository, LINEAGE, LogEvent(lsn=Lsn(3 * MIB + 8), kind=MINIMAL, facts={}))

    found = take_inventory(repository, "main", SYSTEM, segment_bytes=MIB)
    assert [event.lsn for event in found.timelines[1].events] == [3 * MIB + 8]


def put_word_of_damage(repository: Repository) -> None:
    remember_damage(repository, {"packs/00/x": "it is gone"})

    assert set(known_damage(repository)) == {"packs/00/x"}


TAKEN: dict[str, Callable[[Repository], None]] = {
    LINEAGE.segment_key(SEGMENT): put_a_segment,
    LINEAGE.part_key(SEGMENT, 0, 500): put_a_part,
    LINEAGE.part_key(SEGMENT, 500, 900): put_a_part,
    layout.history_key("main", SYSTEM, 2): put_a_history,
    LINEAGE.mark_key(NOW, 4 * MIB): put_the_newest_mark,
    LINEAGE.event_key(Lsn(3 * MIB + 8), MINIMAL): put_an_event,
    "evidence/damage/598d7c8136eb58bd249441f9446ef973/000000": put_word_of_damage,
}


@pytest.mark.parametrize("content", [FORGED, b""], ids=["forged", "empty"])
@pytest.mark.parametrize("key", TAKEN)
def test_a_name_that_is_taken_stops_nothing(key: str, content: bytes) -> None:
    repository = new_repository()
    repository.store.create(key, [content])

    TAKEN[key](repository)

    assert repository.store.read(key) == content
    assert [one for one in repository.store.list(key) if is_beside(one.key, key)]


def test_a_rotation_passes_over_a_number_that_is_taken_and_loses_to_a_quicker_one() -> None:
    repository = new_repository()
    repository.store.create(layout.version_key(repository.ring.repository_id, 2), [bytes(60)])

    assert rotate_key(repository) == 3
    with pytest.raises(AlreadyExists):
        rotate_key(repository)

    again = open_repository(repository.store, SECRET)
    assert again.ring.newest == 3
    assert recorded_versions(again) == {1, 3}


def test_where_an_object_of_ours_stands_nothing_is_put_beside_it() -> None:
    repository = new_repository()
    repository.put(ObjectType.LOG, "log/main/x", b"one")

    with pytest.raises(AlreadyExists):
        repository.put(ObjectType.LOG, "log/main/x", b"two")

    assert repository.get(ObjectType.LOG, "log/main/x") == b"one"
    assert [found.key for found in repository.store.list("log/")] == ["log/main/x"]


def test_an_object_put_beside_a_name_opens_under_no_other() -> None:
    repository = new_repository()
    repository.store.create("log/main/x", [b"taken"])
    repository.put(ObjectType.LOG, "log/main/x", b"ours")
    [beside] = [one.key for one in repository.store.list("log/main/x~")]

    repository.store.create("log/main/y", [repository.store.read(beside)])

    with pytest.raises(NotAuthentic):
        repository.get(ObjectType.LOG, "log/main/y")


def test_the_part_under_a_taken_name_is_one_piece_of_its_segment() -> None:
    assert layout.parse_log_name(f"{SEGMENT}.part-00000000-000001F4~0a1b2c3d") == SegmentPart(
        SEGMENT, 0, 500
    )
    assert layout.parse_log_name(f"{SEGMENT}~0a1b2c3d~0a1b2c3d") is None
