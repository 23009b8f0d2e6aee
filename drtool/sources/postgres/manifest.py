"""The server's `backup_manifest`: what it believes it has sent, held against what arrived.

Source: PostgreSQL docs, "Backup Manifest Format". It is asked for without checksums of files (see
basebackup.py); the SHA-256 of the manifest itself is checked here, and paths and sizes are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from drtool.errors import IntegrityError
from drtool.model.strict_json import JsonObject, read_object
from drtool.model.wal import Lsn

_CHECKSUM_KEY = b'"Manifest-Checksum"'
# Added to the archive after the manifest was made, or described by nothing in it.
_NOT_LISTED = frozenset({b"backup_manifest"})
_SHOWN = 3
# Of an entry: MAXPGPATH in hexadecimal digits, and the rest. It is seldom more than 200.
_MOST_ENTRY_BYTES = 4096
_MOST_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WalRange:
    """WAL of `timeline` that the backup needs, from `begin` to `end`."""

    timeline: int
    begin: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupManifest:
    """Every file with its size; `system_id` is None before PostgreSQL 17."""

    system_id: int | None
    files: Mapping[bytes, int]
    wal_ranges: tuple[WalRange, ...]


def most_manifest_bytes(files: int) -> int:
    """How long a manifest of so many files can be."""
    return _MOST_HEAD_BYTES + files * _MOST_ENTRY_BYTES


def parse_manifest(data: bytes) -> BackupManifest:
    """Read it; IntegrityError if it is damaged. A file costs about 200 bytes of memory meanwhile."""
    _check_sum(data)
    try:
        raw = read_object(data, most_bytes=len(data))
        has_system = raw.has("System-Identifier")
        return BackupManifest(
            system_id=raw.whole("System-Identifier") if has_system else None,
            files=dict(_path_and_size(JsonObject(entry)) for entry in raw.items("Files")),
            wal_ranges=tuple(_range(JsonObject(entry)) for entry in raw.items("WAL-Ranges")),
        )
    except ValueError as error:
        raise _damaged(f"cannot be read: {error}") from error


def check_manifest(manifest: BackupManifest, arrived: Mapping[bytes, int]) -> None:
    """IntegrityError unless exactly the files of the manifest arrived, each with its size.

    `arrived`: path relative to PGDATA -> size in bytes, of all files, those of tablespaces too.
    """
    listed = manifest.files
    missing = [path for path in listed if path not in arrived]
    surplus = [path for path in arrived if path not in listed and path not in _NOT_LISTED]
    other = [path for path, size in listed.items() if arrived.get(path, size) != size]
    for paths, fact in (
        (missing, "lists files that did not arrive"),
        (surplus, "does not list files that arrived"),
        (other, "lists other sizes than arrived"),
    ):
        if paths:
            shown = ", ".join(path.decode("utf-8", "backslashreplace") for path in paths[:_SHOWN])
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            raise _damaged(f"{fact}: {shown}{more}")


def _check_sum(data: bytes) -> None:
    # The checksum covers everything before the line that holds it.
    at = data.rfind(_CHECKSUM_KEY)
    if at < 0:
        raise _damaged("is cut off: it has no checksum of its own")
    wanted = data[at + len(_CHECKSUM_KEY) :].split(b'"')[1:2]
    if wanted != [hashlib.sha256(data[:at]).hexdigest().encode()]:
        raise _damaged("does not match its own SHA-256")


def _path_and_size(entry: JsonObject) -> tuple[bytes, int]:
    # A path that is not UTF-8 is written as hexadecimal digits under another key.
    if entry.has("Encoded-Path"):
        return bytes.fromhex(entry.text("Encoded-Path")), entry.whole("Size")
    return entry.text("Path").encode("utf-8", "surrogateescape"), entry.whole("Size")


def _range(entry: JsonObject) -> WalRange:
    return WalRange(
        timeline=entry.whole("Timeline"),
        begin=Lsn.parse(entry.text("Start-LSN")),
        end=Lsn.parse(entry.text("End-LSN")),
    )


def _damaged(fact: str) -> IntegrityError:
    return IntegrityError(
        f"the server's backup manifest {fact}",
        hint="Take the backup again; if it happens twice, look at the server's log.",
    )
