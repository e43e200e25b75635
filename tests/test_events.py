"""Every event that the library tells is declared, with its keys, and the command line knows what to do with it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest
from pydantic import TypeAdapter

import lightcrl
from lightcrl.events import EVENTS, OPEN
from lightcrl.pipeline import run
from lightcrl.recipe import make_recipe
from lightcrl.report.progress import Live
from recipes import builtin

SOURCE = Path(lightcrl.__file__).parent


def told() -> Iterator[tuple[str, str, frozenset[str], bool]]:
    """Place, name and keys of every literal event in the source, and whether others are put in beside them."""
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if '"event"' in text else ():
            if not isinstance(node, ast.Dict):
                continue
            items = {key.value: value for key, value in zip(node.keys, node.values, strict=True) if is_text(key)}
            if isinstance(name := items.get("event"), ast.Constant):
                yield f"{path.name}:{node.lineno}", name.value, frozenset(items), None in node.keys


def is_text(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and isinstance(key.value, str)


TOLD = list(told())


@pytest.mark.parametrize(("place", "name", "keys", "more"), TOLD, ids=[place for place, *_ in TOLD])
def test_what_is_told_is_declared(place, name, keys, more):
    kind = EVENTS[name]
    assert keys <= set(kind.__annotations__), place
    assert more or kind.__required_keys__ <= keys, place


def test_every_event_is_told_somewhere_and_shown_or_left_out_on_purpose():
    assert {name for _, name, _, _ in TOLD} == set(EVENTS)
    assert set(Live()._shown) == set(EVENTS)
    for name, kind in EVENTS.items():
        assert get_type_hints(kind)["event"] == Literal[name]


def test_nobody_tells_of_anything_but_a_declared_event():
    """Calls of `tell` have a literal event, hand one on, or add whose it is."""
    calls = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "tell":
                calls += [(path.name, node)] * bool(node.args)
    assert len(calls) > 8
    for name, call in calls:
        (event,) = call.args
        literal = isinstance(event, ast.Dict) and "event" in [key.value for key in event.keys if is_text(key)]
        assert literal or "event" in {node.id for node in ast.walk(event) if isinstance(node, ast.Name)}, name


def test_a_run_tells_what_is_declared_value_by_value(tmp_path):
    events: list[dict[str, Any]] = []
    recipe = {
        "name": "small",
        "data": {"source": "synthetic", "options": {"groups": 24, "captions": 1}, "dev_fraction": 0.3},
        "encoders": {name: builtin(name) for name in ("image", "text")},
        "features": {"folder": str(tmp_path / "features")},
        "training": {"epochs": 2, "batch_size": 8, "tensorboard": False, "precision": "float32", "hubs": True},
    }
    run(make_recipe(recipe), output=tmp_path / "run", tell=lambda event: events.append(dict(event)))
    assert {event["event"] for event in events} == set(EVENTS) - {"waiting", "select", "added", "states"}
    for event in events:
        kind, name = EVENTS[event["event"]], event["event"]
        assert kind.__required_keys__ <= set(event)
        for key, hint in get_type_hints(kind).items():
            assert key not in event or TypeAdapter(hint).validate_python(event[key], strict=True) == event[key]
        assert name in OPEN or set(event) <= set(kind.__annotations__)
    seen = [event for event in events if event["event"] == "evaluation"]
    assert all("dev_mean_recall@1" in event for event in seen)
