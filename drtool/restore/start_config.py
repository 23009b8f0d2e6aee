"""The configuration that a copy is handed over with: the source's, as far as it starts here.

What leads out of the copy, or would make it act, is put out of force or outranked; then PostgreSQL is
asked (`postgres -C`) until it takes the rest. What cannot be mended so is replaced by a configuration
of drtool's own, beside which the source's stays. Everything that differs is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from drtool.errors import IntegrityError
from drtool.model.finding import Finding, Severity
from drtool.model.outcome import ChangedSetting
from drtool.restore.copy_ports import CopyPorts
from drtool.restore.destination import Destination
from drtool.restore.host_rules import RULE_FILES, close_rules
from drtool.restore.preload_rules import SETTING, libraries_of, preload_findings, preload_pins
from drtool.restore.source_config import CONF, SOURCE_ENDING, PlacedEntry, SourceConfig
from drtool.restore.start_rules import PINS, Pin, StartNeeds, out_of_force_rules, pins_for, port_of
from drtool.sources.postgres.binaries import ServerBinaries
from drtool.sources.postgres.config_check import (
    ConfigVerdict,
    check_configuration,
    setting_in_force,
)
from drtool.sources.postgres.recovery_settings import buffer_bytes, rewrite_auto_conf

_MIB = 1 << 20
_MOST_ROUNDS = 20
# Where PostgreSQL looks for them.
_SESSION_LIBRARIES = {
    "session_preload_libraries": "",
    "local_preload_libraries": "$libdir/plugins/",
}
_LIBRARY = re.compile(r'(?:access file|load library|library) "([^"]+)"')
_TLS = re.compile(r"certificate|private key|SSL|TLS|crl|passphrase", re.I)
OWN_CONF = (
    "# Written by drtool. The source keeps its own outside its data directory, or it does not start\n"
    f"# on this machine: it is then beside this file as {CONF}{SOURCE_ENDING}.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """What a copy starts with: its port, every setting that differs, and what a person must see to.

    `is_own` if it is drtool's own, because PostgreSQL does not take the source's here.
    """

    port: int
    changed: tuple[ChangedSetting, ...]
    findings: tuple[Finding, ...]
    is_own: bool


@dataclass(slots=True, kw_only=True)
class StartConfig:
    """Works out one copy's configuration. Its server must not run. `make` does it all, once."""

    destination: Destination
    binaries: ServerBinaries
    needs: StartNeeds
    role: str
    memory_bytes: int
    config: SourceConfig
    ports: CopyPorts
    pins: dict[str, Pin] = field(default_factory=dict)
    changed: dict[str, ChangedSetting] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def make(self) -> HandedOver:
        """Write it durably; IntegrityError if PostgreSQL takes not even drtool's own."""
        for placed, reason in out_of_force_rules(self.config):
            self._put_out([placed], reason)
        values, data = self.config.values(), self.destination.data
        theirs = port_of(values)
        port = self.ports.choose(theirs, kept={theirs})
        self.pins |= pins_for(values, self.needs, data=data, port=port) | preload_pins(values)
        is_accepted = self._is_accepted()
        if is_accepted:
            theirs_loaded = libraries_of(values.get(SETTING, ""))
            self.findings += preload_findings(theirs_loaded, self._libraries(SETTING))
        else:
            self._start_over()
        self._check_session_libraries()
        unused = [file for name, file in RULE_FILES.items() if name in self.changed]
        self.findings += close_rules(self.destination, self.binaries, role=self.role, unused=unused)
        return HandedOver(
            port=int(self.pins["port"].value),
            changed=tuple((self.changed | self._pinned()).values()),
            findings=tuple(self.findings),
            is_own=not is_accepted,
        )

    def _is_accepted(self) -> bool:
        """Mend until PostgreSQL takes it, and everything it names is in the copy."""
        for _ in range(_MOST_ROUNDS):
            self._write()
            verdict = self._ask()
            if verdict.starts and self._fits(verdict.shared_memory_mib or 0):
                return self._leads_nowhere_else()
            if not verdict.starts and not self._mend(verdict):
                self._tell(
                    "configuration",
                    f"PostgreSQL does not start with the source's here: {verdict.told}",
                    f"A minimal one was written; compare {CONF} with {CONF}{SOURCE_ENDING}.",
                )
                return False
        return False

    def _ask(self, **settings: str) -> ConfigVerdict:
        return check_configuration(
            self.destination.data,
            self.binaries,
            run_as=self.destination.owner,
            settings=settings,
        )

    def _write(self) -> None:
        values = {name: pin.value for name, pin in self.pins.items()}
        text = rewrite_auto_conf(self.config.auto, values)
        self.config.write(auto=text)

    def _mend(self, verdict: ConfigVerdict) -> bool:
        """Put out of force what PostgreSQL names; False if it names nothing that can be."""
        named = [
            placed
            for placed in self.config.entries()
            if placed.entry.name in verdict.parameters and placed.entry.name not in self.pins
        ]
        wrong = named or self.config.at(verdict.places)
        if wrong:
            self._put_out(wrong, f"PostgreSQL refuses it here: {verdict.told}")
            return True
        if self._without_libraries(SETTING, verdict.told):
            return True
        if _TLS.search(verdict.told) and "ssl" not in self.pins:
            self.pins["ssl"] = Pin("off", f"TLS does not start here: {verdict.told}")
            return True
        return False

    def _without_libraries(self, name: str, told: str) -> bool:
        """Take the libraries that `told` names out of a setting; False if it names none of it."""
        libraries = self._libraries(name)
        missing = {Path(path).stem for path in _LIBRARY.findall(told)}
        kept = [one for one in libraries if Path(one).stem not in missing]
        if len(kept) == len(libraries):
            return False
        gone = ", ".join(one for one in libraries if one not in kept)
        before = f"{self.pins[name].reason}; " if name in self.pins else ""
        self.pins[name] = Pin(", ".join(kept), f"{before}not to be loaded on this machine: {gone}")
        self._tell(
            name,
            f"{gone} cannot be loaded on this machine, and was left out: {told}",
            "Install it for this PostgreSQL, and set the value again before production.",
        )
        return True

    def _check_session_libraries(self) -> None:
        """A library that is missing when a session begins would refuse every session."""
        for name, directory in _SESSION_LIBRARIES.items():
            for _ in range(_MOST_ROUNDS):
                libraries = self._libraries(name)
                if not libraries:
                    break
                paths = [one if "/" in one else directory + one for one in libraries]
                verdict = self._ask(shared_preload_libraries=", ".join(paths))
                if verdict.starts or not self._without_libraries(name, verdict.told):
                    break
                self._write()

    def _libraries(self, name: str) -> list[str]:
        value = self.pins[name].value if name in self.pins else self.config.values().get(name, "")
        return libraries_of(value)

    def _fits(self, shared_memory_mib: int) -> bool:
        """Whether this machine has the memory; if not, smaller buffers are pinned."""
        if shared_memory_mib * _MIB <= self.memory_bytes * 3 // 4 or "shared_buffers" in self.pins:
            return True
        size = f"{buffer_bytes(self.memory_bytes) // _MIB}MB"
        reason = f"the source's would take {shared_memory_mib} MiB of shared memory, too much here"
        self.pins["shared_buffers"] = Pin(size, reason)
        self.pins["min_dynamic_shared_memory"] = Pin("0", reason)
        return False

    def _leads_nowhere_else(self) -> bool:
        """PostgreSQL's own word for where the copy's data, rules and files are."""
        data = self.destination.data
        expected = {
            "data_directory": str(data),
            "hba_file": str(data / "pg_hba.conf"),
            "ident_file": str(data / "pg_ident.conf"),
            "external_pid_file": "",
        }
        owner = self.destination.owner
        return all(
            setting_in_force(name, data, self.binaries, run_as=owner) == value
            for name, value in expected.items()
        )

    def _start_over(self) -> None:
        """drtool's own configuration instead of the source's."""
        self.config.replace(conf=OWN_CONF, auto="")
        port = int(self.pins["port"].value)
        self.pins = pins_for({}, self.needs, data=self.destination.data, port=port)
        self._write()
        verdict = self._ask()
        if not verdict.starts or not self._leads_nowhere_else():
            raise IntegrityError(
                f"{self.destination.data} cannot be started with drtool's own configuration:"
                f" {verdict.told or 'it leads to another data directory'}",
                hint="Do not start it; report this.",
            )

    def _put_out(self, placed: Iterable[PlacedEntry], reason: str) -> None:
        found = list(placed)
        self.config.put_out_of_force(found)
        for one in found:
            name = one.entry.name
            if name.startswith("include"):
                self._tell(
                    name,
                    f"{one.entry.value} is not part of the copy, and its settings are not in force",
                    "Bring the file along, and look through it before production.",
                )
            else:
                self.changed[name] = ChangedSetting(name=name, value="not set", reason=reason)

    def _pinned(self) -> dict[str, ChangedSetting]:
        source = self.config.values()
        return {
            name: ChangedSetting(name=name, value=pin.value or "''", reason=pin.reason)
            for name, pin in self.pins.items()
            if name in PINS or source.get(name) != pin.value
        }

    def _tell(self, subject: str, fact: str, fix: str) -> None:
        self.findings.append(
            Finding(severity=Severity.WARNING, subject=subject, fact=fact, fix=fix)
        )
