"""The policy's questions to a copy whose tables belong to somebody hostile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.model.progress import Event, PhaseAdvanced
from drtool.policy.sources import Check
from tests.verify.copies import Copy, running_copy

pytestmark = pytest.mark.postgres

HOSTILE = """
CREATE ROLE mallory LOGIN;
CREATE SCHEMA evil AUTHORIZATION mallory;
CREATE TABLE ledger AS SELECT generate_series(1, 3) AS id;
ALTER TABLE ledger OWNER TO mallory;
GRANT ALL ON ledger TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;
SET SESSION AUTHORIZATION mallory;
CREATE FUNCTION evil.run(command text) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN EXECUTE command; RETURN true; END $$;
CREATE FUNCTION evil.as_owner() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN DELETE FROM public.ledger; RETURN true; END $$;
CREATE FUNCTION evil.stay() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        LOOP
            BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
        END LOOP;
    END $$;
CREATE FUNCTION evil.shout(length int) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION '%', repeat('x', length); END $$;
CREATE FUNCTION evil.chatter(times int, length int) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        FOR n IN 1..times LOOP RAISE NOTICE '%', repeat('x', length); END LOOP;
        RETURN true;
    END $$;
"""
LEFT_BEHIND = (
    "SELECT rolname FROM pg_authid ORDER BY oid",
    "SELECT roleid, member FROM pg_auth_members ORDER BY 1, 2",
    "SELECT * FROM pg_db_role_setting",
    "SELECT datname, datacl::text FROM pg_database ORDER BY oid",
    "SELECT count(*) FROM pg_shdepend",
    "SELECT count(*) FROM pg_largeobject_metadata",
    "SELECT count(*), max(oid) FROM pg_class",
    "SELECT count(*) FROM ledger",
    "SELECT usename FROM pg_stat_activity WHERE usename LIKE 'drtool%'",
)


@pytest.fixture(scope="module", params=[15, 18], ids=["pg15", "pg18"])
def copy(request: pytest.FixtureRequest) -> Iterator[Copy]:
    with running_copy(request.param) as running:
        running.run(HOSTILE)
        yield running


def all_of(copy: Copy) -> list[object]:
    return [copy.run(statement) for statement in LEFT_BEHIND]


def view(copy: Copy, name: str, command: str) -> str:
    """The question to a table that its owner has replaced by a view, which runs `command`."""
    quoted = command.replace("'", "''")
    copy.run(f"DROP VIEW IF EXISTS evil.{name}", user="mallory")
    copy.run(f"CREATE VIEW evil.{name} AS SELECT evil.run('{quoted}') AS done", user="mallory")
    return f"SELECT count(*) > 0 FROM evil.{name} WHERE done"


def test_a_view_in_the_place_of_a_table_runs_no_program_and_gets_no_rights(
    copy: Copy, server_root: Path
) -> None:
    proof = server_root / "proof"
    questions = [
        view(copy, f"orders{number}", command)
        for number, command in enumerate(
            (
                f"COPY (SELECT 1) TO PROGRAM 'touch {proof}'",
                f"RESET ROLE; COPY (SELECT 1) TO PROGRAM 'touch {proof}'",
                "SET SESSION AUTHORIZATION DEFAULT; COPY (SELECT 1) TO PROGRAM 'true'",
                "SET SESSION AUTHORIZATION postgres",
                "SET ROLE pg_execute_server_program",
                "ALTER ROLE mallory SUPERUSER",
                f"SELECT lo_export(1, '{proof}')",
                "SELECT pg_read_file('postgresql.conf')",
            )
        )
    ]

    before = all_of(copy)

    answers = copy.answers(*questions)

    assert not proof.exists()
    assert [passed for passed, _ in answers if passed] == []
    assert all(
        "permission" in told or "must be" in told or "read-only" in told for _, told in answers
    ), answers
    assert all_of(copy) == before


def test_a_question_changes_nothing_whatever_it_says(copy: Copy) -> None:
    delete = "DELETE FROM public.ledger"
    again = "SELECT set_config('transaction_read_only', 'off', false)"

    replaced = view(copy, "orders", f"SET TRANSACTION READ WRITE; {delete}")
    replaced_too = view(copy, "orders2", f"COMMIT; {delete}")
    before = all_of(copy)

    answers = copy.answers(
        f"WITH gone AS ({delete} RETURNING 1) SELECT count(*) = 3 FROM gone",
        f"{delete} RETURNING true",
        f"SELECT true; {delete}",
        f"COMMIT; {delete} RETURNING true",
        f"SELECT true) AS answers (a); {delete}; SELECT (true",
        "SET TRANSACTION READ WRITE",
        "SELECT evil.as_owner()",
        f"SELECT evil.run('{again.replace(chr(39), chr(39) * 2)}') AND evil.as_owner()",
        replaced,
        replaced_too,
        "SELECT nextval('evil.s') > 0",
        "SELECT evil.run('CREATE TABLE public.stays ()')",
        "SELECT lo_create(0) > 0 AND evil.run('NOTIFY drtool')",
    )

    assert [passed for passed, _ in answers[:-1] if passed] == []
    assert all_of(copy) == before
    assert copy.run("SELECT count(*) FROM ledger") == [(3,)]


def test_an_answer_has_a_limit_in_time_that_nothing_catches(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time-out of a statement is an error that PL/pgSQL catches, and goes on."""
    monkeypatch.setattr("drtool.sources.postgres.asking._GRACE_SECONDS", 0.5)
    monkeypatch.setattr("drtool.verify.cluster._TELL_EVERY_SECONDS", 0.2)
    events: list[Event] = []
    began = time.monotonic()

    answers = copy.answers(
        "SELECT evil.stay()",
        "SELECT pg_sleep(60) IS NULL",
        "SELECT true",
        seconds=0.5,
        emit=events.append,
    )

    assert time.monotonic() - began < 20
    assert [passed for passed, _ in answers] == [False, False, True]
    told_of = [one.detail for one in events if isinstance(one, PhaseAdvanced)]
    assert told_of.count("question 2 of 3, in database postgres") >= 2
    assert {told for _, told in answers[:2]} == {"no answer within 0.50 s"}
    assert copy.run(LEFT_BEHIND[-1]) == []


