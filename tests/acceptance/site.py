"""A user's machine: a directory, an environment, a policy, and the real program `drtool`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from drtool.repository.layout import parse_mark_name

SOURCE = "main-db"
LIMIT_SECONDS = 120.0
RECEIVE = ("wal", "receive", SOURCE)
DRTOOL = str(Path(sys.executable).with_name("drtool"))
# What a test run may have in its environment and a user's machine has not.
_STRANGE = ("DRTOOL_", "MAIN_DB_DSN", "PG", "AWS_PROFILE")
POLICY = """\
version: 1
stack: shop
timezone: Europe/Warsaw
objectives: {{default: {{rpo: {rpo}, rto: 1h}}}}
repository: {{url: "{url}", key: {key}}}
sources:
  main-db:
    kind: postgres
    dsn: env:MAIN_DB_DSN
    wal: {{mode: stream, flush: {flush}, heartbeat: {heartbeat}}}
    checks: {checks}
restore_root: {root}/restored
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The one object on standard output; keys and values are what the test expects of them."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def __str__(self) -> str:
        return f"drtool {' '.join(self.words)} -> {self.code}\n{self.out}\n{self.err}"


@dataclass(frozen=True, kw_only=True)
class Site:
    """`ran` keeps everything that any command of this machine ever printed."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    def write_policy(
        self,
        *,
        url: str | None = None,
        key: str = "none",
        rpo: str = "15m",
        flush: str = "1s",
        checks: str = "[]",
    ) -> None:
        """The one policy, where the program finds it by itself; marks are made four times a second."""
        text = POLICY.format(
            rpo=rpo,
            url=url or f"file://{self.repository}",
            key=key,
            flush=flush,
            heartbeat="250ms",
            checks=checks,
            root=self.root,
        )
        (self.root / "policies").mkdir(exist_ok=True)
        (self.root / "policies" / "shop.yaml").write_text(text)

    def env(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(_STRANGE)}
        state = {"XDG_STATE_HOME": str(self.root / "state")}
        if self.root.stat().st_uid != os.geteuid():
            # Root in the servers' user's directory takes no policy from there that is not named.
            state["DRTOOL_POLICY"] = str(self.root / "policies")
        return {**own, "NO_COLOR": "1", **state, **self.environ}

    def run(self, *words: str, code: int | None = 0, **environ: str) -> Ran:
        """Run a command to its end and hold it to its exit code; None lets any pass."""
        process = self.start(*words, **environ)
        return self.finished(process, words, code=code)

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        """Start a command; somebody must see to its end."""
        return subprocess.Popen(
            [DRTOOL, *words],
            cwd=self.root,
            env={**self.env(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finished(
        self, process: subprocess.Popen[str], words: tuple[str, ...], *, code: int | None = 0
    ) -> Ran:
        """Wait for a command that was started, and hold it to its exit code."""
        try:
            out, err = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        ran = Ran(words, process.returncode, out, err)
        self.ran.append(ran)
        assert code is None or ran.code == code, str(ran)
        assert "Traceback" not in ran.err or "-v" in words, str(ran)
        return ran

    @contextmanager
    def receiving(self) -> Iterator[subprocess.Popen[str]]:
        """`drtool wal receive` while the block lasts; SIGTERM then ends it cleanly, with 0."""
        process = self.receiver()
        try:
            yield process
        except BaseException as error:
            process.kill()
            error.add_note(str(self.finished(process, RECEIVE, code=None)))
            raise
        process.terminate()
        self.finished(process, RECEIVE)

    def receiver(self) -> subprocess.Popen[str]:
        """A receiver that has the lease: a backup that comes now will lean on it."""
        process = self.start(*RECEIVE)
        until(lambda: self._is_receiver(process) or process.poll() is not None, "it has its lease")
        assert process.poll() is None, str(self.finished(process, RECEIVE, code=None))
        return process

    def _is_receiver(self, process: subprocess.Popen[str]) -> bool:
        """The lease is this process's: that of an earlier receiver stays there once it was released."""
        if self.repository.exists():
            lease = self.repository / "leases" / f"wal-{SOURCE}"
            words = lease.read_text() if lease.exists() else ""
        else:
            words = str(self.status()["receiver"])
        return f"pid {process.pid} " in words

    def status(self) -> dict[str, Any]:
        """The row of the only source, whatever the verdict."""
        report = self.run("status", "--json", code=None)
        row: dict[str, Any] = report.answer["rows"][0]
        return row

    def mark_after(self, moment: datetime) -> None:
        """Wait until the repository holds a mark that was made after `moment`."""

        until(lambda: self._marks_after(moment), f"a mark after {moment}")

    def first_mark_after(self, moment: datetime) -> datetime:
        """The moment of the first mark after `moment`."""
        return min(self._marks_after(moment))

    def _marks_after(self, moment: datetime) -> list[datetime]:
        names = (path.parts[-2:] for path in self.repository.glob("marks/*/*/*/*/*"))
        marks = (parse_mark_name("/".join(name)) for name in names)
        return [mark[0] for mark in marks if mark is not None and mark[0] > moment]


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never so: {what}"
        time.sleep(0.02)
