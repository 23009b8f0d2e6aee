"""The key hierarchy: a secret opens a slot, the slot the master key, the master key everything else.

    secret (passphrase or key file) --scrypt/HKDF--> slot key --opens--> master key (256 bits, random)
    master key --HKDF--> chunk id key, page digest seed, wrapping key of the key versions
    key version n (random, wrapped by the master key) --wraps--> the random key of each object

Changing a secret adds a slot and, once that one was opened, drops the old. Rotating the key adds
a version: new objects use it, old ones stay readable, and no data is rewritten. Somebody who has
held the master key can read all of it for ever: then only a new repository helps.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from drtool.errors import IntegrityError, UsageError, WrongKey
from drtool.model.strict_json import read_object

KEY_BYTES = 32
WRAPPED_BYTES = 12 + KEY_BYTES + 16
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**16, 8, 2  # 64 MiB, about 0.4 s
SHORTEST_PASSPHRASE = 8
SHORTEST_KEY_FILE = 32
_RANDOM_KEY = re.compile(rb"[0-9a-fA-F]{64}|[0-9A-Za-z+/]{43}=")
# A slot is read before it is known to be ours: no slot may ask for more memory than four times what we
# ask for, nor for more than eight times the work; all that are tried together for 64 times (half a minute).
MOST_SCRYPT_BYTES = 4 * 128 * SCRYPT_N * SCRYPT_R
MOST_SCRYPT_WORK = 8 * SCRYPT_N * SCRYPT_R * SCRYPT_P
_MOST_WORK_IN_ALL = 64 * SCRYPT_N * SCRYPT_R * SCRYPT_P


class SlotKind(StrEnum):
    """How a slot is opened; `none` holds the master key in clear: integrity without secrecy."""

    PASSPHRASE = "passphrase"  # noqa: S105 - the name of a kind
    KEY_FILE = "key-file"
    NONE = "none"

    @property
    def taken(self) -> str:
        """What opens such a slot, in words."""
        words = {"passphrase": "a passphrase", "key-file": "a key file", "none": "no key at all"}
        return words[self.value]


@dataclass(frozen=True, slots=True)
class KeySecret:
    """What the operator holds: a passphrase, the content of a key file, or nothing at all."""

    kind: SlotKind
    content: bytes

    def require_strong(self) -> None:
        """UsageError for one that no slot may be made for. To one that is there it is just the wrong key."""
        if self.kind is SlotKind.PASSPHRASE and len(self.content) < SHORTEST_PASSPHRASE:
            raise UsageError(
                f"the repository passphrase is shorter than {SHORTEST_PASSPHRASE} characters",
                hint="Use a long random one: `openssl rand -base64 32`.",
            )
        if self.kind is SlotKind.KEY_FILE and len(self.content) < SHORTEST_KEY_FILE:
            raise UsageError(
                f"the repository key file holds fewer than {SHORTEST_KEY_FILE} bytes",
                hint="Make one with `openssl rand -hex 32 > drtool.key`, and keep a copy elsewhere.",
            )

    @property
    def is_random_key(self) -> bool:
        """Whether a key file holds 32 random bytes, in hexadecimal or base64: nobody can guess those.

        Anything else may be a phrase, which is stretched like a passphrase.
        """
        content = self.content.rstrip(b"\r\n")
        return self.kind is SlotKind.KEY_FILE and _RANDOM_KEY.fullmatch(content) is not None

    def __repr__(self) -> str:
        return f"KeySecret({self.kind})"


NO_SECRET = KeySecret(SlotKind.NONE, b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One way in: the master key, wrapped by what a secret and `salt` give.

    `is_stretched`: a key file's content went through scrypt; of an earlier drtool it did not.
    """

    slot_id: str
    kind: SlotKind
    created: str
    salt: bytes
    scrypt: tuple[int, int, int]
    wrapped: bytes
    is_stretched: bool = False

    def to_json(self) -> bytes:
        """The slot as the object `keys/<id>/slot-<slot>.json` holds it."""
        document: dict[str, object] = {
            "slot": self.slot_id,
            "kind": str(self.kind),
            "created": self.created,
            "salt": base64.b64encode(self.salt).decode(),
            "scrypt": list(self.scrypt),
            "wrapped": base64.b64encode(self.wrapped).decode(),
        }
        if self.is_stretched:
            document["stretched"] = True
        return json.dumps(document, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes, *, key: str) -> Slot:
        """Read such an object; IntegrityError names it when it is none."""
        try:
            document = read_object(content)
            n, r, p = document.numbers("scrypt", columns=3)
            if n < 2 or n & (n - 1) or not 1 <= r <= 32 or not 1 <= p <= 16:
                raise ValueError("these are no scrypt parameters")
            if 128 * n * r > MOST_SCRYPT_BYTES:
                raise ValueError("scrypt parameters ask for too much memory")
            if n * r * p > MOST_SCRYPT_WORK:
                raise ValueError("scrypt parameters ask for too much time")
            return cls(
                slot_id=document.text("slot"),
                kind=SlotKind(document.text("kind")),
                created=document.text("created"),
                salt=base64.b64decode(document.text("salt"), validate=True),
                scrypt=(n, r, p),
                wrapped=base64.b64decode(document.text("wrapped"), validate=True),
                is_stretched=document.flag("stretched", default=False),
            )
        except ValueError as error:
            wrong = IntegrityError(
                f"object {key} is not a key slot: {error}",
                hint="If it was one of yours, bring it back from a copy of the repository. If somebody added"
                " it, `drtool repository key remove` takes it away: no repair touches slots.",
            )
            wrong.key = key
            raise wrong from error


