"""Key slots that cost whoever guesses next to nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drtool.errors import WrongKey
from drtool.model.finding import Finding, Severity
from drtool.repository.keys import KeySecret, Slot, SlotKind, open_slot


def is_phrase(secret: KeySecret) -> bool:
    """Whether it is a key file whose content somebody may guess."""
    return secret.kind is SlotKind.KEY_FILE and not secret.is_random_key


def check_slots(
    slots: Iterable[Slot], secret: KeySecret, *, repository_id: bytes
) -> Iterator[Finding]:
    """A warning for each slot that an earlier drtool made of this key file's phrase without scrypt.

    Only those that the key given opens: any other was made of another key, or by nobody with a key.
    """
    for slot in slots if is_phrase(secret) else ():
        if slot.kind is not SlotKind.KEY_FILE or slot.is_stretched:
            continue
        try:
            open_slot(slot, secret, repository_id=repository_id)
        except WrongKey:
            continue
        yield Finding(
            severity=Severity.WARNING,
            subject=f"key slot {slot.slot_id}",
            fact="was made of the phrase in the key file by an earlier drtool, which did not stretch it:"
            " whoever reads the store can try millions of phrases a second",
            fix="Run `drtool repository key add file:PATH` with the same file, or better with one that"
            " `openssl rand -hex 32` made and `repository.key` of the policy then names; then"
            f" `drtool repository key remove {slot.slot_id}`.",
        )
