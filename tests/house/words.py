"""Words: reasons, docstrings, names, and what tests may not say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from tests.house.modules import Function, Module, outside_names

FORBIDDEN_WORDS = {"manager", "handler", "helper", "util", "common", "misc", "executor"}
FORBIDDEN_LAST_WORDS = FORBIDDEN_WORDS | {"data", "info"}


def errors_are_not_swallowed(modules: Iterable[Module]) -> list[str]:
    """No bare except; `except Exception` ends in `raise` or says in a comment why it may catch all."""
    found = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler):
                if node.type is None:
                    found.append(module.at(node, "bare except"))
                elif _catches_all(node.type) and not _raises_again(node):
                    if not _has_reason(module, node.lineno):
                        found.append(module.at(node, "catches everything and gives no reason"))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                if any(_catches_all(argument) for argument in node.args):
                    if not _has_reason(module, node.lineno):
                        found.append(module.at(node, "suppresses everything and gives no reason"))
    return found


def _catches_all(kind: ast.expr) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(ast.unparse(one).split(".")[-1] in ("Exception", "BaseException") for one in kinds)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise)


def _has_reason(module: Module, line: int) -> bool:
    """A comment of some words on the line, or alone on the line above or below."""
    lines = module.lines
    nearby = [lines[line - 1]]
    nearby += [
        text for text in lines[line - 2 : line - 1] + lines[line : line + 1] if _is_comment(text)
    ]
    return any(_reason_in(text) for text in nearby)


def _is_comment(text: str) -> bool:
    return text.lstrip().startswith("#")


def _reason_in(text: str) -> bool:
    """Words after `#`, once directives such as `noqa: S311 -` are taken away."""
    comment = text.partition("#")[2]
    comment = re.sub(
        r"(noqa|type: ?ignore)(: ?[A-Z]+\d+(, ?[A-Z]+\d+)*|\[[\w, -]+\])?", "", comment
    )
    return len(re.sub(r"[^A-Za-z]", "", comment)) >= 6


def exceptions_to_the_tools_have_a_reason(modules: Iterable[Module]) -> list[str]:
    """`noqa`, `type: ignore`, `cast(...)` and `Any` say why, on their line or in a comment above."""
    found = []
    for module in modules:
        for number, text in enumerate(module.lines, start=1):
            directive = re.search(r"#\s*(noqa|type:\s*ignore)", text)
            if directive and not _reason_in(text[directive.start() :]):
                found.append(f"{module.name}:{number}: {directive[1]} gives no reason")
        for node in ast.walk(module.tree):
            is_any = isinstance(node, ast.Name) and node.id == "Any"
            is_cast = isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "cast",
                "typing.cast",
            )
            if (is_any or is_cast) and not _has_reason(module, getattr(node, "lineno", 1)):
                found.append(module.at(node, f"{'Any' if is_any else 'cast'} gives no reason"))
    return sorted(set(found))


def everything_says_what_it_is_for(modules: Iterable[Module]) -> list[str]:
    """Every module has a docstring; outside cli/ so has every public function and class."""
    found = []
    for module in modules:
        if not ast.get_docstring(module.tree):
            found.append(f"{module.name}: has no docstring")
        if module.room == "cli":
            continue
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    found.append(module.at(node, f"{node.name} has no docstring"))
    return found


def names_say_something(modules: Iterable[Module]) -> list[str]:
    """No manager, handler, helper, util, common, misc, data, info or executor as module or type."""
    found = []
    for module in modules:
        words = {_singular(word) for word in module.name.split(".")[-1].strip("_").split("_")}
        if words & FORBIDDEN_LAST_WORDS:
            found.append(f"{module.name}: the name says nothing")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                parts = [
                    _singular(word)
                    for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z\d]+", node.name)
                ]
                if set(parts) & FORBIDDEN_WORDS or parts[-1] in FORBIDDEN_LAST_WORDS:
                    found.append(module.at(node, f"type {node.name}: the name says nothing"))
    return found


def _singular(word: str) -> str:
    return word.lower().removesuffix("s")


def tests_use_real_parts(modules: Iterable[Module]) -> list[str]:
    """No mocks, and no test that is skipped or expected to fail."""
    forbidden = {
        "pytest.skip", "pytest.importorskip", "pytest.xfail",
        "pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail",
    }  # fmt: skip
    found = []
    for module in modules:
        for node, name in outside_names(module):
            if name in forbidden:
                found.append(module.at(node, f"uses {name}"))
            elif name.startswith("unittest.mock") or name.split(".")[0] in ("mock", "pytest_mock"):
                found.append(module.at(node, "mocks"))
    return found
