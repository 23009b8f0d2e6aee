"""The libraries' clients for a remote place: time limits, TLS, credentials."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from obstore.store import AzureStore, GCSStore, S3Store

from drtool.errors import AccessDenied
from drtool.stores.place import RemotePlace, credential_files
from drtool.system.retry import RetryLimits

RemoteClient = S3Store | GCSStore | AzureStore

_VARIABLES_OF_ROLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteLimits:
    """How long a request may take, and how often it is tried.

    `read_stall_seconds` is the longest silence while an answer comes in. An upload counts as one
    silence, so `write_seconds` bounds all of it: 64 MiB in 150 s need 3.6 Mbit/s.
    """

    connect_seconds: float = 10
    read_stall_seconds: float = 30
    read_seconds: float = 300
    write_seconds: float = 150
    retries: RetryLimits = RetryLimits(attempts=6, within_seconds=120)  # noqa: RUF009 - frozen


def reading_client(place: RemotePlace, limits: RemoteLimits) -> RemoteClient:
    """For reads and listings: a short silence is enough to give a request up."""
    return _client(place, limits, stall=limits.read_stall_seconds, whole=limits.read_seconds)


def writing_client(place: RemotePlace, limits: RemoteLimits) -> RemoteClient:
    """For puts and deletions: the server is silent until the whole upload has arrived."""
    return _client(place, limits, stall=limits.write_seconds, whole=limits.write_seconds)


def streaming_client(place: RemotePlace, limits: RemoteLimits) -> RemoteClient:
    """For objects in parts, put without a condition: the library tries each request again by itself.

    A part that is put twice is the same part, and only the library knows the parts of its upload.
    """
    retries = limits.retries.attempts - 1
    return _client(
        place, limits, stall=limits.write_seconds, whole=limits.write_seconds, retries=retries
    )


def control_client(place: RemotePlace) -> Any:  # boto3 makes its clients' classes at run time
    """boto3's client of an s3:// place, for versioning, lock and what obstore cannot do.

    Checksums are sent only where an operation demands one: newer defaults break older servers
    (PITFALLS 73).
    """
    import boto3
    from botocore.config import Config

    # A session of its own: the default one is not for several threads, and remembers credentials.
    return boto3.Session().client(
        "s3",
        endpoint_url=place.endpoint,
        region_name=place.region or os.environ.get("AWS_REGION"),
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"total_max_attempts": 6, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if place.path_style else "virtual"},
        ),
    )


def _client(
    place: RemotePlace, limits: RemoteLimits, *, stall: float, whole: float, retries: int = 0
) -> RemoteClient:
    # Without `retries` every one is ours (`retrying`): one limit, one clock, and no hidden second
    # try of a conditional put that would meet its own first one.
    common: dict[str, Any] = {  # the stores' keyword arguments, of many types
        "prefix": place.prefix or None,
        "client_options": {
            "connect_timeout": timedelta(seconds=limits.connect_seconds),
            "read_timeout": timedelta(seconds=stall),
            "timeout": timedelta(seconds=whole),
            "allow_http": place.without_tls,
            "user_agent": "drtool",
        },
        "retry_config": {"max_retries": retries, "retry_timeout": timedelta(seconds=whole)},
    }
    if place.scheme == "gs":
        return GCSStore(place.bucket, config=_optional(base_url=place.endpoint), **common)
    if place.scheme == "az":
        return AzureStore(place.bucket, config=_optional(endpoint=place.endpoint), **common)
    endpoint = _bucket_endpoint(place)
    config = _optional(
        endpoint=endpoint,
        # Without this, AWS_ENDPOINT_URL_S3 would win over the URL of the policy.
        aws_endpoint_url_s3=endpoint,
        region=place.region,
        virtual_hosted_style_request=not place.path_style,
        conditional_put="etag",
        # The server recomputes it and refuses bytes that were damaged on the way.
        checksum_algorithm="SHA256",
        # One DELETE an object: the bulk form wants a Content-MD5 on some servers (PITFALLS 73).
        disable_bulk_delete=True,
    )
    return S3Store(
        place.bucket, config=config, credential_provider=_profile_credentials(), **common
    )


def _bucket_endpoint(place: RemotePlace) -> str | None:
    if place.endpoint is None or place.path_style:
        return place.endpoint
    scheme, _, host = place.endpoint.partition("://")
    return f"{scheme}://{place.bucket}.{host}"


def _optional(**options: str | bool | None) -> Any:  # TypedDicts that differ by store
    return {name: value for name, value in options.items() if value is not None}


def _profile_credentials() -> Any:  # obstore takes any callable here
    """Credentials of an AWS profile if there is one and the environment has none; else None.

    The environment, roles of web identity, ECS and EC2 are read by obstore itself; profiles (with
    SSO and the like) only by boto3, which is slow to import.
    """
    environment = os.environ
    named = bool(environment.get("AWS_PROFILE"))
    if environment.get("AWS_ACCESS_KEY_ID") and not named:
        return None
    if any(environment.get(name) for name in _VARIABLES_OF_ROLES) and not named:
        return None
    files = credential_files()
    if not named and not any(os.path.exists(os.path.expanduser(name)) for name in files):
        return None
    return _boto3_credentials(required=named)


def _boto3_credentials(*, required: bool) -> Any:  # obstore takes any callable here
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.Session()
        if session.get_credentials() is not None:
            return Boto3CredentialProvider(session)
    except BotoCoreError as error:
        raise AccessDenied(
            f"credentials of the AWS profile cannot be had: {error}",
            hint="Look at AWS_PROFILE and ~/.aws/config; log in again with `aws sso login`.",
        ) from error
    if required:
        raise AccessDenied(
            f"AWS profile {os.environ['AWS_PROFILE']} has no credentials",
            hint="Look at ~/.aws/credentials, or unset AWS_PROFILE.",
        )
    return None
