"""Entries of a comparison: methods and their variants, their tries on dev, and their numbers of groups."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightcrl.errors import RecipeError, TrainingError
from lightcrl.features import Features
from lightcrl.methods import METHODS
from lightcrl.methods.spec import MethodSpec
from lightcrl.recipe import Recipe
from lightcrl.specs import parse
from lightcrl.training.plan import make_plan

SMALLEST = 125


@dataclass(frozen=True)
class Entry:
    """A method in a comparison.

    Attributes:
        label: name in tables.
        method: a member of `METHODS`, or `"package.module:Class"`.
        options: options on top of the method's defaults (for the recipe's method: of the recipe's options). Tuning does
            not change them.
    """

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)


def parse_entry(text: str) -> Entry:
    """Parse an entry from `name` or `name[key=value,key=value]`; the text is its label, values are TOML or plain words.

    >>> parse_entry("dfe[fusion=addition,heads=2]")
    Entry(label='dfe[fusion=addition,heads=2]', method='dfe', options={'fusion': 'addition', 'heads': 2})

    Raises:
        RecipeError: the text has neither form.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[(.*)\])?", text.strip())
    if not match:
        raise RecipeError(f"cannot read the method {text!r}; expected name or name[key=value,key=value].")
    options = {}
    for pair in _split(match[2] or ""):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"cannot read {pair!r} in {text!r}; expected name[key=value,key=value].")
        options[key.strip()] = _value(value.strip())
    return Entry(text.strip(), match[1].strip(), options)


def parse_entries(text: str) -> list[Entry]:
    """Parse a list of entries with commas between them.

    >>> [entry.label for entry in parse_entries("linear, dfe[fusion=addition,heads=2]")]
    ['linear', 'dfe[fusion=addition,heads=2]']

    Raises:
        RecipeError: see `parse_entry`.
    """
    return [parse_entry(part) for part in _split(text)]


def default_entries(recipe: Recipe) -> list[Entry]:
    """Return the recipe's method, then all other methods of this library."""
    return [Entry(name, name) for name in dict.fromkeys((recipe.method.name, *METHODS))]


def method_spec(entry: Entry, recipe: Recipe, tried: Mapping[str, Any] | None = None) -> MethodSpec:
    """Return the method with all its options: defaults or the recipe's, then tried options, then the entry's own.

    Raises:
        UnknownNameError: there is no such method.
        RecipeError: the method has no such option, or the value is invalid.
    """
    base = recipe.method.options if entry.method == recipe.method.name else {}
    options = {**base, **(tried or {}), **entry.options}
    spec: MethodSpec = parse(MethodSpec, {"name": entry.method, "options": options}, "method")
    return spec


def tries(entry: Entry, recipe: Recipe, tune: bool) -> list[tuple[dict[str, Any], MethodSpec]]:
    """Return the entry's distinct tries on dev: options of the method's grid, and the method with them.

    Raises:
        UnknownNameError: there is no such method.
        RecipeError: the method has no such option, or the value is invalid.
    """
    grid: Sequence[Mapping[str, Any]] = METHODS.load(entry.method).grid if tune else ({},)
    distinct: list[tuple[dict[str, Any], MethodSpec]] = []
    for tried in grid:
        own = {key: value for key, value in tried.items() if key not in entry.options}
        spec = method_spec(entry, recipe, own)
        if spec not in [other for _, other in distinct]:
            distinct.append((own, spec))
    return distinct


def check_entries(entries: Sequence[Entry], recipe: Recipe) -> None:
    """Validate the entries before anything is encoded.

    Raises:
        UnknownNameError: there is no such method.
        RecipeError: there are fewer than two entries, two with the same label, or unknown options.
    """
    labels = [entry.label for entry in entries]
    if len(labels) < 2:
        raise RecipeError(f"{len(labels)} method to compare ({', '.join(labels)}); expected two or more.")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise RecipeError(f"the method {twice[0]!r} is given twice; expected every label once.")
    for entry in entries:
        method_spec(entry, recipe)


def subset_sizes(
    wanted: Sequence[int] | str, entries: Iterable[Entry], recipe: Recipe, features: Features
) -> list[int]:
    """Return numbers of training groups, ascending, with the number of all groups last.

    `"auto"`: 125, 250, 500, ... while there are more groups and the settings allow it.

    Raises:
        TrainingError: a subset is larger than the data, or smaller than a batch.
    """
    split = features.split("train")
    have = len(split.usable)
    specs = [recipe.training.suited(METHODS.load(entry.method)) for entry in entries]
    least = max([2, *(int(spec.batch_size) for spec in specs if spec.batch_size != "auto")])
    if isinstance(wanted, str):
        if wanted != "auto":
            raise TrainingError(f'scaling is {wanted!r}; expected "auto" or numbers of groups, such as 125,250,500.')
        doubled = [SMALLEST * 2**power for power in range(40)]
        return [size for size in doubled if least <= size < have] + [have]
    sizes = sorted(set(wanted))
    if not sizes:
        raise TrainingError("no sizes to train on; expected numbers of groups, such as 125,250,500.")
    if sizes[-1] > have:
        raise TrainingError(
            f"a subset of {sizes[-1]:,} groups was asked for, but the training split has {have:,} with items of two "
            "modalities. Give at most that."
        )
    if sizes[0] < least:
        raise TrainingError(
            f"a subset of {sizes[0]:,} groups was asked for, but a batch has {least:,}. Give larger ones, or "
            'training.batch_size = "auto".'
        )
    for spec in specs:
        make_plan(spec, split)
    return sizes if sizes[-1] == have else [*sizes, have]


def _split(text: str) -> list[str]:
    """Split a text at commas outside of brackets and quotes."""
    parts = re.findall(r"""(?:[^,\[\]"']|"[^"]*"|'[^']*'|\[(?:[^\[\]]|\[[^\]]*\])*\])+|[\[\]"']""", text)
    return [part for part in (part.strip() for part in parts) if part]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
