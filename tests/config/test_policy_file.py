"""A policy is read strictly: what it may not say is refused with its place and the nearest word."""

from __future__ import annotations

import json
import time as time_module
from datetime import time, timedelta
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from drtool.config.policy_file import find_policy, parse_policy, read_policy
from drtool.config.scalars import SCALARS
from drtool.config.schema import policy_schema
from drtool.errors import ExitCode, PolicyError, UsageError
from drtool.policy.scalars import CronLine
from drtool.policy.secrets import NoEncryption, SecretReference
from drtool.policy.sources import Check, FilesSource, PostgresSource, RedisSource, WalMode
from tests.config.samples import VALID

ROOT = Path(__file__).parent.parent.parent
POLICIES = sorted((ROOT / "policies").glob("*.yaml"))


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "shop.yaml")
    assert caught.value.exit_code is ExitCode.USAGE
    return caught.value.message


def test_the_reference_policy_says_what_the_design_says() -> None:
    policy = read_policy(ROOT / "policies" / "stefano.yaml")

    database, cache, uploads = policy.sources.values()
    assert isinstance(database, PostgresSource)
    assert isinstance(cache, RedisSource)
    assert isinstance(uploads, FilesSource)
    assert list(policy.sources) == ["main-db", "cache", "uploads"]
    assert policy.timezone.key == "Europe/Warsaw"
    assert policy.default_objective.rpo == timedelta(minutes=15)
    assert policy.default_objective.rto == timedelta(hours=1)
    assert policy.repository.key == SecretReference("env", "DRTOOL_KEY")
    assert policy.repository.compression_level == 1
    assert database.wal.mode is WalMode.STREAM
    assert database.wal.flush == timedelta(seconds=10)
    assert database.schedule.backup == "0 2 * * *"
    assert policy.maintenance[0].window.begin == time(2, 0)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_every_policy_of_the_repository_is_valid_by_reader_and_by_schema(path: Path) -> None:
    read_policy(path)

    jsonschema.validate(YAML(typ="safe", pure=True).load(path.read_text()), policy_schema())


def test_the_schema_is_one_and_refuses_what_the_reader_refuses() -> None:
    schema = policy_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    document = YAML(typ="safe", pure=True).load(VALID)
    document["sources"]["main-db"]["dns"] = "env:X"

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)
    assert "dns" in refusal(VALID + "    dns: env:X\n")


def test_every_key_of_the_schema_is_described() -> None:
    def undescribed(schema: object, path: str) -> list[str]:
        if isinstance(schema, list):
            return [found for item in schema for found in undescribed(item, path)]
        if not isinstance(schema, dict):
            return []
        found = [
            f"{path}.{name}"
            for name, key in schema.get("properties", {}).items()
            if "description" not in key and "const" not in key and name not in ("rpo", "rto")
        ]
        for name, inner in schema.items():
            found += undescribed(inner, f"{path}.{name}")
        return found

    assert undescribed(policy_schema(), "") == []


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("timezone:", "timezon:", "3:1", "did you mean 'timezone'?"),
        ("    dsn:", "    dns:", "12:5", "did you mean 'dsn'?"),
        ("kind: postgres", "kind: postgre", "11:11", "did you mean 'postgres'?"),
        ("Europe/Warsaw", "Europe/Warszawa", "3:11", "did you mean 'Europe/Warsaw'?"),
        ("rpo: 15m", "rpo: 15", "5:18", "write a number with a unit"),
        ("rpo: 15m", "rpo: 15min", "5:18", "is not a span of time"),
        ("stack: shop", "stack: Shop!", "2:8", "is not a name"),
        ("stack: shop", "stack:", "2:1", "stack has no value"),
        ("version: 1", "version: 2", "1:1", "version 2"),
        ("version: 1", "version: one", "1:10", "not a whole number"),
        ("file:///srv/drtool", "ftp://srv/drtool", "7:8", "not the address of a store"),
        ("file:///srv/drtool", "file://srv/drtool", "7:8", "not an absolute path"),
        ("file:///srv/drtool", "s3:///main", "7:8", "names no bucket"),
        ("default:", "defaults:", "1:1", "objectives has no 'default'"),
        ("url: file:///srv/drtool", "url: [a]", "7:8", "one value, not a list"),
    ],
)
def test_what_is_wrong_is_said_with_line_column_and_the_right_word(
    old: str, new: str, place: str, words: str
) -> None:
    """PITFALLS 78: an unknown key is refused, never dropped."""
    message = refusal(VALID.replace(old, new, 1))

    assert f"shop.yaml:{place}" in message
    assert words in message


