"""The front door: help, errors, exit codes, and nothing secret on the way out."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

import click
import jsonschema
import pytest

from drtool.cli.failure import code_for_postgres, tell
from drtool.cli.front import Front
from drtool.cli.lazy import LazyGroup
from drtool.cli.main import root, run
from drtool.cli.targets import TargetOptions, read_target
from drtool.errors import (
    ExitCode,
    IntegrityError,
    Interrupted,
    NotRecoverable,
    ObjectMissing,
    PolicyError,
    RepositoryUnavailable,
)
from drtool.model.finding import Finding, Harm, Severity, code_of_findings
from drtool.model.target import ToLatest
from tests.cli.commands import every_command
from tests.config.samples import VALID

COMMANDS = every_command()
PROGRAM = [sys.executable, "-c", "from drtool.cli.main import main; main()"]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(VALID)
    return path


def drtool(
    *words: str, environ: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, at most half a minute."""
    surroundings = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "PYTHONPATH": str(ROOT),
        **(environ or {}),
    }
    return subprocess.run(
        [*PROGRAM, *words],
        capture_output=True,
        text=True,
        env=surroundings,
        cwd=cwd,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("words", COMMANDS)
def test_every_help_says_what_it_does_and_has_an_example(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([*words.split(), "--help"], Front())

    shown = capsys.readouterr().out
    assert code == 0
    assert "Example" in shown
    assert "--json" in shown
    example = shown.split("Example")[1]
    assert f"drtool {words}".strip() in example


@pytest.mark.parametrize("words", [words for words in COMMANDS if words])
def test_every_example_of_a_help_can_be_typed(words: str) -> None:
    """Not `key remove 1`, where a slot has another kind of name."""
    lines = (COMMANDS[words].epilog or "").splitlines()
    commands = [line.partition("drtool ")[2] for line in lines if " drtool " in line]
    typed = [shlex.split(re.split(" [|>] ", command)[0]) for command in commands]

    for line in typed:
        _parse(root, line)
        if line[:3] == ["repository", "key", "remove"]:
            assert re.fullmatch(r"[0-9a-f]{16}", line[3])


def _parse(group: LazyGroup, line: list[str]) -> None:
    """Read a command line as the program does, without carrying it out."""
    with group.make_context("drtool", [*line], obj=Front()) as context:
        name, command, rest = group.resolve_command(context, [*line])
        assert command is not None
        if isinstance(command, LazyGroup):
            _parse(command, rest)
        else:
            command.make_context(name, rest, parent=context, obj=Front()).close()


@pytest.mark.parametrize("words", ["check", "status"])
def test_the_help_of_a_verdict_lists_the_code_of_each_harm(words: str) -> None:
    """Exit code 4 was in neither."""
    told = " ".join((COMMANDS[words].help or "").split())
    verdict = told[told.index("Ends with") :]
    harms = {Harm.PROMISE, Harm.UNREACHABLE, Harm.DAMAGE}
    if words == "check":  # status asks no source
        harms |= {Harm.SOURCE, Harm.POLICY}

    codes = {int(code) for code in re.findall(r"\b[2-9]\b", verdict)}

    for harm in harms:
        finding = Finding(severity=Severity.PROBLEM, subject="x", fact="y", harm=harm)
        assert code_of_findings([finding], otherwise=ExitCode.BUG) in codes, harm


@pytest.mark.parametrize("words", COMMANDS)
def test_the_short_option_shows_the_same_help(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words.split(), "-h"], Front()) == 0
    short = capsys.readouterr().out

    run([*words.split(), "--help"], Front())

    assert short == capsys.readouterr().out


@pytest.mark.parametrize("words", [words for words in COMMANDS if words])
def test_the_words_a_group_shows_are_of_a_command_that_loads(words: str) -> None:
    group, _, name = words.rpartition(" ")
    parent = COMMANDS[group]

    assert isinstance(parent, LazyGroup)
    assert parent.lazy[name].summary.endswith(".")
    assert COMMANDS[words].name == name


CHANGING = [
    "init",
    "backup",
    "restore",
    "wal receive",
    "repository init",
    "repository key add",
    "repository key remove",
    "repository key rotate",
]


@pytest.mark.parametrize("words", CHANGING)
def test_every_command_that_changes_anything_has_dry_run(words: str) -> None:
    options = {name for parameter in COMMANDS[words].params for name in parameter.opts}

    assert "--dry-run" in options


def test_an_error_is_a_sentence_and_a_hint_on_standard_error(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["restore", "--policy", str(policy)], Front())

    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err == (
        "drtool: error: a restore has exactly one target, not none\n"
        "  Give one of --to TIME, --to latest, --to-lsn, --to-xid, --to-name, --backup.\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["restore", "--json"],
        ["--json", "restore", "--to", "latest", "--to-xid", "7"],
        ["restor", "--json"],
        ["restore", "--too", "--json"],
        ["--json", "--policy", "/nowhere.yaml", "status"],
    ],
)
def test_with_json_an_error_is_the_one_object_on_standard_output(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(words, Front())

    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert content["kind"] == "error"
    assert content["exit_code"] == code == 2
    assert content["message"]


def test_an_unknown_command_is_answered_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["restor"], Front()) == 2
    assert "did you mean 'restore'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("time", "means"),
    [
        ("2024-05-01T10:00", "2024-05-01 10:00:00+02:00 Europe/Warsaw (08:00:00Z)"),
        ("2024-05-01 10:00:00Z", "2024-05-01 12:00:00+02:00 Europe/Warsaw (10:00:00Z)"),
    ],
)
def test_a_time_is_read_in_the_policys_zone_and_echoed_with_it_wherever_the_host_is(
    policy: Path, time: str, means: str
) -> None:
    """PITFALLS 50: the host's own zone plays no part."""
    words = ["restore", "main-db", "--to", time, "--policy", str(policy), "--plan"]

    ended = drtool(*words, environ={"TZ": "Asia/Seoul"})

    assert f"restoring to {means}" in ended.stderr


