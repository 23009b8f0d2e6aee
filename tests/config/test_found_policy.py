"""A policy that is found, and not named, is one that nobody else can have written."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.config.policy_file import find_policy
from drtool.errors import ExitCode, NotRecoverable, UsageError
from drtool.sources.postgres.binaries import find_binaries
from drtool.sources.redis.binaries import find_binaries as find_redis
from drtool.sources.redis.release import Product, parse_release
from drtool.system.changeable import changeable_by_others, trusted_program

SOMEBODY = 65534
ROOT = Path(__file__).parent.parent.parent
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory as under /srv: everybody may look into it, and nobody else may write there."""
    with tempfile.TemporaryDirectory(prefix="drtool-found-") as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "policies").mkdir(mode=0o755)
        (Path(directory) / "policies" / "main.yaml").write_text("version: 1\n")
        (Path(directory) / "policies" / "main.yaml").chmod(0o644)
        yield Path(directory)


def given_away(path: Path) -> None:
    """It belongs to somebody else; without root's rights that cannot be, and everybody may write there."""
    if IS_ROOT:
        os.chown(path, SOMEBODY, SOMEBODY)
    else:
        path.chmod(0o777)


@pytest.mark.parametrize("fault", ["", "policies", "policies/main.yaml"])
@pytest.mark.parametrize("how", ["owner", "everybody", "group"])
def test_what_somebody_else_may_have_written_is_no_policy_until_it_is_named(
    place: Path, fault: str, how: str
) -> None:
    file = place / "policies" / "main.yaml"
    assert find_policy(None, {}, place) == file
    if how == "owner":
        given_away(place / fault)
    else:
        (place / fault).chmod(0o777 if how == "everybody" else 0o775)
        os.chown(place / fault, -1, os.getegid() if not IS_ROOT else 4321)

    if how != "group" or IS_ROOT:
        with pytest.raises(UsageError, match=r"main\.yaml was found, and not named") as refused:
            find_policy(None, {}, place)
        assert f"--policy {file}" in refused.value.hint

    assert find_policy(file, {}, place) == file
    assert find_policy(None, {"DRTOOL_POLICY": str(file)}, place) == file
    # A directory that is named is the operator's word, too: so the image names the one that is mounted.
    assert find_policy(None, {"DRTOOL_POLICY": str(place / "policies")}, place) == file


def test_a_link_to_a_policy_is_judged_by_where_it_leads(place: Path) -> None:
    file = place / "policies" / "main.yaml"
    theirs = place / "theirs"
    theirs.mkdir()
    file.rename(theirs / "main.yaml")
    file.symlink_to(theirs / "main.yaml")
    assert find_policy(None, {}, place) == file

    given_away(theirs)

    with pytest.raises(UsageError, match="was found, and not named"):
        find_policy(None, {}, place)


def test_root_in_somebody_elses_directory_runs_nothing_of_theirs(place: Path) -> None:
    """As it was reported: the policy that lies there names the programs to run."""
    ran = place / "ran"
    bin_dir = place / "bin"
    bin_dir.mkdir()
    (bin_dir / "postgres").write_text(
        f"#!/bin/sh\nid -u >{ran}\necho 'postgres (PostgreSQL) 15.1'\n"
    )
    (bin_dir / "postgres").chmod(0o755)
    (place / "policies" / "main.yaml").write_text(
        "version: 1\nstack: shop\ntimezone: UTC\nobjectives: {default: {rpo: 15m, rto: 1h}}\n"
        f"repository: {{url: 'file://{place}/repository', key: none}}\n"
        f"sources:\n  main-db: {{kind: postgres, dsn: env:DSN, bin_dir: '{bin_dir}'}}\n"
    )
    command = [sys.executable, "-m", "drtool.cli.main", "repository", "init"]
    environment = {**os.environ, "DSN": "host=/nowhere", "PYTHONPATH": str(ROOT)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command[:3], *words],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert run("policy", "check").returncode == ExitCode.DONE
    given_away(place)

    done = run("check")

    assert done.returncode == ExitCode.USAGE
    assert "was found, and not named" in done.stderr
    assert not ran.exists()


def a_server(bin_dir: Path, program: str, says: str) -> Path:
    """A program that leaves the user who ran it beside itself."""
    bin_dir.mkdir(exist_ok=True)
    bin_dir.chmod(0o755)
    path = bin_dir / program
    path.write_text(f"#!/bin/sh\nid -u >>{bin_dir}/ran 2>/dev/null\necho '{says}'\n")
    path.chmod(0o755)
    return path


SERVERS = [
    ("postgres", "postgres (PostgreSQL) 17.99"),
    ("redis-server", "Redis server v=7.0.99 sha=0"),
]


def looked_for(program: str, bin_dir: Path | None) -> str:
    """The version of the server that is found."""
    if program == "postgres":
        return find_binaries(17, bin_dir=bin_dir).version
    found = find_redis(parse_release(Product.REDIS, "7.0.0"), bin_dir=bin_dir)
    return found.release.version_text


@pytest.mark.parametrize(("program", "says"), SERVERS)
def test_a_program_on_path_that_somebody_else_may_change_is_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch, program: str, says: str
) -> None:
    path = a_server(place / "bin", program, says)
    given_away(place / "bin")
    monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")

    try:
        version = looked_for(program, None)
    except NotRecoverable as error:
        version = error.hint

    assert not version.endswith("99")
    assert not (path.parent / "ran").exists()


@pytest.mark.parametrize(("program", "says"), SERVERS)
def test_a_named_program_of_another_user_is_asked_with_his_rights_alone(
    place: Path, program: str, says: str
) -> None:
    """PostgreSQL built by its own user is no fault; one that anybody may replace is."""
    path = a_server(place / "bin", program, says)
    if IS_ROOT:
        os.chown(place / "bin", SOMEBODY, SOMEBODY)

    assert looked_for(program, place / "bin").endswith("99")
    assert set((path.parent / "ran").read_text().split()) == {
        str(SOMEBODY if IS_ROOT else os.geteuid())
    }

    (place / "bin").chmod(0o777)
    with pytest.raises(NotRecoverable, match="may be written by everybody"):
        looked_for(program, place / "bin")


def test_root_starts_its_helpers_from_directories_that_nobody_else_writes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_server(place / "bin", "setpriv", "")
    real = trusted_program("setpriv")
    monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
    assert trusted_program("setpriv") == str(place / "bin" / "setpriv")

    given_away(place / "bin" / "setpriv")

    assert trusted_program("setpriv") == real


def test_a_directory_with_the_sticky_bit_lets_nobody_replace_what_is_in_it(place: Path) -> None:
    assert changeable_by_others(place) is None  # below /tmp
    place.chmod(0o1777)

    assert changeable_by_others(place / "policies") is None
    assert changeable_by_others(place) is not None
