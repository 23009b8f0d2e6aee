"""A tree, its mirror in a real bucket, and a catalogue that can be lost."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from drtool.mirror.catalogue import open_catalogue
from drtool.mirror.keys import is_own
from drtool.mirror.plan import TreeSettings
from drtool.mirror.restoring import MirrorRestore, restore_from_mirror
from drtool.mirror.run import MirrorRun, preview_tree, sync_tree
from drtool.mirror.run_key import RunKey
from drtool.model.outcome import FactSheet, SyncOutcome
from drtool.model.progress import silent
from drtool.stores.bucket import Bucket, open_bucket
from drtool.stores.remote_client import RemoteLimits
from drtool.system.clock import SystemClock
from tests.servers.object_stores import S3Server

T = TypeVar("T")

_OLD_NS = 1_600_000_000 * 10**9


@dataclass(slots=True)
class Rig:
    """One source with its mirror. Each `sync` is a run of its own, as a command would make it."""

    server: S3Server
    bucket_name: str
    directory: Path
    prefix: str = field(default_factory=lambda: f"m-{uuid.uuid4().hex[:8]}")
    endpoint: str | None = None
    limits: RemoteLimits | None = None
    key: RunKey | None = RunKey(bytes(range(32)))  # noqa: RUF009 - never changed

    def __post_init__(self) -> None:
        self.tree.mkdir()

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    @property
    def settings(self) -> TreeSettings:
        return TreeSettings(source="uploads", root=self.tree)

    @property
    def bucket(self) -> Bucket:
        url = self.server.url(self.bucket_name, self.prefix, endpoint=self.endpoint)
        return open_bucket(url, clock=SystemClock(), limits=self.limits)

    def write(self, name: str, content: bytes) -> Path:
        """A file that was written long ago, as far as its mtime says."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(_OLD_NS, _OLD_NS))
        return path

    def sync(self, *, check: Callable[[], None] = lambda: None, **settings: Any) -> SyncOutcome:
        """One run; `settings` are those of TreeSettings."""
        return self._with_run(lambda run: sync_tree(replace(self.settings, **settings), run), check)

    def preview(self, **settings: Any) -> FactSheet:
        """What a run would do."""
        return self._with_run(lambda run: preview_tree(replace(self.settings, **settings), run))

    def restore(self, name: str, moment: datetime | None = None, **wanted: Any) -> Path:
        """The tree as of `moment` in a new directory; `wanted` are members of MirrorRestore."""
        self.restored(name, moment, **wanted)
        return self.directory / name

    def restored(self, name: str, moment: datetime | None = None, **wanted: Any) -> FactSheet:
        """What such a restore says."""
        into = self.directory / name
        request = MirrorRestore(
            source="uploads",
            moment=moment,
            into=into,
            is_plan=bool(wanted.pop("is_plan", False)),
            clock=SystemClock(),
            emit=silent,
            stop=threading.Event(),
            key=self.key,
        )
        return restore_from_mirror(replace(request, **wanted), self.bucket)

    def forget(self) -> None:
        """Lose the catalogue, as a new machine would have none."""
        shutil.rmtree(self.directory / "cache", ignore_errors=True)

    def objects(self) -> dict[str, bytes]:
        """Every file's object, read by another client."""
        client = self.server.client()
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket_name, Prefix=f"{self.prefix}/"
        )
        found = {}
        for page in pages:
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(f"{self.prefix}/")
                if not is_own(key):
                    answer = client.get_object(Bucket=self.bucket_name, Key=item["Key"])
                    found[key] = answer["Body"].read()
        return found

    def _with_run(
        self, call: Callable[[MirrorRun], T], check: Callable[[], None] = lambda: None
    ) -> T:
        catalogue = open_catalogue(self.directory / "cache" / "c.sqlite", identity="uploads")
        try:
            return call(
                MirrorRun(
                    bucket=self.bucket,
                    catalogue=catalogue,
                    clock=SystemClock(),
                    emit=silent,
                    stop=threading.Event(),
                    check=check,
                    key=self.key,
                )
            )
        finally:
            catalogue.close()


def contents(root: Path) -> dict[bytes, bytes]:
    """Every file below `root`, by its path."""
    top = os.fsencode(root)
    found = {}
    for directory, _names, files in os.walk(top):
        for name in files:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, top)] = file.read()
    return found


def settle(path: Path) -> None:
    """Wait until what was just written is older than the margin within which a file is read again."""
    # ctime cannot be set: only time makes a file old.
    deadline = time.monotonic() + 10
    while time.time_ns() - path.stat().st_ctime_ns < 2_200_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.1)
