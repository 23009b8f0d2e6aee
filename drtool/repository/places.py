"""Where chunks lie: what a manifest names, which takes nothing to read that reading chunks takes."""

from __future__ import annotations

from dataclasses import dataclass

PACK_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """Where a chunk lies: the pack, and its number there."""

    pack_id: bytes
    number: int
