"""Who may do what: touch the machine, print, delete, start a shell, wait."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from tests.house.modules import Module, calls_of, outside_names

# What only `system/` does. Names are as imported, however they were renamed on the way.
OF_SYSTEM = {
    "time": {"time", "time_ns", "sleep", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"},
    "datetime.datetime": {"now", "utcnow", "today"},
    "datetime.date": {"today"},
    "os": {
        "rename", "renames", "replace", "link", "kill", "killpg", "fork", "forkpty", "system", "popen",
        "posix_spawn", "posix_spawnp", "execv", "execve", "execvp", "execvpe", "spawnv", "spawnvp",
    },
    "shutil": {"move"},
}  # fmt: skip
NOT_IN_THE_HOUSE = {"asyncio", "multiprocessing"}
OUTPUT = {
    "sys.stdout",
    "sys.stderr",
    "sys.__stdout__",
    "sys.__stderr__",
    "warnings.warn",
}


def only_system_touches_the_machine(
    modules: Iterable[Module], *, one_file: Mapping[str, str]
) -> list[str]:
    """Clocks, sleep, processes and renames are `system/`'s; nobody starts an event loop or a fork.

    `one_file`: modules that must do without the rest of the house, with the reason.
    """
    forbidden = {f"{home}.{name}" for home, names in OF_SYSTEM.items() for name in names}
    found = []
    for module in modules:
        if module.name in one_file:
            continue
        for node, name in outside_names(module):
            top = name.split(".")[0]
            if top in NOT_IN_THE_HOUSE:
                found.append(module.at(node, f"uses {top}: the house works with threads"))
            elif module.room != "system" and (name in forbidden or top == "subprocess"):
                found.append(module.at(node, f"uses {name}, which only system/ may"))
        for call in calls_of(module):
            if module.room != "system" and _renames_a_path(call):
                found.append(module.at(call, "renames a file, which only system/ may"))
    return found


def _renames_a_path(call: ast.Call) -> bool:
    """`path.rename(x)` and `path.replace(x)`; `text.replace(a, b)` and `moment.replace(hour=1)` are not."""
    if not isinstance(call.func, ast.Attribute) or len(call.args) != 1 or call.keywords:
        return False
    return call.func.attr in ("rename", "replace")


def only_the_front_door_prints(
    modules: Iterable[Module], *, front_doors: Mapping[str, str]
) -> list[str]:
    """Below `cli` nobody prints, logs or parses a command line. `front_doors`: module to reason."""
    found = []
    for module in modules:
        if module.room == "cli" or module.name in front_doors:
            continue
        for node, name in outside_names(module):
            if name in OUTPUT or name.split(".")[0] in ("logging", "click"):
                found.append(module.at(node, f"uses {name}, which only cli/ may"))
            elif name == "rich.print" or name.startswith("rich.print."):
                found.append(module.at(node, "prints, which only cli/ may"))
        for call in calls_of(module):
            if isinstance(call.func, ast.Name) and call.func.id in ("print", "input"):
                found.append(module.at(call, f"calls {call.func.id}, which only cli/ may"))
    return found


def only_expire_deletes(modules: Iterable[Module], *, allowed: Mapping[str, str]) -> list[str]:
    """No `delete(...)` of a stored object outside the rooms and modules in `allowed`, each with a reason."""
    return [
        module.at(call, "deletes a stored object, which only expire/ may")
        for module in modules
        if module.room not in allowed and module.name not in allowed
        for call in calls_of(module)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "delete"
    ]


def no_shell_is_started(modules: Iterable[Module]) -> list[str]:
    """No `shell=` that is not literally False."""
    return [
        module.at(call, "starts a shell")
        for module in modules
        for call in calls_of(module)
        for keyword in call.keywords
        if keyword.arg == "shell"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]


def waits_and_queues_are_bounded(modules: Iterable[Module]) -> list[str]:
    """No `wait()` without a limit, and no queue without a size."""
    found = []
    for module in modules:
        queues = {
            id(node)
            for node, name in outside_names(module)
            if name in ("queue.Queue", "queue.LifoQueue", "queue.PriorityQueue")
        }
        imported = {
            alias.asname or alias.name
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ImportFrom) and node.module == "queue"
            for alias in node.names
        }
        for call in calls_of(module):
            empty = not call.args and not call.keywords
            if isinstance(call.func, ast.Attribute) and call.func.attr == "wait" and empty:
                found.append(module.at(call, "waits without a limit"))
            is_queue = id(call.func) in queues or (
                isinstance(call.func, ast.Name) and call.func.id in imported
            )
            if is_queue and empty:
                found.append(module.at(call, "makes a queue without a limit"))
        found += [
            module.at(node, "SimpleQueue has no limit")
            for node, name in outside_names(module)
            if name == "queue.SimpleQueue"
        ]
    return found
