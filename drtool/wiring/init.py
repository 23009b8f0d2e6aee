"""`drtool init`: ask the servers that the environment names, and write a starter policy."""

from __future__ import annotations

import os
import re
from pathlib import Path

from drtool.check.links import check_link
from drtool.config.policy_file import parse_policy
from drtool.errors import DestinationRefused, DrtoolError, UsageError
from drtool.model.finding import Finding, Severity, harm_of
from drtool.model.outcome import Fact, FactSheet
from drtool.model.request import InitRequest
from drtool.policy.secrets import Secret
from drtool.sources.postgres.facts import ServerFacts, read_facts, require_ready
from drtool.sources.postgres.links import VERIFY
from drtool.system.durable import create_durably, make_directory
from drtool.wiring.init_redis import is_redis, probe_redis
from drtool.wiring.surroundings import Surroundings

_VARIABLE = re.compile(r"([A-Z][A-Z0-9_]*)_DSN")
_STARTER = """\
# What is protected, and how much may be lost. Check it with: drtool policy check
version: 1
stack: {stack}
timezone: {timezone}                 # meaning of a time without an offset, everywhere

objectives:
  default: {{rpo: 15m, rto: 1h}}     # at most 15 minutes of work lost, back within an hour

repository:
  url: {url}
  key: env:DRTOOL_KEY               # a passphrase; keep a copy of it far from this machine

sources:
{sources}
restore_root: {restore_root}   # restores without --into make a new directory here
"""
_SOURCE = """\
  {name}:
    kind: postgres
    dsn: env:{variable}   # across a network with sslmode=verify-full and sslrootcert=FILE
    # drtool wal receive {name}; a slot keeps WAL on the server for it, 16 GiB (slot_limit) at most.
    # {{mode: push}} instead: archive_command = 'drtool-wal push --source {name} %p' in postgresql.conf
    wal: {{mode: stream, flush: 10s}}
    schedule: {{backup: "0 2 * * *", check: "*/5 * * * *"}}
    # checks: ["select count(*) > 0 from orders"]   # what a restored copy must answer with true
"""


def run_init(request: InitRequest, around: Surroundings) -> FactSheet:
    """Probe servers and write a starter policy; UsageError if there is a policy already."""
    if request.path.exists():
        raise UsageError(
            f"{request.path} is there already, and is not written over",
            hint="Name another file, or edit this one and run `drtool policy check`.",
        )
    sources = _named_by(around)
    findings: list[Finding] = []
    if not sources:
        sources = {"main-db": "MAIN_DB_DSN"}
        findings.append(
            Finding(
                severity=Severity.WARNING,
                subject="environment",
                fact="no variable NAME_DSN is set, so no server was asked",
                fix="export MAIN_DB_DSN='postgresql://drtool@HOST/postgres?sslmode=verify-full', and run"
                " `drtool init` again.",
            )
        )
    facts, texts = [], []
    for name, variable in sources.items():
        if is_redis(around.environ.get(variable, "")):
            probed = probe_redis(name, variable, around)
            facts.append(probed.fact)
            texts.append(probed.text)
            findings += probed.findings
            continue
        texts.append(_SOURCE.format(name=name, variable=variable))
        if variable in around.environ:
            facts.append(_probe(name, variable, around, findings=findings))
    url, restore_root = request.repository or f"file://{_home()}/repository", f"{_home()}/restore"
    text = _STARTER.format(
        stack=request.stack,
        timezone=request.timezone,
        url=url,
        restore_root=restore_root,
        sources="".join(texts),
    )
    parse_policy(text, str(request.path))
    if not request.is_dry_run:
        _write(request.path.absolute(), text)
    return FactSheet(
        kind="init-plan" if request.is_dry_run else "init",
        title="Would write this policy; nothing was done"
        if request.is_dry_run
        else "Policy written",
        facts=(
            Fact(name="policy", value=str(request.path), label="policy"),
            Fact(name="repository", value=url, label="repository"),
            Fact(name="restore_root", value=restore_root, label="restores go below"),
            *facts,
            Fact(name="next", value="drtool repository init", label="next"),
        ),
        findings=tuple(findings),
        text=text if request.is_dry_run else "",
    )


def _write(path: Path, text: str) -> None:
    try:
        make_directory(path.parent, mode=0o755)
        create_durably(path, [text.encode()], mode=0o644)
    except OSError as error:
        raise DestinationRefused(
            f"{path} cannot be written: {error.strerror}",
            hint="Name a file in a directory that you may write: `drtool init FILE`.",
        ) from error


def _named_by(around: Surroundings) -> dict[str, str]:
    """Source name to variable, for each variable NAME_DSN that is set."""
    named = {}
    for variable in sorted(around.environ):
        match = _VARIABLE.fullmatch(variable)
        if match and around.environ[variable]:
            named[match[1].lower().replace("_", "-")] = variable
    return named


def _probe(name: str, variable: str, around: Surroundings, *, findings: list[Finding]) -> Fact:
    """What the server says of itself, or why it cannot be protected as it stands."""
    dsn = around.redactor.learn(Secret(around.environ[variable])).reveal()
    try:
        facts = read_facts(dsn)
        require_ready(facts)
    except DrtoolError as error:
        findings.append(
            Finding(
                severity=Severity.PROBLEM,
                subject=f"source {name}",
                fact=error.message,
                fix=error.hint,
                harm=harm_of(error),
            )
        )
        return Fact(name=name, value="cannot be protected as it stands", label=name)
    findings += check_link(facts.place, facts.link, fix=VERIFY)
    return Fact(name=name, value=_described(facts), label=name)


def _described(facts: ServerFacts) -> str:
    role = "standby" if facts.is_standby else "primary"
    checksums = "with" if facts.has_checksums else "without"
    return f"PostgreSQL {facts.major}, {role}, {checksums} page checksums, {facts.place}"


def _home() -> str:
    """The directory of drtool's own, for whoever names none: the machine's, or of this user."""
    if os.geteuid() == 0:
        return "/var/lib/drtool"
    return f"{Path.home()}/.local/share/drtool"
