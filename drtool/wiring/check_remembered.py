"""What the last check on this machine saw of each source, kept in the user's state directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from drtool.check.remembered import Remembered, compare_with_remembered
from drtool.check.state import SourceState
from drtool.model.finding import Finding, Severity
from drtool.model.strict_json import read_object
from drtool.repository.removals import recorded_removals
from drtool.repository.repository import Repository
from drtool.system.durable import make_directory, replace_durably

_MOST_BYTES = 16 << 20


def remembered_findings(
    repository: Repository, state: SourceState, environ: Mapping[str, str]
) -> tuple[Finding, ...]:
    """What is hidden or was rolled back since an earlier check on this machine; then it is remembered."""
    path = place_of(repository.store.url, state.source, environ)
    if path is None:
        return ()
    seen = Remembered(
        repository=repository.ring.repository_id.hex(),
        at=state.at,
        backups=frozenset(state.backup_ids),
        until=state.told_until,
    )
    try:
        before = _read(path)
    except (OSError, ValueError) as error:
        return (_untold(path, f"cannot be read, and was left as it is: {error}", Severity.WARNING),)
    findings: tuple[Finding, ...] = ()
    kept = seen
    if before is not None:
        findings, kept = compare_with_remembered(
            before,
            seen,
            removed=recorded_removals(repository, state.source),
            source=state.source,
            place=str(path),
            zone=state.zone,
        )
    try:
        make_directory(path.parent)
        replace_durably(path, _encoded(kept))
    except OSError as error:
        told = _untold(path, f"cannot be written: {error.strerror}", Severity.NOTE)
        return (*findings, told)
    return findings


def place_of(url: str, source: str, environ: Mapping[str, str]) -> Path | None:
    """Where it is kept, by the repository's place: one that was exchanged must not begin anew."""
    base = environ.get("XDG_STATE_HOME") or ""
    if not base.startswith("/"):
        home = environ.get("HOME") or ""
        if not home.startswith("/"):
            return None
        base = f"{home}/.local/state"
    name = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Path(base) / "drtool" / "seen" / f"{name}-{source}.json"


def _read(path: Path) -> Remembered | None:
    """None where nothing is remembered yet; ValueError for anything that no check has left."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    document = read_object(content, most_bytes=_MOST_BYTES)
    return Remembered(
        repository=document.text("repository"),
        at=document.moment("at"),
        backups=frozenset(document.texts("backups")),
        until=document.moment("log_until") if document.has("log_until") else None,
    )


def _encoded(one: Remembered) -> bytes:
    document = {
        "drtool": 1,
        "kind": "seen",
        "repository": one.repository,
        "at": one.at.isoformat(),
        "backups": sorted(one.backups),
        **({} if one.until is None else {"log_until": one.until.isoformat()}),
    }
    return json.dumps(document).encode()


def _untold(path: Path, fact: str, severity: Severity) -> Finding:
    return Finding(
        severity=severity,
        subject=str(path),
        fact=f"{fact}: nobody outside the store remembers which backups there were",
        fix="Give XDG_STATE_HOME a directory that lasts, and that this user may read and write.",
    )
