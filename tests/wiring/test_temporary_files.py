"""No place for temporary files: said before anything is read or fetched, where one is needed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from drtool.cli.front import Front
from drtool.cli.main import run
from tests.check.rig import Stack

FILES = """\
  uploads:
    kind: files
    path: {root}/tree
    mirror: "s3://nowhere/uploads"
"""


@pytest.mark.parametrize(
    "words",
    [
        "backup",
        "restore uploads --to latest --into {root}/copy",
        "restore uploads --to latest --into {root}/copy --plan",
        "sync",
        "sync uploads --restore --to latest --into {root}/copy",
        "verify",
    ],
)
def test_a_command_that_needs_temporary_files_says_first_that_there_can_be_none(
    tmp_path: Path,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("a")
    stack = Stack(root=tmp_path, sources=FILES.format(root=tmp_path))
    stack.init()
    stack.backup()
    (tmp_path / "shop.yaml").write_text(stack.text)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such directory"))

    code = run(
        [*words.format(root=tmp_path).split(), "--policy", str(tmp_path / "shop.yaml")], Front()
    )

    told = capsys.readouterr().err
    assert code == 8
    assert "no temporary file can be written: No such file or directory" in told
    assert "no such directory" in told
    assert "TMPDIR" in told
    assert not (tmp_path / "copy").exists()
    assert len(list((tmp_path / "repository" / "backups" / "uploads").iterdir())) == 1