def test_a_duplicate_key_is_refused_where_it_stands_second() -> None:
    """PITFALLS 78: the second of two keys does not silently replace the first."""
    message = refusal(VALID + "    dsn: env:OTHER\n")

    assert message == "shop.yaml:13:5: duplicate key 'dsn'"


def test_two_sources_of_one_name_are_refused() -> None:
    """PITFALLS 78: duplicates count at every level."""
    message = refusal(VALID + "  main-db: {kind: postgres, dsn: env:OTHER}\n")

    assert "shop.yaml:13:3: duplicate key 'main-db'" in message


def test_all_problems_of_a_file_are_told_at_once_in_order() -> None:
    text = VALID.replace("stack:", "stak:").replace("rpo: 15m", "rpo: 15")

    lines = refusal(text).splitlines()

    assert [line.split(": ")[0] for line in lines] == [
        "shop.yaml:1:1",
        "shop.yaml:2:1",
        "shop.yaml:5:18",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dsn: env:MAIN_DB_DSN", "dsn: postgres://ann:hunter22@db/shop"),
        ("key: env:DRTOOL_KEY", "key: hunter22"),
        ("file:///srv/drtool", "s3://AKIA:hunter22@bucket/main"),
    ],
)
def test_a_literal_secret_is_refused_and_not_repeated(old: str, new: str) -> None:
    message = refusal(VALID.replace(old, new))

    assert "hunter22" not in message
    assert "shop.yaml:" in message


def test_no_encryption_must_be_written_out() -> None:
    """PITFALLS 75: without a key nothing is stored in clear text by accident."""
    written = parse_policy(VALID.replace("key: env:DRTOOL_KEY", "key: none"), "shop.yaml")
    missing = refusal(VALID.replace("  key: env:DRTOOL_KEY\n", ""))

    assert written.repository.key == NoEncryption()
    assert "lacks the key 'key'" in missing


def test_yaml_guesses_nothing() -> None:
    text = (
        VALID
        + "    checks: [no, 12:30, 1e3, 0o17, null, 2024-05-01]\n"
        + "    restore: {run_as: on, tablespaces: {yes: /srv/a}}\n"
    )

    source = parse_policy(text, "shop.yaml").postgres("main-db")

    assert [check.sql for check in source.checks] == [
        "no", "12:30", "1e3", "0o17", "null", "2024-05-01",
    ]  # fmt: skip
    assert source.restore.run_as == "on"
    assert source.restore.tablespaces == {"yes": Path("/srv/a")}


def test_a_check_is_its_sql_alone_or_names_its_database_too() -> None:
    checks = '["select true", {sql: select 1 > 0, database: shop}, {sql: select 2 > 1}]'
    text = f"{VALID}    checks: {checks}\n"

    source = parse_policy(text, "shop.yaml").postgres("main-db")

    assert source.checks == (
        Check(sql="select true"),
        Check(sql="select 1 > 0", database="shop"),
        Check(sql="select 2 > 1"),
    )
    jsonschema.validate(YAML(typ="safe", pure=True).load(text), policy_schema())


def test_anchors_and_merges_are_read_and_own_keys_win() -> None:
    text = (
        VALID.replace("  main-db:", "  main-db: &base")
        + "  other-db:\n    <<: *base\n    dsn: env:OTHER\n"
    )

    policy = parse_policy(text, "shop.yaml")

    assert policy.postgres("other-db").dsn == SecretReference("env", "OTHER")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "[]\n",
        "just words\n",
        "version: 1\n  stack: [\n",
        "version: *nowhere\n",
        "&a {<<: *a}\n",
        "version: 1\n---\nversion: 1\n",
        "\t\n",
        "? [a, b]\n: 1\n",
        "[" * 3000,
        "version: \x00\n",
    ],
)
def test_what_is_no_policy_at_all_is_refused_with_its_place(text: str) -> None:
    message = refusal(text)

    assert message.startswith("shop.yaml:")


@pytest.mark.parametrize(
    "line",
    [
        "schedule: {backup: '0 2 * *'}",
        "schedule: {backup: '61 2 * * *'}",
        "schedule: {backup: '@daily'}",
        "schedule: {backup: '0 0 2 * * *'}",
        "wal: {mode: strem}",
        "wal: {flush: 0s}",
        "wal: {slot: Not-A-Slot}",
        "bin_dir: relative/path",
        "checks: select 1",
        "checks: [{database: shop}]",
        "checks: [{sql: select 1, databse: shop}]",
        "checks: [[select 1]]",
        'checks: ["select \\0"]',
        f"checks: [{{sql: select 1, database: {'x' * 64}}}]",
        "objective: {rpo: 1m}",
    ],
)
def test_a_value_that_cannot_be_is_refused(line: str) -> None:
    message = refusal(f"{VALID}    {line}\n")

    assert "shop.yaml:13:" in message


