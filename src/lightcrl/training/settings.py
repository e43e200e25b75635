"""All that decides a training, by name: its identity, and in what two trainings differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightcrl.encoders.base import fingerprint

MOST_NAMED = 8
"""Differences that a message names."""


def identity(settings: Mapping[str, Any]) -> str:
    """A digest of the settings' values, in their order."""
    return fingerprint(list(settings.values()))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs, key by key: old and new value.

    >>> differences({"training": {"epochs": 3, "warmup": 0.1}}, {"training": {"epochs": 4, "warmup": 0.1}, "seed": 0})
    ['training.epochs: 3 there, 4 here', 'seed: none there, 0 here']
    """
    old, new = dict(_leaves(there)), dict(_leaves(here))
    return [
        f"{key}: {_shown(old, key)} there, {_shown(new, key)} here"
        for key in dict.fromkeys([*old, *new])
        if _shown(old, key) != _shown(new, key)
    ]


def words(there: Mapping[str, Any] | None, here: Mapping[str, Any]) -> str:
    """The differences in a sentence; nothing where the other settings were not kept."""
    found = differences(there, here) if there else []
    more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return f" They differ in {'; '.join(found[:MOST_NAMED])}{more}." if found else ""


def _leaves(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return "none" if key not in leaves else repr(list(leaves[key]) if isinstance(leaves[key], tuple) else leaves[key])
