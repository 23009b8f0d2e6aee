"""Where a repository's URL leads: read strictly, with every fault in words, and never a secret."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import (
    SplitResult,
    parse_qsl,
    quote,
    unquote,
    unquote_to_bytes,
    urlencode,
    urlsplit,
)

from drtool.errors import PolicyError
from drtool.model.link import Link
from drtool.stores.keys import check_key
from drtool.system.network import stays_on_this_machine

VERIFY = "Let its endpoint begin with https://, with a certificate that this machine trusts."
_OPTIONS = {"s3": ("endpoint", "region", "path_style"), "gs": ("endpoint",), "az": ("endpoint",)}
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_EXAMPLE = (
    "Write file:///srv/drtool, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX."
)


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A directory, absolute."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePlace:
    """A prefix (without slashes at its ends) in a bucket or container.

    `endpoint` is set when it was given, in the URL or by AWS_ENDPOINT_URL. Only an endpoint that
    itself begins with http:// is spoken to without TLS.
    """

    scheme: str
    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = True
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def url(self) -> str:
        """As the policy wrote it; it cannot hold credentials."""
        path = quote(f"/{self.prefix}" if self.prefix else "")
        query = urlencode(self.options, safe=":/")
        return f"{self.scheme}://{self.bucket}{path}" + (f"?{query}" if query else "")

    @property
    def host(self) -> str:
        """The address that requests go to, as far as it is known before the first one."""
        if self.endpoint is not None:
            return self.endpoint
        if self.scheme == "gs":
            return "https://storage.googleapis.com"
        if self.scheme == "az":
            account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
            return f"https://{account}.blob.core.windows.net"
        region = self.region or os.environ.get("AWS_REGION") or "us-east-1"
        return f"https://s3.{region}.amazonaws.com"

    @property
    def told(self) -> str:
        """For errors: the URL, and the host where the URL does not name it."""
        return self.url if dict(self.options).get("endpoint") else f"{self.url} at {self.host}"

    @property
    def without_tls(self) -> bool:
        return self.endpoint is not None and self.endpoint.startswith("http://")


def link_of(url: str) -> Link:
    """How requests to a place are protected; PolicyError for a URL that leads nowhere.

    Both libraries verify certificates, and take none that does not prove the host's name.
    """
    place = parse_place(url)
    if isinstance(place, LocalPlace):
        return Link(stays_here=True, is_encrypted=False, is_verified=False)
    host = urlsplit(place.host).hostname or ""
    has_tls = not place.without_tls
    return Link(
        stays_here=place.without_tls and stays_on_this_machine(host),
        is_encrypted=has_tls,
        is_verified=has_tls,
    )


def credential_files() -> tuple[str, str]:
    """Where AWS profiles are kept: credentials, and settings."""
    return (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )


def parse_place(url: str) -> LocalPlace | RemotePlace:
    """What `url` says; PolicyError with a hint for one that leads nowhere."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise PolicyError(f"repository url is not a url: {error}", hint=_EXAMPLE) from error
    if "@" in parts.netloc:
        raise PolicyError(
            "repository url holds credentials",
            hint="Give them by the environment (AWS_ACCESS_KEY_ID, ...) or an AWS profile.",
        )
    if parts.scheme == "file":
        return _local(parts, url)
    if parts.scheme in _OPTIONS:
        return _remote(parts, url)
    raise PolicyError(f"repository url {url} has no scheme that drtool knows", hint=_EXAMPLE)


def _local(parts: SplitResult, url: str) -> LocalPlace:
    if parts.query or parts.fragment:
        raise PolicyError(
            f"repository url {url} has options, and a directory takes none",
            hint="Write ? as %3F and # as %23 if they belong to the path.",
        )
    path = Path(os.fsdecode(unquote_to_bytes(parts.path)))
    if parts.netloc or not path.is_absolute() or "\0" in str(path):
        raise PolicyError(
            f"repository url {url} does not name an absolute path",
            hint="Write three slashes: file:///srv/drtool.",
        )
    if path == Path("/"):
        raise PolicyError(
            f"repository url {url} names the root of the file system",
            hint="Give the repository a directory of its own: file:///srv/drtool.",
        )
    return LocalPlace(path)


def _remote(parts: SplitResult, url: str) -> RemotePlace:
    if not parts.netloc or parts.fragment:
        raise PolicyError(f"repository url {url} names no bucket, or has a #", hint=_EXAMPLE)
    prefix = unquote(parts.path).strip("/")
    if prefix:
        try:
            check_key(prefix)
        except ValueError as error:
            raise PolicyError(
                f"repository url {url} has a bad prefix: {error}", hint=_EXAMPLE
            ) from error
    given = _options(parts, url)
    return RemotePlace(
        scheme=parts.scheme,
        bucket=parts.netloc,
        prefix=prefix,
        endpoint=_endpoint(given.get("endpoint") or _endpoint_of_environment(parts.scheme)),
        region=given.get("region"),
        path_style=_truth(given.get("path_style", "true"), url),
        options=tuple(sorted(given.items())),
    )


def _options(parts: SplitResult, url: str) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(pairs)
    known = _OPTIONS[parts.scheme]
    for name in given:
        if name not in known:
            raise PolicyError(
                f"repository url has the option {name}, which {parts.scheme}:// does not know",
                hint=f"Known are: {', '.join(known)}.",
            )
    if len(given) != len(pairs):
        raise PolicyError(f"repository url {url} has an option twice", hint="Give each once.")
    return given


def _endpoint_of_environment(scheme: str) -> str | None:
    if scheme != "s3":
        return None
    return next((os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)), None)


def _endpoint(value: str | None) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise PolicyError(
            "endpoint of the repository is not an http:// or https:// address",
            hint="Write for example endpoint=https://minio.example.org:9000.",
        )
    return value.rstrip("/")


def _truth(value: str, url: str) -> bool:
    if value in ("true", "false"):
        return value == "true"
    raise PolicyError(
        f"repository url {url} has path_style={value}", hint="Write path_style=true or false."
    )