def test_an_answer_has_a_limit_in_size_before_it_is_in_memory(copy: Copy) -> None:
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()

    answers = copy.answers(
        "SELECT repeat('x', 60000000)",
        "SELECT repeat('x', 60000000) FROM generate_series(1, 1000000)",
        "SELECT evil.shout(60000000)",
        "SELECT evil.chatter(20, 3000000)",
        "SELECT evil.chatter(3, 10)",
    )

    assert peak_bytes() - before < 16 << 20
    assert [passed for passed, _ in answers] == [False, False, False, False, True]
    assert max(len(told) for _, told in answers) < 1000


def peak_bytes() -> int:
    [line] = [
        one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")
    ]
    return int(line.split()[1]) << 10


def test_every_kind_of_answer_is_defined(copy: Copy) -> None:
    copy.run("CREATE DOMAIN surely AS boolean")

    answers = copy.answers(
        "SELECT count(*) = 3 FROM ledger;\n",
        "SELECT true, 1, repeat('x', 3000000); -- and why",
        "SELECT true::surely -- a remark; and more",
        "TABLE ledger LIMIT 0",
        "SELECT NULL::boolean",
        "SELECT id > 0 FROM ledger ORDER BY id",
        "SELECT 'true'",
        "SELECT 1",
        "SELECT false",
        "SELECT 100 % 7 = 2 AND 'abs; -- ' LIKE 'a%s; -- '",
        "SELECT 1 / 0 = 1",
        "SELECT true FROM nowhere",
        "SELECT",
        "",
    )

    assert [told for _, told in answers[:10]] == [
        "true", "true", "true", "no row", "NULL", "several rows, the first of them: true", "true",
        "1", "false", "true",
    ]  # fmt: skip
    expected = [True, True, True, False, False, False, False, False, False, True]
    assert [passed for passed, _ in answers] == expected + [False] * 4
    assert "division by zero" in answers[10][1]
    copy.run("DROP DOMAIN surely")


def test_what_is_no_query_is_called_so_and_lines_are_those_of_the_question(copy: Copy) -> None:
    """The trials: `delete from ledger` was "syntax error at or near "from" LINE 4"."""
    events: list[Event] = []

    asked = copy.ask(
        "delete from ledger",
        "-- how many\nSELECT true\nFRM ledger",
        "SELECT true FROM ledger WHERE",
        Check(sql="SELECT false", database="template1"),
        emit=events.append,
    )

    told = [one.answer for one in asked.questions]
    assert "this is no query" in told[0]
    assert "LINE 1: delete from ledger" in told[0]
    assert "LINE 3: FRM" in told[1]
    assert "no query" not in told[1]
    assert "LINE 2" not in told[2]
    [finding] = [one for one in asked.findings if "not answered with true" in one.fact]
    assert finding.fact.startswith("4 questions")
    assert "whole" in finding.fact
    assert "--to an earlier moment" in finding.fix
    details = [one.detail for one in events if isinstance(one, PhaseAdvanced)]
    assert details[3] == "question 4 of 4, in database template1"


def test_what_a_healthy_source_forbids_its_ordinary_roles_can_be_asked_all_the_same(
    copy: Copy,
) -> None:
    """Not measured would be as wrong as a copy that acts: a superuser could read all this."""
    copy.run("CREATE DATABASE shop")
    for statement in (
        "REVOKE ALL ON DATABASE shop FROM PUBLIC",
        "GRANT CONNECT ON DATABASE shop TO mallory",
        "ALTER DATABASE shop SET default_transaction_isolation = 'serializable'",
    ):
        copy.run(statement)
    for statement in (
        "CREATE SCHEMA closed",
        "CREATE TABLE closed.orders AS SELECT 1 AS id",
        "ALTER TABLE closed.orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "REVOKE ALL ON closed.orders FROM PUBLIC",
    ):
        copy.run(statement, dbname="shop")
    copy.run("ALTER DATABASE shop SET role = 'mallory'")
    copy.run("ALTER DATABASE shop SET session_preload_libraries = 'is_not_there'")
    try:
        before = all_of(copy)

        found = copy.ask(
            "SELECT count(*) = 1 FROM closed.orders",
            "SELECT current_setting('shared_preload_libraries') = ''",
            Check(sql="SELECT count(*) = 3 FROM ledger", database="postgres"),
            database="shop",
        )

        assert [(one.passed, one.answer) for one in found.questions] == [(True, "true")] * 3
        assert found.questions[2].question.endswith("(in database postgres)")
        [told] = found.findings
        assert f"process {copy.server.pid}," in told.fact
        assert found.is_writable
        assert all_of(copy) == before
    finally:
        copy.run("DROP DATABASE shop")
