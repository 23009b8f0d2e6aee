"""The CRC64 that Redis puts at the end of an RDB."""

from __future__ import annotations

import anycrc

from drtool.sources.redis.rdbcodes import FOOTER_BYTES, RdbDamaged

Buffer = bytes | bytearray | memoryview
_MODEL = anycrc.Model("CRC64-REDIS")


def crc64(part: Buffer, before: int = 0) -> int:
    """The CRC of all bytes up to the end of `part`, where `before` is that of those in front."""
    return int(_MODEL.calc(part, before))


class Checksum:
    """The CRC64 of an RDB, told as its bytes pass by, wherever they are cut."""

    def __init__(self) -> None:
        self.value = 0
        self.size_bytes = 0
        self._tail = b""

    def add(self, part: Buffer) -> None:
        self.value = crc64(part, self.value)
        self.size_bytes += len(part)
        # Slices of at most eight bytes.
        self._tail = (self._tail + bytes(part[-FOOTER_BYTES:]))[-FOOTER_BYTES:]

    @property
    def footer(self) -> int:
        """The last eight bytes so far: at the end of an RDB, its CRC64 or zero."""
        return int.from_bytes(self._tail, "little")

    def verify(self) -> bool:
        """True if the footer proves the bytes, False if it is zero (`rdbchecksum no`).

        RdbDamaged if it does not match.
        """
        if self._tail == bytes(FOOTER_BYTES):
            return False
        # What is followed by its own CRC, lowest byte first, has the CRC zero.
        if self.size_bytes > FOOTER_BYTES and self.value == 0:
            return True
        raise RdbDamaged(
            f"an RDB of {self.size_bytes} bytes does not match its checksum",
            hint="Take another backup; run redis-check-rdb on the source's dump.rdb, and test its"
            " memory.",
        )