def affordable(slots: Iterable[Slot]) -> Iterator[Slot]:
    """Those of the slots that can be tried one after the other in about half a minute, in their order.

    Anybody who writes the store can add slots, and each costs a try.
    """
    left = _MOST_WORK_IN_ALL
    for slot in slots:
        n, r, p = slot.scrypt
        if n * r * p <= left:
            left -= n * r * p
            yield slot


def derive(key: bytes, purpose: str, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 of a uniformly random key, for one purpose."""
    return HKDF(SHA256(), length, salt=None, info=f"drtool 1 {purpose}".encode()).derive(key)


def wrap_key(wrapping_key: bytes, key: bytes, context: bytes) -> bytes:
    """Nonce and AES-256-GCM of `key`: 60 bytes."""
    nonce = os.urandom(12)
    return nonce + AESGCM(wrapping_key).encrypt(nonce, key, context)


def unwrap_key(wrapping_key: bytes, wrapped: bytes, context: bytes) -> bytes:
    """The reverse; InvalidTag when key, context or bytes are not those it was made with."""
    if len(wrapped) != WRAPPED_BYTES:
        raise InvalidTag
    return AESGCM(wrapping_key).decrypt(wrapped[:12], wrapped[12:], context)


def make_slot(master: bytes, secret: KeySecret, *, repository_id: bytes, created: str) -> Slot:
    """Wrap the master key for `secret`. The caller opens the slot once before relying on it.

    UsageError for a secret that is too short.
    """
    secret.require_strong()
    slot_id = os.urandom(8).hex()
    salt = os.urandom(32)
    slot = Slot(
        slot_id=slot_id,
        kind=secret.kind,
        created=created,
        salt=salt,
        scrypt=(SCRYPT_N, SCRYPT_R, SCRYPT_P),
        wrapped=master,
        is_stretched=secret.kind is SlotKind.KEY_FILE and not secret.is_random_key,
    )
    if secret.kind is SlotKind.NONE:
        return slot
    context = _slot_context(repository_id, slot_id, secret.kind)
    return replace(slot, wrapped=wrap_key(_slot_key(secret, slot), master, context))


def open_slot(slot: Slot, secret: KeySecret, *, repository_id: bytes) -> bytes:
    """The master key; WrongKey if `secret` is not this slot's."""
    if slot.kind is not secret.kind:
        raise WrongKey(
            f"slot {slot.slot_id} is opened by {slot.kind.taken}, not by {secret.kind.taken}"
        )
    if slot.kind is SlotKind.NONE:
        return slot.wrapped
    context = _slot_context(repository_id, slot.slot_id, slot.kind)
    try:
        return unwrap_key(_slot_key(secret, slot), slot.wrapped, context)
    except InvalidTag:
        raise WrongKey(f"the repository key given does not open slot {slot.slot_id}") from None


def _slot_key(secret: KeySecret, slot: Slot) -> bytes:
    content = secret.content
    if secret.kind is SlotKind.KEY_FILE:
        # An editor may add the newline at the end, or take it away: it is no part of the key.
        content = content.rstrip(b"\r\n")
        if not slot.is_stretched:
            return HKDF(SHA256(), KEY_BYTES, salt=slot.salt, info=b"drtool 1 key file").derive(
                content
            )
    n, r, p = slot.scrypt
    return Scrypt(salt=slot.salt, length=KEY_BYTES, n=n, r=r, p=p).derive(content)


def _slot_context(repository_id: bytes, slot_id: str, kind: SlotKind) -> bytes:
    return repository_id + f"slot {slot_id} {kind}".encode()


@dataclass(frozen=True, slots=True)
class KeyRing:
    """An opened repository's keys. `versions` wrap object keys; the newest one seals."""

    repository_id: bytes
    master: bytes
    versions: dict[int, bytes]

    @property
    def newest(self) -> int:
        return max(self.versions)

    def chunk_id_key(self) -> bytes:
        """Key of the BLAKE3 that names chunks: equal content is not visible from outside."""
        return derive(self.master, "chunk id")

    def page_seed(self) -> int:
        """Seed of the page digests: nobody outside can prepare two pages with equal digests."""
        return int.from_bytes(derive(self.master, "page digest", 8), "big")

    def __repr__(self) -> str:
        return f"KeyRing({self.repository_id.hex()}, versions {sorted(self.versions)})"


def version_context(repository_id: bytes, version: int) -> bytes:
    """What a wrapped key version is bound to."""
    return repository_id + f"version {version}".encode()


def new_version(ring_master: bytes, repository_id: bytes, version: int) -> tuple[bytes, bytes]:
    """A fresh key version: the key, and the object `keys/<id>/version-<n>` that holds it wrapped."""
    key = os.urandom(KEY_BYTES)
    wrapping = derive(ring_master, "key versions")
    return key, wrap_key(wrapping, key, version_context(repository_id, version))


def open_version(master: bytes, wrapped: bytes, *, repository_id: bytes, version: int) -> bytes:
    """The key in `keys/<id>/version-<n>`; IntegrityError if the object is not what was written."""
    context = version_context(repository_id, version)
    try:
        return unwrap_key(derive(master, "key versions"), wrapped, context)
    except InvalidTag:
        raise IntegrityError(
            f"key version {version} of the repository is damaged: it does not open",
            hint="Bring it back from a copy of the repository: everything sealed under it depends on it.",
        ) from None
