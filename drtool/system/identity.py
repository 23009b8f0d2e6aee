"""Which process this is, told so that another one can see whether it still runs."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID = Path("/etc/machine-id")
_PID_NAMESPACE = "/proc/self/ns/pid"
# Start times are told by the clock of the reader's time namespace; kernels before 5.6 have none.
_TIME_NAMESPACE = "/proc/self/ns/time"


def machine_sign() -> str:
    """A sign of this machine that outlives its starts; empty where it has none, as many containers.

    Made from /etc/machine-id, which machine-id(5) asks not to be told to others.
    """
    try:
        machine = _MACHINE_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    if len(machine) != 32:
        return ""  # "uninitialized", or empty
    return hashlib.blake2b(machine.encode(), digest_size=8, person=b"drtool").hexdigest()


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, among those of all machines and their boots, but for copies of a running machine.

    `boot` is the kernel's boot id and `namespace` the names of the PID and the time namespace
    (namespaces(7)): two containers may have the same `pid` on one machine. `started` is in clock
    ticks since the boot.
    """

    boot: str
    namespace: str
    pid: int
    started: int

    def has_ended(self) -> bool:
        """Whether this process is certainly gone. False for one that is stopped (SIGSTOP), and for
        one on another machine or in another container, of which nothing can be known from here.
        """
        if _surroundings() != (self.boot, self.namespace):
            return False
        try:
            # Asked of the kernel: /proc hides other users' processes where it is mounted with hidepid.
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        found = _look(self.pid)
        return found is not None and (found.started != self.started or found.is_dead)


def this_process() -> ProcessIdentity | None:
    """The process that asks; None where /proc does not tell enough of it."""
    surroundings, found = _surroundings(), _look(os.getpid())
    if surroundings is None or found is None:
        return None
    return ProcessIdentity(*surroundings, os.getpid(), found.started)


@dataclass(frozen=True, slots=True)
class _Look:
    started: int
    is_dead: bool


def _surroundings() -> tuple[str, str] | None:
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None  # this /proc counts processes as another PID namespace does
        names = os.readlink(_PID_NAMESPACE)
        if os.path.lexists(_TIME_NAMESPACE):
            names += " " + os.readlink(_TIME_NAMESPACE)
        return _BOOT_ID.read_text().strip(), names
    except OSError:
        return None


def _look(pid: int) -> _Look | None:
    try:
        # The name, in parentheses, may hold anything. Fields from the third on: proc_pid_stat(5).
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        state, threads, started = fields[0], int(fields[17]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
    # Of a process that was killed but not yet waited for, only its entry is left.
    return _Look(started, is_dead=state in (b"Z", b"X") and threads <= 1)