@pytest.mark.parametrize(
    "time",
    ["13am", "2024-03-31T02:30", "2024-10-27T02:30", "2024-05-01", "yesterday", "10:00", "now"],
)
def test_a_time_that_names_no_single_moment_is_refused(
    policy: Path, time: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """PITFALLS 50: skipped and doubled hours are refused, never guessed."""
    code = run(["restore", "--to", time, "--policy", str(policy)], Front())

    err = capsys.readouterr().err
    assert code == 2
    assert f"--to: '{time}'" in err
    assert "--to latest" in err


@pytest.mark.parametrize(
    "words",
    [
        ["--to-lsn", "zero"],
        ["--to-xid", "-1"],
        ["--to-xid", "2"],
        ["--to", "latest", "--backup", "x"],
        ["--to-name", "a", "--to-lsn", "0/1"],
    ],
)
def test_a_target_that_cannot_be_and_two_targets_are_refused(
    policy: Path, words: list[str]
) -> None:
    """PITFALLS 43: the combinations are refused at the door."""
    assert run(["restore", *words, "--policy", str(policy)], Front()) == 2


def test_latest_may_be_written_in_any_case() -> None:
    options = TargetOptions(to="LATEST", to_lsn=None, to_xid=None, to_name=None, backup=None)

    assert read_target(options, ZoneInfo("UTC")) == ToLatest()


def test_a_position_that_is_none_is_answered_with_its_format_and_where_to_look(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["restore", "--to-lsn", "zzz", "--policy", str(policy)], Front())

    err = capsys.readouterr().err
    assert "0/3000060" in err
    assert "drtool wal status" in err


def test_policy_check_ends_with_three_where_a_promise_cannot_be_kept(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.write_text(VALID + "    wal: {flush: 1h}\n")

    code = run(["policy", "check", "--policy", str(policy), "--json"], Front())

    content = json.loads(capsys.readouterr().out)
    assert code == 3
    assert content["verdict"] == "MISSED"
    assert content["rows"][0]["verdict"] == "MISSED"


def test_policy_check_ends_with_zero_where_all_can_be_kept_and_with_two_where_it_is_invalid(
    policy: Path,
) -> None:
    valid = run(["policy", "check", "--policy", str(policy)], Front())
    policy.write_text(VALID.replace("stack", "stak"))
    invalid = run(["policy", "check", "--policy", str(policy)], Front())

    assert (valid, invalid) == (0, 2)


def test_the_schema_that_is_printed_is_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    run(["policy", "schema"], Front())

    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_a_password_in_a_message_or_a_traceback_is_not_printed(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = Front()
    front.policy_path, front.verbosity = policy, 1
    os.environ["MAIN_DB_DSN"] = "postgresql://ann:hunter22@db/shop"
    try:
        assert front.policy is not None
    finally:
        del os.environ["MAIN_DB_DSN"]

    tell(front, PolicyError("cannot log in with hunter22", hint="Try hunter22 again."))
    tell(front, RuntimeError("password hunter22"))
    front.wants_json = True
    tell(front, PolicyError("cannot log in with hunter22"))

    captured = capsys.readouterr()
    assert "hunter22" not in captured.out + captured.err
    assert "***" in captured.err
    assert json.loads(captured.out)["message"] == "cannot log in with ***"


def test_a_bug_shows_where_it_is_and_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ZeroDivisionError("division by zero")
    except ZeroDivisionError as error:
        code = tell(Front(), error)

    shown = capsys.readouterr().err
    assert code == 1
    assert "test_commands.py" in shown
    assert "drtool: error: ZeroDivisionError: division by zero" in shown


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), Interrupted("stopped")])
def test_an_interrupted_run_ends_with_130(error: BaseException) -> None:
    assert tell(Front(), error) == 130


