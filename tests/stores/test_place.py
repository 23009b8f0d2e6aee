"""The URL of a repository: read strictly, told without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtool.errors import PlaceMissing, PolicyError
from drtool.stores.local import LocalStore
from drtool.stores.open import open_store, prepare_place
from drtool.stores.place import LocalPlace, RemotePlace, parse_place
from drtool.system.clock import SystemClock

CLOCK = SystemClock()


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (
            "s3://b/p?region=eu-west-3",
            "s3://b/p?region=eu-west-3 at https://s3.eu-west-3.amazonaws.com",
        ),
        ("s3://b?endpoint=https://minio:9000", "s3://b?endpoint=https://minio:9000"),
        ("gs://b", "gs://b at https://storage.googleapis.com"),
    ],
)
def test_the_host_is_told_once(url: str, told: str) -> None:
    place = parse_place(url)

    assert isinstance(place, RemotePlace)
    assert place.told == told


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/drtool",
        "srv/drtool",
        "file://srv/drtool",
        "file:srv/drtool",
        "file:///",
        "file:///srv/drtool?region=x",
        "file:///srv/a%00b",
        "http://example.org/bucket",
        "memory://",
        "s3://",
        "s3:///prefix",
        "s3://bucket/a//b",
        "s3://bucket/a/../b",
        "s3://bucket/a#b",
        "s3://bucket/a?endpont=http://x",
        "s3://bucket/a?region=x&region=y",
        "s3://bucket/a?path_style=perhaps",
        "s3://bucket/a?endpoint=127.0.0.1:9000",
        "s3://bucket/a?endpoint=ftp://127.0.0.1",
        "gs://bucket/a?region=x",
        "s3://[bucket/a",
    ],
)
def test_a_url_that_leads_nowhere_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(PolicyError) as caught:
        open_store(url, clock=CLOCK)

    assert caught.value.hint


@pytest.mark.parametrize(
    "url", ["s3://AKIA:hunter2@bucket/a", "s3://bucket/a?endpoint=https://me:hunter2@example.org"]
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(PolicyError) as caught:
        open_store(url, clock=CLOCK)

    assert "hunter2" not in caught.value.message + caught.value.hint


def test_a_remote_url_says_all_that_is_needed() -> None:
    found = parse_place(
        "s3://bucket/a%20b/c/?endpoint=http://127.0.0.1:9000&region=eu-west-1&path_style=false"
    )

    assert isinstance(found, RemotePlace)
    assert (found.bucket, found.prefix) == ("bucket", "a b/c")
    assert (found.endpoint, found.region) == ("http://127.0.0.1:9000", "eu-west-1")
    assert found.without_tls
    assert not found.path_style
    assert parse_place(found.url) == found


def test_only_an_http_endpoint_goes_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = parse_place("s3://bucket/a")
    secure = parse_place("s3://bucket/a?endpoint=https://example.org")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    by_environment = parse_place("s3://bucket/a")

    assert isinstance(plain, RemotePlace)
    assert isinstance(secure, RemotePlace)
    assert isinstance(by_environment, RemotePlace)
    assert not plain.without_tls
    assert not secure.without_tls
    assert by_environment.without_tls


@pytest.mark.parametrize("url", ["gs://bucket/a", "az://container/a"])
def test_the_other_clouds_can_be_opened(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")

    assert open_store(url, clock=CLOCK).url == url


def test_a_directory_is_made_only_where_somebody_asked_for_it(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/new/place%20here"
    store = open_store(url, clock=CLOCK)
    with pytest.raises(PlaceMissing):
        store.stat("drtool.json")

    prepare_place(url)

    assert isinstance(store, LocalStore)
    assert store.stat("drtool.json") is None
    assert store.url == url
    assert parse_place(url) == LocalPlace(tmp_path / "new" / "place here")
    assert (tmp_path / "new" / "place here").stat().st_mode & 0o777 == 0o700
