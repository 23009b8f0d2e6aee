"""The house stands: floors, clocks, printing, sizes, names. The table here is the law (STYLE.md).

The rules themselves are plain functions in `tests/house/`. Each is shown a snippet that breaks it,
so that no rule can fall asleep.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

import pytest

from tests.house import conduct, floors, shape, words
from tests.house.modules import Module, read_modules

ROOT = Path(__file__).parent.parent

# Imports go down, never up, never beside: a room may import what stands on the lines below its own.
FLOORS = (
    ("cli",),
    ("wiring", "rescue"),
    ("report", "config", "schedule", "web"),
    ("drill",),
    ("runbook",),
    ("backup", "archiving", "restore", "verify", "check", "expire", "mirror"),
    ("repository",),
    ("sources", "stores", "controls", "pipeline"),
    ("system",),
    ("policy", "topology"),
    ("model",),
    ("errors",),
)

# Programs of their own, which must speak for themselves.
FRONT_DOORS = {
    "drtool.archiving.push": "drtool-wal: PostgreSQL reads its standard error",
    "drtool.repository.rescue": "RESCUE/rescue.py: runs where there is no drtool",
}

# Longer than a module may be, because it cannot be two.
ONE_FILE = {"drtool.repository.rescue": "put as one object into every repository"}

# Who may call `store.delete` besides expire/, and what for.
DELETERS = {
    "expire": "the one verb that lets go",
    "drtool.repository.repository": "takes away a key slot, which is no backup",
    "drtool.mirror.letting_go": "an application's files: only where the bucket keeps versions of them",
    "drtool.mirror.keeping": "an object of its own, to see whether the bucket keeps versions",
    "stores": "stores implement it, and the probe clears up its own objects",
    "drtool.verify.quarantine": "puts aside what is nobody's, from a plan, once its copy was read back",
}

# Too slow to load for something that PostgreSQL starts once per segment, or that only prints a help.
HEAVY = (
    "boto3", "botocore", "cryptography", "jinja2", "numpy", "obstore", "psycopg", "redis", "rich.progress",
    "zstandard",
)  # fmt: skip
HEAVY_FOR_PUSH = (*HEAVY, "click", "rich")

RULES: dict[str, Callable[[Iterable[Module]], list[str]]] = {
    "imports go down only": partial(floors.floors_are_kept, floors=FLOORS),
    "imports never go round": floors.imports_never_go_round,
    "packages import nothing": floors.packages_import_nothing,
    "only system touches the machine": partial(
        conduct.only_system_touches_the_machine, one_file=ONE_FILE
    ),
    "only the front door prints": partial(
        conduct.only_the_front_door_prints, front_doors=FRONT_DOORS
    ),
    "only expire deletes": partial(conduct.only_expire_deletes, allowed=DELETERS),
    "no shell is started": conduct.no_shell_is_started,
    "waits and queues are bounded": conduct.waits_and_queues_are_bounded,
    "modules are short": partial(shape.modules_are_short, one_file=ONE_FILE),
    "functions fit on a screen": shape.functions_fit_on_a_screen,
    "parameters are few": shape.parameters_are_few,
    "nouns are frozen": partial(shape.nouns_are_frozen, rooms=("model", "policy")),
    "errors are not swallowed": words.errors_are_not_swallowed,
    "exceptions to the tools have a reason": words.exceptions_to_the_tools_have_a_reason,
    "everything says what it is for": words.everything_says_what_it_is_for,
    "names say something": words.names_say_something,
}


@cache
def house() -> tuple[Module, ...]:
    return tuple(read_modules(ROOT / "drtool"))


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(rule: str) -> None:
    violations = RULES[rule](house())

    assert violations == [], "\n" + "\n".join(violations)


def test_the_tests_use_real_parts_and_skip_nothing() -> None:
    violations = words.tests_use_real_parts(read_modules(ROOT / "tests"))

    assert violations == [], "\n" + "\n".join(violations)


def module(name: str, text: str, *, is_package: bool = False) -> Module:
    return Module(name, text, ast.parse(text), is_package)


# (rule, room, a snippet that breaks it once, its mended form)
SNIPPETS = [
    (
        "only system touches the machine",
        "restore.run",
        "import time\ntime.sleep(1)",
        "import time\ntime.gmtime(1)",
    ),
    (
        "only system touches the machine",
        "restore.run",
        "from time import monotonic as m",
        "from time import gmtime",
    ),
    (
        "only system touches the machine",
        "model.wal",
        "from datetime import datetime as d\nd.now()",
        "1",
    ),
    (
        "only system touches the machine",
        "model.wal",
        "import datetime\ndatetime.datetime.now()",
        "1",
    ),
    ("only system touches the machine", "backup.run", "import subprocess", "1"),
    (
        "only system touches the machine",
        "backup.run",
        "import os\nos.replace('a', 'b')",
        "import os\nos.getpid()",
    ),
    (
        "only system touches the machine",
        "backup.run",
        "path.rename(there)",
        "text.replace('a', 'b')",
    ),
    ("only system touches the machine", "system.clock", "import asyncio", "import threading"),
    ("only the front door prints", "report.text", "print('x')", "str('x')"),
    ("only the front door prints", "report.text", "import logging", "import rich.table"),
    (
        "only the front door prints",
        "report.text",
        "import sys\nsys.stderr.write('x')",
        "import sys\nsys.argv",
    ),
    ("only expire deletes", "backup.run", "store.delete(key)", "store.read(key)"),
    (
        "no shell is started",
        "system.processes",
        "run('ls', shell=True)",
        "run(['ls'], shell=False)",
    ),
    ("waits and queues are bounded", "backup.run", "ready.wait()", "ready.wait(5)"),
    (
        "waits and queues are bounded",
        "backup.run",
        "import queue\nqueue.Queue()",
        "import queue\nqueue.Queue(4)",
    ),
    ("waits and queues are bounded", "backup.run", "from queue import Queue\nQueue()", "1"),
    ("waits and queues are bounded", "backup.run", "from queue import SimpleQueue", "1"),
    ("modules are short", "backup.run", "x = 1\n" * 401, "x = 1\n" * 400),
    (
        "functions fit on a screen",
        "backup.run",
        "def f():\n" + "    x = 1\n" * 60,
        "def f():\n" + "    x = 1\n" * 59,
    ),
    ("parameters are few", "backup.run", "def f(a, b, c, d): ...", "def f(a, b, c, *, d): ..."),
    (
        "parameters are few",
        "backup.run",
        "def f(a, *, b, c, d, e, f, g): ...",
        "def f(self, a, *, b, c, d, e, f): ...",
    ),
    ("parameters are few", "backup.run", "def f(a: bool): ...", "def f(*, a: bool): ..."),
    ("parameters are few", "backup.run", "def f(a, b=True): ...", "def f(a, b=1): ..."),
    (
        "nouns are frozen",
        "model.wal",
        "@dataclass\nclass A: ...",
        "@dataclass(frozen=True, slots=True)\nclass A: ...",
    ),
    (
        "nouns are frozen",
        "model.wal",
        "@dataclass(frozen=True, slots=True)\nclass A:\n a: int\n b: int\n c: int\n d: int",
        "@dataclass(frozen=True, slots=True, kw_only=True)\nclass A:\n a: int\n b: int\n c: int\n d: int",
    ),
    (
        "errors are not swallowed",
        "backup.run",
        "try: ...\nexcept: raise",
        "try: ...\nexcept OSError: ...",
    ),
    (
        "errors are not swallowed",
        "backup.run",
        "try: ...\nexcept Exception:\n    pass",
        "try: ...\nexcept Exception:  # the thread hands it to its parent\n    pass",
    ),
    (
        "errors are not swallowed",
        "backup.run",
        "with suppress(Exception): ...",
        "with suppress(OSError): ...",
    ),
    (
        "exceptions to the tools have a reason",
        "backup.run",
        "x = 1  # noqa: S311",
        "x = 1  # noqa: S311 - jitter only",
    ),
    (
        "exceptions to the tools have a reason",
        "backup.run",
        "x: Any = 1",
        "# JSON of any shape\nx: Any = 1",
    ),
    ("exceptions to the tools have a reason", "backup.run", "x = cast(int, y)", "x = int(y)"),
    ("everything says what it is for", "backup.run", "x = 1", '"""Says it."""'),
    (
        "everything says what it is for",
        "backup.run",
        '"""Says it."""\ndef f(): ...',
        '"""Says it."""\ndef f():\n    """Says it."""',
    ),
    ("names say something", "backup.wal_utils", "x = 1", None),
    ("names say something", "backup.run", "class WALManager: ...", "class WALReader: ..."),
    ("names say something", "backup.run", "class ServerInfo: ...", "class Informed: ..."),
]


@pytest.mark.parametrize(
    ("rule", "where", "bad"),
    [(rule, where, bad) for rule, where, bad, _ in SNIPPETS],
)
def test_a_broken_rule_is_noticed(rule: str, where: str, bad: str) -> None:
    violations = RULES[rule]([module(f"drtool.{where}", bad)])

    assert len(violations) >= 1


@pytest.mark.parametrize(
    ("rule", "where", "good"),
    [(rule, where, good) for rule, where, _, good in SNIPPETS if good is not None],
)
def test_a_kept_rule_is_left_in_peace(rule: str, where: str, good: str) -> None:
    violations = RULES[rule]([module(f"drtool.{where}", good)])

    assert violations == []


@pytest.mark.parametrize(
    ("importer", "line", "is_allowed"),
    [
        ("drtool.restore.run", "from drtool.repository.reader import Reader", True),
        ("drtool.restore.run", "from drtool import __version__", True),
        ("drtool.restore.run", "from drtool.restore.plan import Plan", True),
        ("drtool.restore.run", "from drtool.cli.main import main", False),
        ("drtool.restore.run", "from drtool import cli", False),
        ("drtool.restore.run", "def f():\n    import drtool.backup.run", False),
        ("drtool.sources.postgres.base", "from drtool.stores.protocol import Store", False),
        ("drtool.sources.postgres.base", "from drtool.sources.redis.base import Redis", False),
        ("drtool.sources.postgres.base", "from drtool.sources.protocol import Source", True),
        ("drtool.attic.box", "import os", False),
        ("drtool.errors", "from drtool.model.wal import Lsn", False),
    ],
)
def test_floors_are_told_apart(importer: str, line: str, is_allowed: bool) -> None:
    others = [
        module(name, "")
        for name in (
            "drtool.repository.reader", "drtool.restore.plan", "drtool.cli.main", "drtool.cli",
            "drtool.backup.run", "drtool.stores.protocol", "drtool.sources.redis.base",
            "drtool.sources.postgres.tar", "drtool.sources.protocol", "drtool.model.wal",
        )
    ]  # fmt: skip

    violations = RULES["imports go down only"]([module(importer, line), *others])

    assert (violations == []) is is_allowed


def test_a_circle_is_noticed_even_inside_a_function() -> None:
    circle = [
        module("drtool.model.a", "from drtool.model.b import B"),
        module("drtool.model.b", "from drtool.model import c"),
        module("drtool.model.c", "def f():\n    import drtool.model.a"),
    ]

    violations = floors.imports_never_go_round(circle)

    assert violations == ["drtool.model.a -> drtool.model.b -> drtool.model.c -> drtool.model.a"]


def test_an_init_that_imports_is_noticed() -> None:
    package = module("drtool.model", "from drtool.model.wal import Lsn", is_package=True)

    assert len(floors.packages_import_nothing([package])) == 1


@pytest.mark.parametrize(
    "snippet", ["import pytest\npytest.skip('x')", "from unittest.mock import patch"]
)
def test_a_mock_or_a_skip_is_noticed(snippet: str) -> None:
    assert len(words.tests_use_real_parts([module("tests.test_x", snippet)])) >= 1


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `statement`."""
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=True,
    )
    return set(result.stderr.split())


def test_drtool_wal_loads_nothing_heavy() -> None:
    loaded = loaded_by("import drtool.archiving.push")

    assert loaded & set(HEAVY_FOR_PUSH) == set()


def test_the_rescue_program_of_the_package_needs_two_packages_and_nothing_of_drtool() -> None:
    loaded = loaded_by("import drtool.rescue")

    ours = {name for name in loaded if name.partition(".")[0] == "drtool"}
    assert ours == {"drtool", "drtool.rescue", "drtool.repository", "drtool.repository.rescue"}
    assert loaded & {*HEAVY_FOR_PUSH} <= {"cryptography", "zstandard"}


def test_drtool_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("import drtool.cli.main; drtool.cli.main.main(['--help'])")

    assert loaded & set(HEAVY) == set()
    assert "click" in loaded, "the help was not shown, so this test proves nothing"
