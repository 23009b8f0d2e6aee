"""Directories that are still to be listed: a stack that does not grow in memory."""

from __future__ import annotations

import tempfile

MOST_IN_MEMORY = 16_384


class PendingDirectories:
    """Last in, first out, about. At most 16,384 paths are in memory, the rest in an unlinked file."""

    def __init__(self, most: int = MOST_IN_MEMORY) -> None:
        self._most = most
        self._paths: list[bytes] = []
        self._blocks: list[tuple[int, int]] = []
        self._spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close

    def push(self, paths: list[bytes]) -> None:
        """Add paths; the last is the first to come back."""
        self._paths += paths
        while len(self._paths) > self._most:
            count = max(1, self._most // 2)
            # A NUL is in no path, so it can stand between two.
            block = b"\0".join(self._paths[:count])
            del self._paths[:count]
            begin = self._spool.seek(0, 2)
            view = memoryview(block)
            while view:
                view = view[self._spool.write(view) :]
            self._blocks.append((begin, len(block)))

    def pop(self) -> bytes | None:
        """A path, or None if there is none."""
        if not self._paths and self._blocks:
            begin, length = self._blocks.pop()
            self._spool.seek(begin)
            self._paths = self._spool.read(length).split(b"\0")
            self._spool.truncate(begin)
        return self._paths.pop() if self._paths else None

    def close(self) -> None:
        """Let the file go."""
        self._spool.close()
