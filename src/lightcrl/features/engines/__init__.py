"""Engines: the processes that make the shards of a store. `ENGINES` has them by name."""

from __future__ import annotations

from lightcrl.features.engines.base import Crew, Engine
from lightcrl.registry import Table

__all__ = ["ENGINES", "Crew", "Engine"]

ENGINES: Table[Engine] = Table(
    "engine",
    {
        "local": "lightcrl.features.engines.local:run",
        "ray": "lightcrl.features.engines.ray:run",
    },
)
