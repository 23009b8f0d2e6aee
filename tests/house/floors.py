"""Who may import whom: down, never up, never beside, never round."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from tests.house.modules import Module

Floors = Sequence[Sequence[str]]


def imports_of(module: Module, known: frozenset[str]) -> Iterator[tuple[ast.AST, str]]:
    """Each import of a module of ours: where it stands, and the dotted name of what it loads."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "drtool":
                    yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "drtool":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node, inner if inner in known else str(node.module)


def floors_are_kept(modules: Iterable[Module], *, floors: Floors) -> list[str]:
    """Imports go down: never up, never beside, and no room without a floor."""
    modules = list(modules)
    known = frozenset(module.name for module in modules)
    floor_of = {room: number for number, rooms in enumerate(floors) for room in rooms}
    found = []
    for module in modules:
        if not module.room:
            continue
        if module.room not in floor_of:
            found.append(f"{module.name}: room {module.room!r} has no floor in the table")
            continue
        for node, name in imports_of(module, known):
            other = (name.split(".") + [""])[1]
            if not other:
                continue
            if other == module.room:
                if _stands_beside(module, name, known):
                    found.append(module.at(node, f"imports {name}, which stands beside it"))
            elif other not in floor_of:
                found.append(module.at(node, f"imports {name}, whose room has no floor"))
            elif floor_of[other] == floor_of[module.room]:
                found.append(module.at(node, f"imports {name}, which stands beside it"))
            elif floor_of[other] < floor_of[module.room]:
                found.append(module.at(node, f"imports {name}, which is above it"))
    return found


def _stands_beside(module: Module, name: str, known: frozenset[str]) -> bool:
    """Rooms in one wing (`sources.postgres`, `sources.redis`) do not import each other."""
    mine, theirs = (_inner_room(dotted, known) for dotted in (module.name, name))
    return bool(mine and theirs and mine != theirs)


def _inner_room(dotted: str, known: frozenset[str]) -> str:
    package = ".".join(dotted.split(".")[:3])
    has_children = any(other.startswith(package + ".") for other in known)
    return package if package.count(".") == 2 and has_children else ""


def imports_never_go_round(modules: Iterable[Module]) -> list[str]:
    """No circle of modules, whether they are imported at the top or inside a function."""
    modules = list(modules)
    known = frozenset(module.name for module in modules)
    graph = {
        module.name: {name for _, name in imports_of(module, known)} & known - {module.name}
        for module in modules
    }
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = path[path.index(name) :]
            if name == min(circle):
                found.append(" -> ".join((*circle, name)))
            return
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())
    return found


def packages_import_nothing(modules: Iterable[Module]) -> list[str]:
    """An `__init__.py` imports nothing: else `drtool --help` would load every room."""
    return [
        module.at(node, "a package's __init__ imports something")
        for module in modules
        if module.is_package
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import)
        or (isinstance(node, ast.ImportFrom) and node.module != "__future__")
    ]
