"""Size and shape: modules, functions, parameters and nouns."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping

from tests.house.modules import Function, Module, functions_of

MODULE_LINES = 400
ONE_FILE_LINES = 900
FUNCTION_LINES = 60
POSITIONAL_PARAMETERS = 3
PARAMETERS = 6
POSITIONAL_FIELDS = 3


def modules_are_short(modules: Iterable[Module], *, one_file: Mapping[str, str]) -> list[str]:
    """At most MODULE_LINES lines; ONE_FILE_LINES for the programs that must be one file, in `one_file`."""
    return [
        f"{module.name}: {len(module.lines)} lines, {allowed} are allowed"
        for module in modules
        for allowed in [ONE_FILE_LINES if module.name in one_file else MODULE_LINES]
        if len(module.lines) > allowed
    ]


def functions_fit_on_a_screen(modules: Iterable[Module]) -> list[str]:
    """At most FUNCTION_LINES lines from `def` to the end, docstring included, decorators not."""
    found = []
    for module, function in functions_of(modules):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES:
            found.append(module.at(function, f"{function.name} has {lines} lines"))
    return found


def parameters_are_few(modules: Iterable[Module]) -> list[str]:
    """Three positional, six in all, every bool by keyword. A click command's come from its options."""
    found = []
    for module, function in functions_of(modules):
        if _is_command(function):
            continue
        positional = [*function.args.posonlyargs, *function.args.args]
        if positional and positional[0].arg in ("self", "cls"):
            positional = positional[1:]
        if len(positional) > POSITIONAL_PARAMETERS:
            found.append(
                module.at(function, f"{function.name} takes {len(positional)} positional arguments")
            )
        count = len(positional) + len(function.args.kwonlyargs)
        if count > PARAMETERS:
            found.append(module.at(function, f"{function.name} takes {count} arguments"))
        if "FBT001" in module.lines[function.lineno - 1]:
            continue  # somebody else's order of arguments; `exceptions_to_the_tools` wants the reason
        for name in _positional_bools(function, positional):
            found.append(module.at(function, f"{function.name}: bool {name} is not keyword-only"))
    return found


def _positional_bools(function: Function, positional: list[ast.arg]) -> Iterator[str]:
    first_default = len(positional) - len(function.args.defaults)
    for number, parameter in enumerate(positional):
        kind = ast.unparse(parameter.annotation).strip("\"'") if parameter.annotation else ""
        is_flag = number >= first_default and _is_bool(
            function.args.defaults[number - first_default]
        )
        if is_flag or re.fullmatch(r"bool( \| None)?|None \| bool|Optional\[bool\]", kind):
            yield parameter.arg


def _is_bool(default: ast.expr) -> bool:
    return isinstance(default, ast.Constant) and isinstance(default.value, bool)


def _is_command(function: Function) -> bool:
    names = (
        ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
        for decorator in function.decorator_list
    )
    return any(name.split(".")[-1] in ("command", "group", "option", "argument") for name in names)


def nouns_are_frozen(modules: Iterable[Module], *, rooms: Iterable[str]) -> list[str]:
    """In `rooms` a dataclass is frozen, has slots, and takes its fourth field by keyword."""
    found = []
    rooms = set(rooms)
    for module in modules:
        if module.room not in rooms:
            continue
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ClassDef):
                continue
            options = _dataclass_options(node)
            if options is None:
                continue
            if not {"frozen", "slots"} <= options:
                found.append(module.at(node, f"{node.name} is not frozen with slots"))
            if "kw_only" not in options and _positional_fields(node) > POSITIONAL_FIELDS:
                found.append(module.at(node, f"{node.name} has more than three positional fields"))
    return found


def _dataclass_options(node: ast.ClassDef) -> set[str] | None:
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        if ast.unparse(call.func if call else decorator).split(".")[-1] == "dataclass":
            return {
                str(keyword.arg)
                for keyword in (call.keywords if call else ())
                if isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            }
    return None


def _positional_fields(node: ast.ClassDef) -> int:
    count = 0
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            kind = ast.unparse(statement.annotation)
            if kind.endswith("KW_ONLY"):
                break
            count += not kind.startswith(("ClassVar", "typing.ClassVar"))
    return count
