"""Listings of a bucket in which somebody has put names that the library refuses: by boto3, name by name.

The library ends a whole listing at one name with an empty part, a dot part or a control character. No key
of ours has such a name, so they are left out here, and hide nothing beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from drtool.errors import RepositoryUnavailable
from drtool.stores.keys import check_key
from drtool.stores.remote_listing import Level, Listed


def is_key(key: str) -> bool:
    """Whether a key of ours can look like that."""
    try:
        check_key(key)
    except ValueError:
        return False
    return True


def pages_of(
    control: Any,  # boto3's client, made at run time
    bucket: str,
    *,
    root: str,
    directory: str,
    after: str | None,
) -> Iterator[Sequence[Listed]]:
    """What is below `directory` and behind `after`, both below `root`, page by page, in the store's order."""
    prefix = f"{root}{directory}/" if directory else root
    place = {"Bucket": bucket, "Prefix": prefix}
    if after is not None:
        place["StartAfter"] = f"{root}{after}"
    for answer in _answers(control, place):
        found = (_listed(one, root) for one in answer.get("Contents", ()))
        yield [one for one in found if is_key(one["path"])]


def level_of(
    control: Any,  # boto3's client, made at run time
    bucket: str,
    *,
    root: str,
    directory: str,
) -> Level:
    """The objects in one directory, and the directories."""
    prefix = f"{root}{directory}/" if directory else root
    objects: list[Listed] = []
    directories: list[str] = []
    for answer in _answers(control, {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}):
        objects += [_listed(one, root) for one in answer.get("Contents", ())]
        names = (one["Prefix"].removeprefix(root) for one in answer.get("CommonPrefixes", ()))
        directories += [name[:-1] for name in names]
    return {
        "common_prefixes": [name for name in directories if is_key(name)],
        "objects": [one for one in objects if is_key(one["path"])],
    }


def _answers(
    control: Any,  # boto3's client, made at run time
    place: dict[str, str],
) -> Iterator[dict[str, Any]]:  # boto3's answers
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield from control.get_paginator("list_objects_v2").paginate(**place)
    except (BotoCoreError, ClientError) as error:
        raise RepositoryUnavailable(
            f"s3://{place['Bucket']}/{place['Prefix']} cannot be listed: {type(error).__name__}",
            hint="Look whether the store is up and reachable, then run the same command again.",
        ) from error


def _listed(
    one: dict[str, Any],  # of boto3's answers
    root: str,
) -> Listed:
    return {
        "path": one["Key"].removeprefix(root),
        "size": one["Size"],
        "last_modified": one["LastModified"],
        "e_tag": one.get("ETag"),
    }
