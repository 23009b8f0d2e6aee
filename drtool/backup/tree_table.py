"""The file table of a snapshot, which several threads fill."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from drtool.backup.assembly import Assembly
from drtool.pipeline.pages import Digests
from drtool.repository.table import Attributes, TableRecord


class TreeTable:
    """Adds records to the assembly, one thread at a time."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._lock = threading.Lock()

    def add_plain(self, attributes: Attributes) -> None:
        """A directory, a link or an empty file."""
        with self._lock:
            self._assembly.add_plain(attributes)

    def add(self, record: TableRecord, digests: Digests | None = None) -> None:
        """A record, and the digests of its pages if they are to be stored."""
        with self._lock:
            if digests is None:
                self._assembly.add_record(record)
            else:
                self._assembly.add_digested(record, digests)

    def add_all_encoded(self, records: Sequence[tuple[bytes, int, bytes]]) -> None:
        """Records as the previous snapshot's table has them, with path and begin."""
        with self._lock:
            self._assembly.add_all_encoded(records)

    def add_name(self, path: bytes, of: bytes) -> None:
        """Another name of a file."""
        with self._lock:
            self._assembly.add_name(path, of)

    def withdraw(self, path: bytes) -> None:
        """Forget what was added of this file so far."""
        with self._lock:
            self._assembly.withdraw(path)
