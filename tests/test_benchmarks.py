"""Benchmarks run for hours and seldom: what they take from the library is there, and is called as it asks."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]
SCRIPTS = sorted((PROJECT / "benchmarks").rglob("*.py"))


def taken(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Module of the library, name there, and name in the script."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lightcrl":
            for alias in node.names:
                yield node.module or "", alias.name, alias.asname or alias.name


def value(module: str, name: str) -> Any:
    home = import_module(module)
    return getattr(home, name) if hasattr(home, name) else import_module(f"{module}.{name}")


def plain_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of names with every argument written out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            starred = any(isinstance(each, ast.Starred) for each in node.args)
            if not starred and all(each.arg for each in node.keywords):
                yield node


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(PROJECT / "benchmarks").as_posix())
def test_a_benchmark_takes_what_is_there_and_calls_it_with_its_arguments(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    values = {alias: value(module, name) for module, name, alias in taken(tree)}
    for call in plain_calls(tree):
        called = values.get(call.func.id)
        if callable(called):
            keywords = {each.arg: None for each in call.keywords}
            try:
                inspect.signature(called).bind(*[None] * len(call.args), **keywords)
            except TypeError as error:
                pytest.fail(f"{path.name}:{call.lineno}: {call.func.id}: {error}")
