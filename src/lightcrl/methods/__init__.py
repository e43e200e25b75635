"""Everything that can stand in the Deep Fusion Encoder's place, under one interface."""

from __future__ import annotations

from lightcrl.methods.base import Method, MethodOptions, Stem, Step, TokenSpec
from lightcrl.registry import Table

__all__ = ["METHODS", "Method", "MethodOptions", "Stem", "Step", "TokenSpec"]

METHODS: Table[type[Method]] = Table(
    "method",
    {
        "dfe": "lightcrl.fusion.encoder:DeepFusionEncoder",
        "linear": "lightcrl.methods.linear:Linear",
        "convirt": "lightcrl.methods.convirt:ConVIRT",
    },
)
