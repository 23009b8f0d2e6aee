"""What somebody who can write to the store plants there: drtool and rescue.py answer it alike.

A store writer has no key. Each case changes a copy of one repository; then both readers restore from it,
and must bring back what was stored, or refuse and leave nothing of the attacker's behind.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drtool.errors import DrtoolError
from drtool.repository import layout
from drtool.repository.keys import NO_SECRET, make_slot, new_version
from drtool.repository.repository import Repository, RepositoryRoot, open_repository
from drtool.stores.local import LocalStore
from drtool.system.clock import SystemClock
from tests.backup.tree_taking import SOURCE, bring_back, reopened, snapshot
from tests.repository.building import SECRET, new_repository
from tests.repository.isolation import bare_packages, run_rescue

PROGRAM = Path(layout.__file__).parent / "rescue.py"
OURS, THEIRS = b"what was stored", b"#!/bin/sh\n# what the attacker wants to run as root"


@dataclass(frozen=True)
class Made:
    """A repository in a directory with one snapshot; and the attacker's own, of the same id, open to all."""

    ours: Path
    theirs: Path
    keys: str
    backup: str
    forged: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("hostile")
    stores = {}
    for name, content in (("ours", OURS), ("theirs", THEIRS)):
        (root / name).mkdir()
        stores[name] = LocalStore(root / name, clock=SystemClock())
        (root / f"{name}-tree").mkdir()
        program = root / f"{name}-tree/program"
        program.write_bytes(content)
        program.chmod(0o4755)
    repository = new_repository(stores["ours"])
    backup = snapshot(repository, root / "ours-tree").backup_id
    forged = snapshot(
        open_to_all(stores["theirs"], repository.root), root / "theirs-tree"
    ).backup_id
    keys = f"keys/{repository.root.repository_id.hex()}"
    return Made(root / "ours", root / "theirs", keys, backup, forged)


def open_to_all(store: LocalStore, root: RepositoryRoot) -> Repository:
    """A repository that looks like another one, with keys of its own in a slot that needs no secret."""
    master, repository_id = os.urandom(32), root.repository_id
    slot = make_slot(master, NO_SECRET, repository_id=repository_id, created=root.created)
    store.create(
        layout.slot_key(repository_id, "0" * 16), [replace(slot, slot_id="0" * 16).to_json()]
    )
    _, wrapped = new_version(master, repository_id, 1)
    store.create(layout.version_key(repository_id, 1), [wrapped])
    store.create(layout.ROOT, [root.to_json()])
    return open_repository(store, NO_SECRET)


def plant_open_slot(made: Made, place: Path) -> None:
    """A slot of kind `none`, which comes first in every listing, beside the real one."""
    name = f"{made.keys}/slot-{'0' * 16}.json"
    shutil.copy(made.theirs / name, place / name)


def plant_forged_repository(made: Made, place: Path) -> None:
    """The attacker's slot beside ours, and the key version, packs and backup that it opens."""
    shutil.copytree(made.theirs, place, dirs_exist_ok=True)
    (place / "backups" / SOURCE / made.backup).unlink()


def plant_broken_slots(made: Made, place: Path) -> None:
    for number, content in enumerate(
        (b"", b"[]", b"\xff", b'{"kind": []}', b'{"kind": "key-file"}')
    ):
        (place / made.keys / f"slot-00{number}.json").write_bytes(content)


def plant_costly_slot(made: Made, place: Path) -> None:
    """One whose scrypt would take 128 GiB."""
    [path] = [path for path in (place / made.keys).iterdir() if path.name.startswith("slot-")]
    slot = json.loads(path.read_bytes()) | {"slot": "1" * 16, "scrypt": [1 << 28, 4, 1]}
    (place / made.keys / f"slot-{'0' * 15}1.json").write_text(json.dumps(slot))


def plant_forged_manifest(made: Made, place: Path) -> None:
    """A newer backup that nobody with the key has made."""
    forged = place / "backups" / SOURCE / "20990101T000000.000Z-ffffff"
    forged.write_bytes(b"DRTOOL1M" + os.urandom(4000))


def plant_renamed_manifest(made: Made, place: Path) -> None:
    """Ours under another name, where ours was."""
    manifest = place / "backups" / SOURCE / made.backup
    (place / "backups/other").mkdir()
    shutil.copy(manifest, place / "backups/other" / made.backup)
    manifest.write_bytes((place / f"evidence/init/{Path(made.keys).name}").read_bytes())


def plant_foreign_packs(made: Made, place: Path) -> None:
    """The attacker's packs under the names of ours."""
    theirs = sorted(path for path in (made.theirs / "packs").rglob("*") if path.is_file())
    for path in (place / "packs").rglob("*"):
        if path.is_file():
            path.write_bytes(theirs[0].read_bytes())


HELD, REFUSED = True, False
CASES: dict[str, tuple[Callable[[Made, Path], None], bool]] = {
    "a slot that anybody opens beside the real one": (plant_open_slot, HELD),
    "slots that are none": (plant_broken_slots, HELD),
    "a slot that costs all memory": (plant_costly_slot, HELD),
    "a newer manifest that is forged": (plant_forged_manifest, HELD),
    "a forged backup under keys that anybody opens": (plant_forged_repository, REFUSED),
    "another object in place of the manifest": (plant_renamed_manifest, REFUSED),
    "packs of another repository": (plant_foreign_packs, REFUSED),
}


def by_drtool(made: Made, place: Path, into: Path) -> bool:
    try:
        bring_back(reopened(place), into)
    except DrtoolError:
        return False
    return True


def by_rescue(made: Made, place: Path, into: Path) -> bool:
    key_file = into.with_name("key")
    key_file.write_bytes(SECRET.content)
    packages = into.with_name("packages")
    backup = made.backup if (place / "backups" / SOURCE / made.backup).exists() else made.forged
    arguments = ["restore", str(place), SOURCE, backup, str(into), "--key-file", str(key_file)]
    done = run_rescue(bare_packages(packages), PROGRAM, *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("restore", [by_drtool, by_rescue])
@pytest.mark.parametrize("case", CASES)
def test_both_readers_bring_back_what_was_stored_or_nothing(
    made: Made, tmp_path: Path, case: str, restore: Callable[[Made, Path, Path], bool]
) -> None:
    plant, is_held = CASES[case]
    place, into = tmp_path / "repository", tmp_path / "into"
    shutil.copytree(made.ours, place)
    plant(made, place)

    is_restored = restore(made, place, into)

    assert is_restored is is_held
    found = {path.name: path for path in into.rglob("*")} if into.exists() else {}
    if is_held:
        assert found["program"].read_bytes() == OURS
    for path in found.values():
        assert THEIRS not in path.read_bytes()
        assert is_held or not path.stat().st_mode & stat.S_ISUID
