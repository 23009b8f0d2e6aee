"""Secrets are found by reference, shown to nobody, and taken out of every text."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from urllib.parse import quote

import pytest

from drtool.errors import PolicyError
from drtool.model.finding import Severity
from drtool.policy.secrets import (
    Redactor,
    Secret,
    SecretReference,
    file_findings,
    passwords_in,
    resolve,
)


def test_a_secret_is_found_in_the_environment() -> None:
    secret = resolve(SecretReference.parse("env:KEY"), {"KEY": "open sesame"})

    assert secret.reveal() == "open sesame"


def test_a_secret_file_loses_its_newline_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes("  zażółć \r\n".encode())

    secret = resolve(SecretReference.parse(f"file:{file}"), {})

    assert secret.reveal() == "  zażółć "


def test_a_literal_secret_is_refused_without_being_repeated() -> None:
    with pytest.raises(ValueError, match="never written into a policy") as caught:
        SecretReference.parse("postgres://u:hunter2@h/db")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", [None, ""])
def test_a_secret_that_is_not_set_is_an_error_that_names_the_variable(value: str | None) -> None:
    environ = {} if value is None else {"KEY": value}

    with pytest.raises(PolicyError, match="KEY"):
        resolve(SecretReference.parse("env:KEY"), environ)


def test_a_secret_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="nowhere"):
        resolve(SecretReference.parse(f"file:{tmp_path}/nowhere"), {})


def test_a_secret_file_that_is_not_text_is_refused_without_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xff\xfesecret")

    with pytest.raises(PolicyError) as caught:
        resolve(SecretReference.parse(f"file:{file}"), {})

    assert "secret\\" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("mode", "is_warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_secret_file_that_others_can_read_is_a_warning(
    tmp_path: Path, mode: int, is_warned: bool
) -> None:
    file = tmp_path / "key"
    file.write_text("x")
    file.chmod(mode)

    findings = file_findings(SecretReference.parse(f"file:{file}"))

    assert [finding.severity for finding in findings] == [Severity.WARNING] * is_warned


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("open sesame")

    shown = f"{secret} {secret!r} {secret!s} {secret:>20} {[secret]}"

    assert "sesame" not in shown


def test_a_secret_cannot_be_pickled_or_copied_away() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret("open sesame"))
    with pytest.raises(TypeError):
        copy.deepcopy(Secret("open sesame"))


DSNS = [
    ("postgresql://ann:s3cr%40t%2Fx@db.example:5432/shop", "s3cr@t/x"),
    ("postgresql://ann:p:w0rd@db/shop", "p:w0rd"),
    ("postgres://ann@db/shop?password=q%20pass&sslmode=require", "q pass"),
    ("host=db user=ann password=plainpw dbname=shop", "plainpw"),
    ("host=db password = 'it''s' sslpassword=other1", "other1"),
    ("postgresql://ann:two%20words%2Fslash@db/shop", "two words/slash"),
    ("host=db password='two words/slash' user=ann", "two words/slash"),
    (r"host=db password='a \'quoted\' one'", "a 'quoted' one"),
]


@pytest.mark.parametrize(("dsn", "password"), DSNS)
def test_the_password_in_a_dsn_is_found(dsn: str, password: str) -> None:
    found = passwords_in(dsn)

    assert password in [*found, *(_decoded(word) for word in found)]


def _decoded(word: str) -> str:
    from urllib.parse import unquote

    return unquote(word)


@pytest.mark.parametrize(("dsn", "password"), DSNS)
def test_a_dsn_and_its_password_disappear_in_every_spelling(dsn: str, password: str) -> None:
    redactor = Redactor()
    redactor.learn(Secret(dsn))

    for spelling in (password, quote(password), quote(password, safe=""), repr(password)[1:-1]):
        text = redactor.redact(f"connection to {spelling}! failed for {dsn}")

        assert spelling not in text
        assert "failed for" in text


def test_a_password_that_nobody_told_us_of_is_hidden_in_a_quoted_dsn() -> None:
    text = Redactor().redact(
        'cannot open "postgresql://ann:hunter22@db/x": password=hunter22, host=db'
    )

    assert "hunter22" not in text
    assert "ann:***@db/x" in text


def test_the_longer_of_two_secrets_disappears_whole() -> None:
    redactor = Redactor()
    redactor.learn(Secret("abcd"))
    redactor.learn(Secret("abcdefgh"))

    assert redactor.redact("<abcdefgh>") == "<***>"


def test_text_without_a_secret_stays_as_it_is() -> None:
    redactor = Redactor()
    redactor.learn(Secret("hunter22"))

    text = "restored 1.4 GB from s3://bucket/main at 0/3000060 (user: ann)"

    assert redactor.redact(text) == text