def test_wal_is_asked_of_postgresql_alone_and_a_redis_is_told_what_archives_it() -> None:
    policy = read_policy(ROOT / "policies" / "stefano.yaml")

    with pytest.raises(PolicyError, match="kind redis, and WAL is PostgreSQL's") as caught:
        policy.postgres("cache")

    assert "`drtool redis receive cache`" in caught.value.hint


def test_a_source_that_the_policy_lacks_is_a_usage_error_that_names_those_there_are() -> None:
    policy = parse_policy(VALID, "shop.yaml")

    with pytest.raises(UsageError, match="no source 'main'") as caught:
        policy.source("main")

    assert "main-db" in caught.value.hint


def test_every_secret_of_a_policy_is_known_to_whoever_asks() -> None:
    policy = read_policy(ROOT / "policies" / "stefano.yaml")

    names = {reference.name for reference in policy.secret_references()}

    assert names == {"DRTOOL_KEY", "MAIN_DB_DSN", "REPLICA_DSN", "OPS_WEBHOOK"}


def test_the_single_file_in_policies_is_found_by_itself(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    only = tmp_path / "policies" / "shop.yaml"
    only.write_text(VALID)

    assert find_policy(None, {}, tmp_path) == only
    assert find_policy(None, {"DRTOOL_POLICY": "/x.yaml"}, tmp_path) == Path("/x.yaml")
    assert find_policy(Path("y.yaml"), {"DRTOOL_POLICY": "/x.yaml"}, tmp_path) == Path("y.yaml")


@pytest.mark.parametrize("names", [[], ["a.yaml", "b.yml"]])
def test_no_policy_and_two_policies_are_usage_errors(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "policies").mkdir()
    for name in names:
        (tmp_path / "policies" / name).write_text(VALID)

    with pytest.raises(UsageError) as caught:
        find_policy(None, {}, tmp_path)

    assert "--policy" in caught.value.hint


def _eightfold(levels: int, line: str) -> str:
    """Anchors x0 to x<levels>, each with eight times what the one before has."""
    lines = ["x0: &x0 {rpo: 15m, rto: 1h}"]
    for level in range(1, levels + 1):
        lines.append(line.format(level=level, eight=", ".join([f"*x{level - 1}"] * 8)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _eightfold(12, "x{level}: &x{level} {{<<: [{eight}]}}") + "\n<<: *x12\n",
        _eightfold(9, "x{level}: &x{level} [{eight}]")
        + "\nsources: {a: {kind: postgres, checks: *x9, dsn: *x9}}\n",
        "a: &a {" + ", ".join(f"k{n}: 1" for n in range(1500)) + "}\nsources: {"
        + ", ".join(f"s{n}: {{<<: *a, kind: files}}" for n in range(1500)) + "}\n",
        "version: 1\n" * 3000,
        "[" * 100_000,
        "version: 1\nstack: " + "1" * 100_000,
    ],
    ids=["merges", "lists", "many", "duplicates", "brackets", "digits"],
)  # fmt: skip
def test_a_policy_that_means_more_than_it_says_is_refused_at_once(text: str) -> None:
    began = time_module.process_time()
    message = refusal(text)

    assert time_module.process_time() - began < 5
    assert len(message) < 100_000
    assert message.count("\n") <= 100


@pytest.mark.parametrize(
    "value", ["9999999999999w", "1e999d", "9" * 400 + "d", "9" * 50_000, "101000d"]
)
def test_a_span_that_no_clock_holds_is_refused(value: str) -> None:
    message = refusal(VALID.replace("rpo: 15m", f"rpo: {value}", 1))

    assert "rpo" in message
    assert len(message) < 1000


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"x" * (1 << 20) + b"yy"])
def test_a_file_that_cannot_be_read_is_a_policy_error(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "shop.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(PolicyError, match=r"shop\.yaml"):
        read_policy(path)


def test_the_schema_is_json() -> None:
    assert json.loads(json.dumps(policy_schema()))["title"] == "drtool policy"


@pytest.mark.parametrize("line", ["30 2 * * *", "*/5 0-6,22 1,15 JAN-mar MON", "0 0 29 2 *"])
def test_a_crontab_line_is_crons_own(line: str) -> None:
    assert SCALARS[CronLine].read(line) == line


@pytest.mark.parametrize(
    "line", ["R 2 * * *", "@daily", "0 2 * *", "0 2 * * * *", "0 25 * * *", ""]
)
def test_a_line_that_cron_would_not_take_is_refused(line: str) -> None:
    """`R` would be drawn anew whenever it is asked for: a job would run at every turn of the dice."""
    with pytest.raises(ValueError, match="crontab line"):
        SCALARS[CronLine].read(line)