FETCH, PUSH = ["wal", "fetch", "main-db", "%f", "%p"], ["--json", "wal", "push", "main-db", "%p"]


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        (FETCH, ObjectMissing("log/x"), 1),
        (FETCH, NotRecoverable("outside"), 1),
        (FETCH, RepositoryUnavailable("down"), 255),
        (FETCH, IntegrityError("flipped"), 255),
        (FETCH, PolicyError("bad"), 255),
        (FETCH, RuntimeError("bug"), 255),
        (FETCH, KeyboardInterrupt(), 255),
        (PUSH, RepositoryUnavailable("down"), 6),
        (PUSH, KeyboardInterrupt(), 1),
        (["status"], KeyboardInterrupt(), 130),
    ],
)
def test_postgresql_never_takes_an_outage_for_the_end_of_wal(
    words: list[str], error: BaseException, code: int
) -> None:
    """PITFALLS 0, 8 and 39: the codes of restore_command and archive_command."""
    assert code_for_postgres(words, error, code=tell(Front(), error)) == code


@pytest.mark.parametrize("words", [["wal", "fetch", "--bad"], ["--bad", "wal", "fetch", "a", "b"]])
def test_a_restore_command_that_is_misspelt_does_not_end_the_recovery(words: list[str]) -> None:
    """PITFALLS 39: exit 2 would let PostgreSQL promote with what it has."""
    assert run(words, Front()) == 255


