"""What vouches for the parts of a repository that are outside every seal: the root, and `RESCUE/`.

`drtool.json` says what the store can do, and writers rely on it; the rescue program is given the key.
Whoever can write to the store can change both. So what the store was measured to do, and the SHA-256
of both files, are sealed under `evidence/init/<id>` when the repository is made: FORMAT.md, section 11.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

from drtool.errors import AlreadyExists, IntegrityError, ObjectMissing, RepositoryUnavailable
from drtool.model.finding import Finding, Severity
from drtool.model.strict_json import read_object
from drtool.repository import layout
from drtool.repository.earlier_rescue import EARLIER_RESCUE
from drtool.repository.keys import KeyRing
from drtool.repository.sealing import ObjectType
from drtool.repository.taken import put_sealed, read_sealed
from drtool.stores.capabilities import Capabilities
from drtool.stores.protocol import Store

SEAL = 1
# What an earlier drtool put there, only to see that it opens.
_OPENED = b"opened"
_LONGEST_SEAL_BYTES = 64 << 10
_LONGEST_FILE_BYTES = 1 << 20
RESCUE_FILES = {layout.RESCUE_PROGRAM: "rescue.py", layout.RESCUE_TEXT: "rescue.txt"}
_DO_NOT_RUN = (
    "Do not run it: `python -m drtool.rescue` is the same program from the package. Find out who can write"
    " to the store; then delete it there, and put drtool/repository/{name} of the package in its place."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RootSeal:
    """What was sealed. `capabilities` is None, and `missing` says why, where nothing was found.

    `root_sha256` is of `drtool.json` as it was when it was sealed.
    """

    capabilities: Capabilities | None = None
    root_sha256: str = ""
    rescue: tuple[tuple[str, str], ...] = ()
    missing: str = ""

    @property
    def rescue_sha256(self) -> str:
        """Of the rescue program that was put here; of the one of this package where that is not known."""
        return dict(self.rescue).get(layout.RESCUE_PROGRAM) or own_rescue()[layout.RESCUE_PROGRAM]


NO_SEAL = RootSeal(missing="nobody has looked for a seal")


def own_rescue() -> dict[str, str]:
    """The SHA-256 of both files in this package, by the keys under which a repository has them."""
    return {key: _sha256(rescue_file(key)) for key in RESCUE_FILES}


def rescue_file(key: str) -> bytes:
    """The bytes of one of `RESCUE_FILES` in this package."""
    return files("drtool.repository").joinpath(RESCUE_FILES[key]).read_bytes()


def put_root_seal(
    store: Store, ring: KeyRing, capabilities: Capabilities, *, root: bytes, now: datetime
) -> RootSeal:
    """Seal what was measured of the store, the `root`, and of `RESCUE/` the files that are drtool's own.

    Nothing that is there is overwritten: neither an earlier word nor what somebody put in its place.
    """
    known = {key: {one, *EARLIER_RESCUE[key]} for key, one in own_rescue().items()}
    stored = {key: stored_sha256(store, key) for key in RESCUE_FILES}
    document = {
        "evidence": SEAL,
        "kind": "init",
        "sealed": now.isoformat(timespec="seconds"),
        "capabilities": capabilities.to_json(),
        "root": _sha256(root),
        "rescue": {key: one for key, one in stored.items() if one in known[key]},
    }
    plain = json.dumps(document, indent=1).encode()
    for key in _names(ring):
        try:
            put_sealed(store, ring, ObjectType.EVIDENCE, key=key, plain=plain)
        except AlreadyExists:
            continue  # the word of an earlier drtool, or a seal of a run beside this one
        break
    return read_root_seal(store, ring)


def read_root_seal(store: Store, ring: KeyRing) -> RootSeal:
    """The first that authenticates, of the names under which one may be. Errors of the store come through."""
    missing = ""
    for key in _names(ring):
        try:
            plain = read_sealed(
                store, ring, ObjectType.EVIDENCE, key=key, most_bytes=_LONGEST_SEAL_BYTES
            )
            if plain != _OPENED:
                return _parsed(plain, key)
            missing = missing or "the repository was made before they were sealed"
        except ObjectMissing:
            missing = missing or f"object {key}, which sealed them, is missing"
        except IntegrityError as error:
            missing = missing or error.message
    return RootSeal(missing=missing)


def root_findings(store: Store, seal: RootSeal) -> Iterator[Finding]:
    """What is wrong with the root and with `RESCUE/`, as the store has them now."""
    if seal.missing:
        yield Finding(
            severity=Severity.WARNING,
            subject="seal of the root",
            fact=f"the abilities of the store and the rescue program are not sealed: {seal.missing}",
            fix="Run `drtool backup`: it measures the store again and seals both.",
        )
    elif stored_sha256(store, layout.ROOT) != seal.root_sha256:
        yield Finding(
            severity=Severity.PROBLEM,
            subject=layout.ROOT,
            fact="is not what it was when it was sealed; what it says of the store is not believed",
            fix="Find out who can write to the store, and bring the object back from a copy.",
        )
    for key in RESCUE_FILES:
        yield from _file_findings(store, seal, key=key)


def _file_findings(store: Store, seal: RootSeal, *, key: str) -> Iterator[Finding]:
    stored, sealed = stored_sha256(store, key), dict(seal.rescue).get(key)
    if stored is None:
        yield Finding(
            severity=Severity.WARNING,
            subject=key,
            fact="is missing: who has no drtool could not restore from here",
            fix=f"Put drtool/repository/{RESCUE_FILES[key]} of the package there.",
        )
    elif sealed is not None and stored != sealed:
        yield Finding(
            severity=Severity.PROBLEM,
            subject=key,
            fact=f"is not the one that drtool put there: its SHA-256 is {stored or 'unknown'}, and"
            f" {sealed} was sealed",
            fix=_DO_NOT_RUN.format(name=RESCUE_FILES[key]),
        )
    elif sealed is None and stored not in {own_rescue()[key], *EARLIER_RESCUE[key]}:
        yield Finding(
            severity=Severity.PROBLEM,
            subject=key,
            fact="is none that drtool has ever put there, and none was sealed: its SHA-256 is"
            f" {stored or 'unknown'}",
            fix=_DO_NOT_RUN.format(name=RESCUE_FILES[key]),
        )
    elif stored in EARLIER_RESCUE[key]:
        yield Finding(
            severity=Severity.NOTE,
            subject=key,
            fact="is that of an earlier drtool, which opens slots that need no key although one was given",
            fix="Use `python -m drtool.rescue` of the package.",
        )


def stored_sha256(store: Store, key: str) -> str | None:
    """Of what the store has under `key`; None if nothing is there, and no digest if it is far too long."""
    found = store.stat(key)
    if found is None:
        return None
    if found.size_bytes > _LONGEST_FILE_BYTES:
        return ""
    try:
        return _sha256(store.read(key, most_bytes=_LONGEST_FILE_BYTES))
    except ObjectMissing:
        return None


def _names(ring: KeyRing) -> tuple[str, str]:
    """Where a seal is, and where it is in a repository in which an earlier drtool took that name."""
    first = layout.evidence_key("init", ring.repository_id.hex())
    return first, f"{first}-seal"


def _parsed(plain: bytes, key: str) -> RootSeal:
    try:
        document = read_object(plain, most_bytes=_LONGEST_SEAL_BYTES)
        rescue = document.inner("rescue")
        return RootSeal(
            capabilities=Capabilities.from_json(dict(document.inner("capabilities").members)),
            root_sha256=document.text("root"),
            rescue=tuple((one, rescue.text(one)) for one in RESCUE_FILES if rescue.has(one)),
        )
    except (ValueError, RepositoryUnavailable) as error:
        raise IntegrityError(
            f"object {key} is no seal of a root: {error}",
            hint="Use a drtool as new as the one that wrote it.",
        ) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
