"""The clock of a remote store's server: the Date that it puts on any answer."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime

from drtool.errors import RepositoryUnavailable
from drtool.stores.place import RemotePlace
from drtool.stores.remote_client import RemoteLimits


def server_time(place: RemotePlace, limits: RemoteLimits) -> datetime:
    """When the server says it is, to the second; one unsigned request, whose refusal will do."""
    limit = limits.connect_seconds
    request = urllib.request.Request(place.host, method="HEAD")  # noqa: S310 - http(s) only
    try:
        with urllib.request.urlopen(request, timeout=limit) as answer:  # noqa: S310 - http(s) only
            return _date(answer.headers, place)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return _date(refusal.headers, place)
    except (OSError, ValueError) as error:
        raise RepositoryUnavailable(
            f"{place.told}: the store's clock cannot be read: it gave no answer",
            hint="Look whether the store is up and reachable, then run the same command again.",
        ) from error


def _date(headers: Message, place: RemotePlace) -> datetime:
    try:
        found = parsedate_to_datetime(headers["Date"])
    except (TypeError, ValueError) as error:
        raise RepositoryUnavailable(
            f"{place.told}: the store's answer bears no date",
            hint="Look whether the endpoint is an object store, and not a proxy's page.",
        ) from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
