"""`drtool check` points out a slot that an earlier drtool made of a phrase without stretching it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from drtool.model.checked import CheckReport
from drtool.model.finding import Finding, Severity
from drtool.model.request import KeyAdd, KeyRemove, RepositoryInit
from drtool.wiring.parts import opened_repository
from drtool.wiring.repository import run_repository
from tests.check.rig import Stack, part

PHRASE = b"correct horse battery staple, and once more"
RANDOM = bytes(range(32)).hex().encode()


def a_stack(root: Path, content: bytes) -> Stack:
    """A repository that a key file opens, and one source."""
    for name in ("repository", "tree"):
        (root / name).mkdir()
    (root / "key").write_bytes(content + b"\n")
    stack = Stack(
        root=root,
        sources=f'  tree: {{kind: files, path: "{root}/tree"}}\n',
        key=f"file:{root}/key",
    )
    stack.init()
    return stack


def put_slot_of_earlier_drtool(stack: Stack, phrase: bytes, *, name: str) -> Path:
    """As it was written before: HKDF of the phrase, and nothing of `stretched` (FORMAT.md, section 2)."""
    with opened_repository(stack.policy, stack.around) as repository:
        ring = repository.ring
    salt, nonce = bytes(range(32)), bytes(12)
    key = HKDF(SHA256(), 32, salt=salt, info=b"drtool 1 key file").derive(phrase)
    context = ring.repository_id + f"slot {name} key-file".encode()
    wrapped = nonce + AESGCM(key).encrypt(nonce, ring.master, context)
    slot = {
        "slot": name, "kind": "key-file", "created": "2024-05-01T10:00:00+00:00",
        "scrypt": [65536, 8, 2], "salt": base64.b64encode(salt).decode(),
        "wrapped": base64.b64encode(wrapped).decode(),
    }  # fmt: skip
    path = stack.root / f"repository/keys/{ring.repository_id.hex()}/slot-{name}.json"
    path.write_text(json.dumps(slot))
    return path


def of_slots(report: CheckReport) -> list[Finding]:
    findings = (one for look in part(report, "repository").looks for one in look.findings)
    return [one for one in findings if one.subject.startswith("key slot")]


def test_a_slot_that_was_made_of_a_phrase_without_scrypt_is_told_until_it_is_gone(
    tmp_path: Path,
) -> None:
    stack = a_stack(tmp_path, RANDOM)
    put_slot_of_earlier_drtool(stack, PHRASE, name="00" * 8)
    put_slot_of_earlier_drtool(stack, PHRASE + b", of somebody else", name="11" * 8)
    (tmp_path / "key").write_bytes(PHRASE)

    [found] = of_slots(stack.check())
    run_repository(
        KeyAdd(reference=f"file:{tmp_path}/key", is_dry_run=False), stack.policy, stack.around
    )
    added = of_slots(stack.check())
    run_repository(KeyRemove(slot="00" * 8, is_dry_run=False), stack.policy, stack.around)

    assert (found.subject, found.severity) == (f"key slot {'00' * 8}", Severity.WARNING)
    assert f"drtool repository key remove {'00' * 8}" in found.fix
    assert "drtool repository key add" in found.fix
    assert added == [found]
    assert of_slots(stack.check()) == []


def test_a_key_of_random_bytes_needs_no_stretching(tmp_path: Path) -> None:
    stack = a_stack(tmp_path, RANDOM)

    assert of_slots(stack.check()) == []


def test_a_key_file_that_others_may_read_is_told_by_init_add_and_check(tmp_path: Path) -> None:
    """The trial: mode 0644 was taken without a word."""
    for name in ("repository", "tree"):
        (tmp_path / name).mkdir()
    key = tmp_path / "key"
    key.write_bytes(RANDOM)
    key.chmod(0o644)
    stack = Stack(
        root=tmp_path,
        sources=f'  tree: {{kind: files, path: "{tmp_path}/tree"}}\n',
        key=f"file:{key}",
    )
    made = run_repository(RepositoryInit(is_dry_run=False), stack.policy, stack.around)
    added = run_repository(KeyAdd(f"file:{key}", is_dry_run=False), stack.policy, stack.around)

    def told() -> list[Finding]:
        looks = part(stack.check(), "repository").looks
        return [one for look in looks for one in look.findings if one.subject.endswith(str(key))]

    for found in (made.findings, added.findings, told()):
        [finding] = [one for one in found if one.subject.endswith(str(key))]
        assert finding.severity is Severity.WARNING
        assert "0644" in finding.fact
        assert finding.fix == f"chmod 600 {key}"
    key.chmod(0o600)
    assert told() == []