def test_help_loads_nothing_heavy_and_does_not_read_the_policy(tmp_path: Path) -> None:
    code = (
        "import sys; from drtool.cli.main import run; from drtool.cli.front import Front;"
        "run(['--help'], Front());"
        "heavy = {'boto3', 'numpy', 'obstore', 'psycopg', 'rich', 'jinja2', 'cryptography', 'zstandard',"
        " 'ruamel.yaml', 'croniter', 'drtool.model.outcome'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=30,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "Commands:" in ended.stdout


@pytest.mark.parametrize("words", ["policy schema", "restore --help", "policy check"])
def test_a_reader_that_has_enough_is_no_failure(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        ended = subprocess.run(
            [*PROGRAM, *words.split()],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=30,
            check=False,
        )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_broken_connection_of_a_verb_is_not_taken_for_a_reader_that_has_enough() -> None:
    """PITFALLS 22: nothing ends with 0 that did not happen."""
    assert tell(Front(), BrokenPipeError(32, "Broken pipe")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_run_with_130(number: signal.Signals, tmp_path: Path) -> None:
    # The policy is a pipe that nobody writes to: the program waits in mid-command.
    os.mkfifo(tmp_path / "policy.yaml")
    process = subprocess.Popen(
        [*PROGRAM, "status", "--policy", str(tmp_path / "policy.yaml")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    # Opening the other end returns once the program has opened its own.
    with (tmp_path / "policy.yaml").open("w"):
        process.send_signal(number)
        _, shown = process.communicate(timeout=30)

    assert process.returncode == 130
    assert shown == "drtool: error: interrupted\n"


def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policy.yaml")
    process = subprocess.Popen(
        ["nohup", *PROGRAM, "status", "--policy", str(tmp_path / "policy.yaml")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with (tmp_path / "policy.yaml").open("w"):
        process.send_signal(signal.SIGHUP)
    _, shown = process.communicate(timeout=30)

    assert process.returncode == 2, shown
    assert "the policy is empty" in shown


@pytest.mark.parametrize(
    "verb", [("redis", "receive", "cache"), ("wal", "receive", "main-db"), ("schedule", "run")]
)
def test_what_runs_until_it_is_told_to_stop_may_be_told_before_it_has_begun(
    verb: tuple[str, ...], tmp_path: Path
) -> None:
    # As above: the program waits for its policy.
    os.mkfifo(tmp_path / "policy.yaml")
    process = subprocess.Popen(
        [*PROGRAM, *verb, "--json", "--policy", str(tmp_path / "policy.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with (tmp_path / "policy.yaml").open("w"):
        process.send_signal(signal.SIGTERM)
        answer, told = process.communicate(timeout=30)

    assert process.returncode == 0, told
    assert '"began": false' in json.dumps(json.loads(answer))


# The lock of the event, as the main thread holds it for a moment whenever it begins or ends to wait.
_SIGNAL_UNDER_LOCK = """\
import os, signal
from drtool.cli.front import Front
from drtool.cli.main import listen
front = Front()
front.ends_cleanly = True
listen(front)
with front.stop._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    os.getpid()
print(front.stop.wait(60))
"""


def test_a_signal_that_meets_the_event_s_own_lock_ends_a_run_all_the_same() -> None:
    """Seen once in a receiver: it stood still for ever, and only SIGKILL ended it."""
    ended = subprocess.run(
        [sys.executable, "-c", _SIGNAL_UNDER_LOCK],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )

    assert ended.stdout == "True\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["completion", shell], Front()) == 0
    assert f"_DRTOOL_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_completion_knows_the_commands() -> None:
    ended = drtool(
        environ={"_DRTOOL_COMPLETE": "bash_complete", "COMP_WORDS": "drtool re", "COMP_CWORD": "1"}
    )

    assert {line.split(",")[1] for line in ended.stdout.split()} == {
        "redis",
        "repository",
        "restore",
    }


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    import drtool

    assert run(["--version"], Front()) == 0
    assert capsys.readouterr().out == f"drtool {drtool.__version__}\n"


def test_drtool_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([], Front()) == 2
    assert "Commands:" in capsys.readouterr().err


def test_no_color_reaches_the_answer(policy: Path) -> None:
    ended = drtool("policy", "check", "--policy", str(policy), environ={"NO_COLOR": "1"})

    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout
