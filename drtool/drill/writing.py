"""Writers: sessions that write one row a transaction, and enter each acknowledged one in a ledger."""

from __future__ import annotations

import threading
from collections.abc import Set as AbstractSet

import psycopg

from drtool.drill.ledger import Ledger, LedgerEntry
from drtool.sources.postgres.connection import WRITING, connect
from drtool.system.clock import Clock

TABLE = "drtool_drill_writes"
JOIN_SECONDS = 30.0


def prepare_table(dsn: str) -> None:
    """Make the table that writers fill."""
    with connect(dsn, purpose="drill", search_path="public", settings=WRITING) as connection:
        connection.execute(
            f"CREATE TABLE {TABLE} (writer int, number bigint, payload text,"
            " at timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (writer, number))"
        )


def recovered_writes(dsn: str) -> AbstractSet[tuple[int, int]]:
    """The writes that a database holds."""
    with connect(dsn, purpose="drill", search_path="public") as connection:
        rows = connection.execute(f"SELECT writer, number FROM {TABLE}").fetchall()  # noqa: S608 - our own name
    return {(writer, number) for writer, number in rows}


class Writers:
    """`count` sessions that write until they are stopped, or the server dies under them."""

    def __init__(self, dsn: str, ledger: Ledger, *, count: int, clock: Clock) -> None:
        self._dsn = dsn
        self._ledger = ledger
        self._clock = clock
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._write, args=(writer,), name=f"writer {writer}", daemon=True
            )
            for writer in range(1, count + 1)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask all to end, and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _write(self, writer: int) -> None:
        # Not connect(): a writer is a stranger to drtool, with nothing but a DSN.
        insert = f"INSERT INTO public.{TABLE} (writer, number, payload) VALUES (%s, %s, %s)"  # noqa: S608 - our own name
        number = 0
        try:
            with psycopg.connect(self._dsn, autocommit=True, connect_timeout=10) as connection:
                while not self._stop.is_set():
                    number += 1
                    begun = self._clock.now()
                    connection.execute(insert, (writer, number, f"{writer}-{number} " * 20))
                    entry = LedgerEntry(
                        writer=writer, number=number, begun=begun, acknowledged=self._clock.now()
                    )
                    self._ledger.append(entry)
        except psycopg.Error:
            # The disaster: this write was not acknowledged, and is not in the ledger.
            return
