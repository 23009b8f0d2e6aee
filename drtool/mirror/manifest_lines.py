"""The lines of a run's manifest, unpacked within limits: whoever writes the bucket may have written it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import IO, cast

import zstandard

from drtool.errors import IntegrityError
from drtool.model.strict_json import JsonObject, read_object

# A path of 4 KiB, and extended attributes as far as file systems take them.
LONGEST_LINE_BYTES = 4 << 20
# Real manifests unpack to ten times their size, lists of deletions to fifty.
_FREE_BYTES = 64 << 20
_MOST_RATIO = 1000
_PIECE_BYTES = 1 << 20
_LARGEST_WINDOW_BYTES = 8 << 20


class _Packed:
    """Pieces of an object as a file that zstandard reads; counts what it has given."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        if not self._rest:
            self._rest = bytes(next(self._pieces, b""))
        size = len(self._rest) if size < 0 else size
        some, self._rest = self._rest[:size], self._rest[size:]
        self.given += len(some)
        return some


def unpacked_lines(pieces: Iterable[bytes], run_id: str) -> Generator[bytes, None, None]:
    """Each line without its end. IntegrityError where it is no manifest, or unpacks beyond all measure.

    Holds one line and 1 MiB at most, whatever the object says of itself.
    """
    packed = _Packed(pieces)
    file = cast("IO[bytes]", packed)  # of which `read` alone is used
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW_BYTES)
    given, rest = 0, b""
    try:
        with decompressor.stream_reader(file, read_size=_PIECE_BYTES) as reader:
            while plain := reader.read(_PIECE_BYTES):
                given += len(plain)
                if given > _FREE_BYTES + _MOST_RATIO * packed.given:
                    raise unreadable(run_id, "it unpacks to more than any manifest does")
                *lines, rest = (rest + plain).split(b"\n")
                yield from lines
                if len(rest) > LONGEST_LINE_BYTES:
                    raise unreadable(run_id, "a line of it has no end")
    except zstandard.ZstdError as error:
        raise unreadable(run_id, str(error)) from error
    if rest:
        raise unreadable(run_id, "it is cut short")


def parsed_line(line: bytes, run_id: str) -> JsonObject:
    """A line that is not an entry's."""
    try:
        return read_object(line, most_bytes=LONGEST_LINE_BYTES)
    except ValueError as error:
        raise unreadable(run_id, f"a line of it is no JSON: {error}") from error


def unreadable(run_id: str, why: str) -> IntegrityError:
    """The error for a manifest that is none, or not ours."""
    return IntegrityError(
        f"the manifest of the mirror's run {run_id} cannot be used: {why}",
        hint="Run `drtool sync --rehash` to write a whole one; older moments need this one.",
    )
