"""The key by which runs of a mirror are told from what others wrote into its bucket.

A mirror is a plain copy that every S3 client can read, and its manifests are plain too. So each has two
message authentication codes by a key that follows from the repository's: one of its first line, bound to
the run's id, and one of all its lines.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from hashlib import sha256

from drtool.repository.keys import KeyRing, derive

_HEADER = b"drtool mirror run, first line\n"
_LINES = b"drtool mirror run, all lines\n"


class RunKey:
    """Signs manifests and tells its own. Made by `run_key_of`."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def header_mac(self, run_id: str, header: Mapping[str, object]) -> str:
        """Of the members of the first line, without their `mac`."""
        members = {name: value for name, value in header.items() if name != "mac"}
        text = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        return hmac.digest(self._key, _HEADER + run_id.encode() + b"\n" + text, "sha256").hex()

    def lines(self, run_id: str) -> hmac.HMAC:
        """To be given every line with its end, up to the last one."""
        return hmac.new(self._key, _LINES + run_id.encode() + b"\n", sha256)

    def __repr__(self) -> str:
        return "RunKey(***)"


def run_key_of(ring: KeyRing) -> RunKey:
    """The key of all mirrors whose leases are in this repository."""
    return RunKey(derive(ring.master, "mirror runs"))


def is_same(found: object, wanted: str) -> bool:
    """Whether `found`, of whatever type, is the code that is wanted."""
    return isinstance(found, str) and hmac.compare_digest(
        found.encode("utf-8", "replace"), wanted.encode()
    )
