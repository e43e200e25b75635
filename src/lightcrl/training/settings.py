"""The settings that determine a training: its identity, and the differences between two trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from lightcrl.checkpoint import Checkpoint
from lightcrl.encoders.base import fingerprint
from lightcrl.features.live import LiveStore
from lightcrl.features.table import Features
from lightcrl.training.plan import Plan
from lightcrl.training.spec import TrainingSpec

MOST_NAMED = 8
"""Greatest number of differences in a message."""


def settings_of(
    checkpoint: Checkpoint,
    features: Features,
    live: Mapping[str, LiveStore],
    spec: TrainingSpec,
    plan: Plan,
    seed: int,
) -> dict[str, Any]:
    """Return all that determines a training: two trainings of equal settings are equal."""
    tuning = {name: store.tower.spec.model_dump(mode="json") for name, store in sorted(live.items())}
    return {
        "method": checkpoint.method_config(),
        "training": spec.identity(),
        "seed": seed,
        "features": [f"{modality} {store.fingerprint}" for modality, store in sorted(features.stores.items())],
        **({"tuning": tuning} if tuning else {}),
        **({"window": asdict(plan.window)} if plan.window else {}),
    }


def identity(settings: Mapping[str, Any]) -> str:
    """Return a digest of the settings' values, in their order."""
    return fingerprint(list(settings.values()))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return the differences, key by key: old and new value.

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
    """Return the differences as a sentence; empty if the other settings are unknown."""
    differing = differences(there, here) if there else []
    more = f"; and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
    return f" They differ in {'; '.join(differing[:MOST_NAMED])}{more}." if differing else ""


def _leaves(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return "none" if key not in leaves else repr(list(leaves[key]) if isinstance(leaves[key], tuple) else leaves[key])
