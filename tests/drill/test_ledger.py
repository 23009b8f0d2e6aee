"""The ledger of acknowledged writes: what it holds was acknowledged, and survives."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.drill.ledger import Ledger, LedgerEntry, read_ledger
from drtool.errors import IntegrityError

NOW = datetime(2024, 5, 1, 10, 0, 0, 123456, tzinfo=UTC)


def entry(writer: int, number: int) -> LedgerEntry:
    return LedgerEntry(
        writer=writer, number=number, begun=NOW, acknowledged=NOW + timedelta(microseconds=number)
    )


def test_what_is_appended_is_read_back_to_the_microsecond(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    for number in range(1, 4):
        ledger.append(entry(1, number))

    # Not closed: whoever is killed after an append has not lost it.
    found = read_ledger(tmp_path / "ledger")

    assert found == ledger.entries() == [entry(1, 1), entry(1, 2), entry(1, 3)]
    ledger.close()


def test_many_writers_never_tear_a_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")

    def write(writer: int) -> None:
        for number in range(1, 51):
            ledger.append(entry(writer, number))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()

    found = read_ledger(tmp_path / "ledger")
    assert sorted(one.name for one in found) == [(w, n) for w in range(1, 5) for n in range(1, 51)]


def test_a_last_line_that_was_cut_off_was_acknowledged_to_nobody(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.append(entry(1, 1))
    ledger.append(entry(1, 2))
    ledger.close()
    path = tmp_path / "ledger"
    path.write_bytes(path.read_bytes()[:-10])

    assert read_ledger(path) == [entry(1, 1)]


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_text("1 1 nonsense\n")

    with pytest.raises(IntegrityError, match="ledger:1"):
        read_ledger(path)


def test_a_ledger_is_never_begun_over_another(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger").close()

    with pytest.raises(FileExistsError):
        Ledger(tmp_path / "ledger")
