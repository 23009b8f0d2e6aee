"""The root and the rescue program are outside every seal: what vouches for them, and who notices."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drtool.errors import AlreadyExists, ExitCode
from drtool.model.finding import Severity
from drtool.model.progress import silent
from drtool.report.text import Style, render
from drtool.repository import layout
from drtool.repository.earlier_rescue import EARLIER_RESCUE
from drtool.repository.repository import Repository, create_repository, open_repository
from drtool.repository.root_seal import own_rescue, put_root_seal
from drtool.repository.sealing import ObjectType
from drtool.stores.open import believing, open_store
from drtool.stores.probe import probe_store
from drtool.stores.protocol import Store
from drtool.system.clock import SystemClock
from drtool.verify.depth import Quick
from drtool.verify.repository import exit_code_of, verify_repository
from drtool.wiring.root_seal import look_at_root
from tests.check.rig import Stack, look
from tests.repository.building import NOW, SECRET, new_repository, tamper
from tests.servers.object_stores import S3Server, rclone_s3, s3_credentials

__all__ = ["rclone_s3", "s3_credentials"]
CLOCK = SystemClock()


def seal_key(repository: Repository) -> str:
    return layout.evidence_key("init", repository.root.repository_id.hex())


def reopened(repository: Repository) -> Repository:
    return open_repository(repository.store, SECRET)


def problems(repository: Repository) -> list[str]:
    found = look_at_root(repository)
    return [one.subject for one in found if one.severity is Severity.PROBLEM]


def make_older(repository: Repository) -> None:
    """What an earlier drtool left: a word that opens, and seals nothing."""
    repository.store.delete(seal_key(repository))
    repository.put(ObjectType.EVIDENCE, seal_key(repository), b"opened")


@pytest.mark.parametrize("key", [layout.RESCUE_PROGRAM, layout.RESCUE_TEXT])
@pytest.mark.parametrize("content", [b"import os  # steal DRTOOL_KEY\n", b"\0" * (1 << 21), b""])
def test_a_replaced_rescue_program_is_a_problem_that_names_it(key: str, content: bytes) -> None:
    repository = new_repository()
    assert look_at_root(reopened(repository)) == ()
    tamper(repository.store, key, content)

    outcome = verify_repository(
        reopened(repository), depth=Quick(), sources=None, emit=silent, clock=CLOCK, seed=1
    )

    assert problems(reopened(repository)) == [key]
    [found] = [one for one in outcome.findings if one.subject == key]
    assert found.severity is Severity.PROBLEM
    assert "python -m drtool.rescue" in found.fix
    assert exit_code_of(outcome) is ExitCode.INTEGRITY
    assert own_rescue()[layout.RESCUE_PROGRAM] in render(outcome, Style(ZoneInfo("UTC")))


def test_a_rescue_program_of_earlier_times_in_place_of_ours_is_a_problem() -> None:
    """It has the hole, and its digest is one that drtool knows: what was sealed decides."""
    repository = new_repository()
    old = next(iter(EARLIER_RESCUE[layout.RESCUE_PROGRAM]))
    seal = replace(repository.seal, rescue=((layout.RESCUE_PROGRAM, old),))

    assert problems(replace(repository, seal=seal)) == [layout.RESCUE_PROGRAM]


def test_a_seal_cannot_be_taken_away_unseen_and_a_replaced_program_is_a_problem_without_it() -> (
    None
):
    repository = new_repository()
    repository.store.delete(seal_key(repository))
    assert [one.subject for one in look_at_root(reopened(repository))] == ["seal of the root"]
    tamper(repository.store, layout.RESCUE_PROGRAM, b"import os  # steal DRTOOL_KEY\n")

    assert problems(reopened(repository)) == [layout.RESCUE_PROGRAM]


def test_a_junk_seal_denies_nothing() -> None:
    repository = new_repository()
    for content in (b"", b"junk", b"DRTOOL1E" + b"\0" * 200, b"\0" * (1 << 20)):
        tamper(repository.store, seal_key(repository), content)
        assert reopened(repository).seal.missing


def test_a_backup_seals_what_an_earlier_drtool_did_not_but_no_program_of_somebody_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    (tmp_path / "repository").mkdir()
    stack = Stack(root=tmp_path, sources=f'  tree: {{kind: files, path: "{tmp_path}/tree"}}\n')
    stack.init()
    [seal] = (tmp_path / "repository/evidence/init").iterdir()
    seal.unlink()
    before = look(stack.check("tree"), "repository", "rescue program")
    program = tmp_path / "repository" / layout.RESCUE_PROGRAM
    ours = program.read_bytes()
    program.write_text("import os  # steal DRTOOL_KEY\n")

    [taken] = stack.backup("tree")
    bad = look(stack.check("tree"), "repository", "rescue program")
    program.write_bytes(ours)
    good = look(stack.check("tree"), "repository", "rescue program")

    digest = own_rescue()[layout.RESCUE_PROGRAM]
    assert [one.subject for one in before.findings] == ["seal of the root"]
    assert [one.subject for one in bad.findings] == [layout.RESCUE_PROGRAM]
    assert good.findings == ()
    assert digest in good.seen
    assert digest in render(taken, Style(ZoneInfo("UTC")))


def test_an_older_repository_is_sealed_beside_the_word_that_is_there() -> None:
    repository = new_repository()
    make_older(repository)
    older = reopened(repository)
    assert "made before" in older.seal.missing
    assert not older.root.capabilities.is_measured

    measured, root = probe_store(older.store, clock=CLOCK), older.store.read(layout.ROOT)
    seal = put_root_seal(older.store, older.ring, measured, root=root, now=NOW)

    assert not seal.missing
    assert reopened(repository).root.capabilities.is_measured
    assert repository.get(ObjectType.EVIDENCE, seal_key(repository)) == b"opened"


def forge_root(store: Store) -> None:
    """Say in `drtool.json` that the store honours every condition and lists in order."""
    root = json.loads(store.read(layout.ROOT))
    root["capabilities"] |= {
        "creates_atomically": True,
        "replaces_if_matching": True,
        "lists_in_order": True,
        "refuses_wrong_checksum": True,
    }
    tamper(store, layout.ROOT, json.dumps(root).encode())


@pytest.mark.object_store
@pytest.mark.parametrize("has_seal", [True, False])
def test_a_forged_root_does_not_let_a_store_overwrite_that_ignores_conditions(
    rclone_s3: S3Server, has_seal: bool
) -> None:
    store = open_store(rclone_s3.new_url(), clock=CLOCK)
    measured = probe_store(store, clock=CLOCK)
    assert not measured.creates_atomically
    made = create_repository(believing(store, measured), SECRET, now=NOW, capabilities=measured)
    forge_root(made.store)
    if not has_seal:
        made.store.delete(seal_key(made))

    repository = open_repository(store, SECRET)
    relied_on = believing(store, repository.root.capabilities)
    relied_on.create("evidence/x/first", [b"first"])

    with pytest.raises(AlreadyExists):
        relied_on.create("evidence/x/first", [b"second"])
    assert relied_on.read("evidence/x/first") == b"first"
    assert repository.root.capabilities.refuses_wrong_checksum is not True
    assert (problems(repository) == [layout.ROOT]) is has_seal
