"""The prose of the sources follows docs/style.md, as far as a program can check it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lightcrl"

QUESTIONS = {"what", "who", "whose", "whom", "where", "how", "why", "when", "which", "whether"}
PREPOSITIONS = {
    *("above", "after", "as", "at", "before", "below", "beside", "between", "by", "for", "from", "in", "into", "of"),
    *("on", "over", "per", "through", "to", "under", "upon", "with", "within", "without"),
}
EMPTY_NAMES = {"found", "known", "one"}
SECTIONS = r"(?:Args|Attributes|Returns|Raises|Yields):"


def first_word(text: str) -> str:
    match = re.match(r"\W*(\w+)", text)
    return match[1].lower() if match else ""


def entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Name and description of every entry below `Args:`, `Attributes:` and the like."""
    inside = False
    for line in docstring.splitlines():
        if re.fullmatch(SECTIONS, line):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and (match := re.match(r" {4}(\*{0,2}[\w, *]+): (.*)", line)):
            yield match[1], match[2]


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, those of constants included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, inspect.cleandoc(node.value.value)


def local_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every argument, and of every variable that a function assigns."""
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for node in ast.walk(function):
                if isinstance(node, ast.arg):
                    yield function.lineno, node.arg
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.lineno, node.id


def faults(source: str) -> list[str]:
    """Every violation of a rule in a module, as `line: fault`."""
    tree = ast.parse(source)
    listed = []
    for line, text in docstrings(tree):
        if (word := first_word(text)) in QUESTIONS | PREPOSITIONS:
            listed.append((line, f"the docstring starts with {word!r}; expected a verb or a noun"))
        for name, description in entries(text):
            if (word := first_word(description)) in QUESTIONS | PREPOSITIONS:
                listed.append((line, f"the entry {name!r} starts with {word!r}; expected a noun phrase"))
    for line, name in local_names(tree):
        if name in EMPTY_NAMES:
            listed.append((line, f"the variable {name!r}; expected a name for its content"))
    return [f"{line}: {fault}" for line, fault in sorted(set(listed))]


CHECKED = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_docstrings_and_names_follow_the_style(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""What a module has."""', ["1: the docstring starts with 'what'; expected a verb or a noun"]),
        ('x = 1\n"""Of the run."""', ["2: the docstring starts with 'of'; expected a verb or a noun"]),
        (
            'class A:\n    """A run.\n\n    Attributes:\n        name: of it.\n        seed: seed of it.\n    """',
            ["2: the entry 'name' starts with 'of'; expected a noun phrase"],
        ),
        (
            'def f(a):\n    """Return a.\n\n    Args:\n        a: by name.\n\n    a: of no section.\n    """',
            ["2: the entry 'a' starts with 'by'; expected a noun phrase"],
        ),
        ("def f():\n    found = 1", ["2: the variable 'found'; expected a name for its content"]),
        ("def f(known): ...", ["1: the variable 'known'; expected a name for its content"]),
        ("def f(): return [one for one in ()]", ["1: the variable 'one'; expected a name for its content"]),
        ("class A:\n    found: int", []),
        ('def f():\n    """Return the ranks of every query, [Q]."""\n    ranks = f()', []),
    ],
)
def test_faults_are_recognised(source, expected):
    assert faults(source) == expected


def test_the_page_of_rules_has_ten_pairs_and_every_word_of_the_glossary():
    text = (SOURCE.parents[1] / "docs" / "style.md").read_text(encoding="utf-8")
    pairs = text.split("## Before and after", 1)[1].split("\n## ", 1)[0]
    assert len(re.findall(r"^\| .+ \| .+ \|$", pairs, flags=re.MULTILINE)) == 1 + 10
    glossary = text.split("## Glossary", 1)[1]
    for word in (
        *("modality", "item", "group", "encoder", "tokens", "mask", "slot", "sequence", "features", "context"),
        *("fusion operation", "DFE", "method", "embedding", "logit scale", "recipe", "checkpoint", "embedder", "index"),
        *("task", "outcome", "study", "head", "tower"),
    ):
        assert re.search(rf"^\| [^|]*\b{word}\b[^|]*\|", glossary, flags=re.MULTILINE), word
