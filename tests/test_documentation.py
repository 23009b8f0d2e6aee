"""What the documents say is so: commands, exit codes, policy keys, rooms and files."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest

from drtool.cli.main import root as drtool
from drtool.config.policy_file import read_policy
from drtool.config.schema import policy_schema
from drtool.errors import ExitCode
from tests.test_house import FLOORS

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "drtool/**/*.md", "runbooks/*.md", "drtool/repository/*.txt")
    for path in ROOT.glob(pattern)
)

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code_in(text: str) -> Iterator[str]:
    """Each line of a fenced or indented block, and each piece of inline code."""
    for block in FENCED.finditer(text):
        yield from block[2].splitlines()
    prose = FENCED.sub("", text)
    for line in prose.splitlines():
        if line.startswith("    "):
            yield line.strip()
        yield from re.findall(r"`([^`\n]+)`", line)


def commands_in(text: str) -> Iterator[str]:
    """Every command line that begins with `drtool`, without comments and what follows `;`, `|` or `&&`."""
    for line in code_in(text):
        for part in re.split(r"\s*(?:;|\|\||\||&&)\s+", line.removeprefix("$ ")):
            if re.match(r"drtool( |$)", part):
                yield part


def complaint_about(line: str) -> str:
    """What is wrong with a command line; empty if every command, option and argument of it exists.

    `a|b` stands for either, `...` for more of the same.
    """
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
    context = click.Context(drtool, info_name="drtool")
    return _complaint(words, context, _options(context))


def _complaint(words: list[str], context: click.Context, options: dict[str, click.Option]) -> str:
    if not words:
        return ""
    word, rest, command = words[0], words[1:], context.command
    if word.startswith("-"):
        name, _, value = word.partition("=")
        if name not in options:
            return f"{command.name} has no option {name}"
        takes_value = not options[name].is_flag and not options[name].count and not value
        if takes_value and not rest:
            return f"{name} has no value"
        return _complaint(rest[takes_value:], context, options)
    if isinstance(command, click.Group):
        if word.isupper():
            return ""  # stands for any command
        for name in word.split("|"):
            found = command.get_command(context, name)
            if found is None:
                return f"{command.name} has no command {name!r}"
            inner = click.Context(found, info_name=name, parent=context)
            complaint = _complaint(rest, inner, options | _options(inner))
            if complaint:
                return complaint
        return ""
    if not any(isinstance(known, click.Argument) for known in command.get_params(context)):
        return f"{command.name} takes no argument, and is given {word!r}"
    return _complaint(rest, context, options)


def _options(context: click.Context) -> dict[str, click.Option]:
    return {
        name: parameter
        for parameter in context.command.get_params(context)
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_a_document_exists(path: Path) -> None:
    complaints = {
        line: complaint
        for line in commands_in(path.read_text(encoding="utf-8"))
        if (complaint := complaint_about(line))
    }

    assert complaints == {}


def texts_in(path: Path) -> Iterator[str]:
    """Each text of a module, docstrings included; what an f-string fills in stands as `x`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside
        ):
            yield node.value


def test_every_command_that_an_error_or_a_docstring_names_exists() -> None:
    complaints = {
        f"{path.relative_to(ROOT)}: {line}": complaint
        for path in sorted((ROOT / "drtool").rglob("*.py"))
        for text in texts_in(path)
        for line in re.findall(r"`(drtool(?: [^`\n]+)?)`", text)
        if (complaint := complaint_about(line))
    }

    assert complaints == {}


@pytest.mark.parametrize(
    "line",
    [
        "drtool bakcup",
        "drtool backup --frobnicate",
        "drtool wal recieve main-db",
        "drtool restore --to",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    assert complaint_about(line) != ""


def test_commands_are_found_in_blocks_and_in_prose() -> None:
    text = "Say `drtool a`.\n\n```sh\ndrtool b ; drtool c  # no\n# drtool d\n```\n\n    drtool e\n"

    assert sorted(commands_in(text)) == ["drtool a", "drtool b", "drtool c  # no", "drtool e"]


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_every_exit_code_by_its_name_and_says_what_it_means() -> None:
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \| (.+?) \|$", readme(), re.MULTILINE)

    assert [(int(code), name) for code, name, _ in rows] == [
        (code.value, code.name) for code in ExitCode
    ]
    for _, name, meaning in rows:
        words = set(re.findall(r"[a-z]+", meaning.lower()))
        first = name.lower().split("_")[0].removesuffix("d").removesuffix("e")
        assert any(word.startswith(first) for word in words), f"{name} is explained as {meaning!r}"


def test_the_policies_in_the_readme_are_read_and_fit_the_schema(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    policies = [block[2] for block in FENCED.finditer(readme()) if block[1] == "yaml"]

    assert policies
    for number, text in enumerate(policies):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        read_policy(path)
        jsonschema.validate(YAML(typ="safe").load(text), policy_schema())


def test_every_file_named_in_a_document_exists() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in DOCUMENTS
        for name in re.findall(
            r"`((?:drtool|policies|tests|runbooks)/[\w./-]+\.\w+)`",
            path.read_text(encoding="utf-8"),
        )
        if not (ROOT / name).exists()
    ]

    assert missing == []


def test_every_make_target_named_in_a_document_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))

    named = {
        match[1]
        for path in DOCUMENTS
        for line in code_in(path.read_text(encoding="utf-8"))
        if (match := re.match(r"make ([a-z-]+)", line))
    }

    assert named <= targets


def described_rooms() -> list[str]:
    """The rooms in ARCHITECTURE.md's table of three columns, from above."""
    text = (ROOT / "drtool" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    names = re.findall(r"^\|[^|]*\| `([\w/]+)` \|[^|]+\|$", text, re.MULTILINE)
    return list(dict.fromkeys(name.split("/")[0] for name in names))


def test_the_architecture_has_a_line_for_each_room_and_for_no_other() -> None:
    built = {path.parent.name for path in (ROOT / "drtool").glob("*/*.py")} | {"errors"}

    assert set(described_rooms()) == built


def test_the_architecture_tells_the_rooms_in_the_order_of_their_floors() -> None:
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

    floors = [floor_of[room] for room in described_rooms()]

    assert floors == sorted(floors)


def test_every_test_that_shows_a_claim_about_security_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    tests = {path: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py")}
    defined = {name for source in tests.values() for name in re.findall(r"def (test_\w+)", source)}
    files = {path.name for path in tests}

    named = re.findall(r"`(test_\w+)(\.\.\.|\.py)?`", text)
    missing = [
        name
        for name, ending in named
        if not (
            any(one.startswith(name) for one in defined)
            if ending == "..."
            else name + ending in files
            if ending
            else name in defined
        )
    ]

    assert len(named) > 40
    assert missing == []
    assert [
        one for one in re.findall(r"`(tests/[\w/]+(?:\.py)?)/?`", text) if not (ROOT / one).exists()
    ] == []
