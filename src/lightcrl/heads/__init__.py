"""Heads: small networks on cached tokens and the embeddings of a frozen space."""

from __future__ import annotations

from lightcrl.heads.base import Head, HeadBatch, HeadOptions, Material, Space
from lightcrl.registry import Table

__all__ = ["HEADS", "Head", "HeadBatch", "HeadOptions", "Material", "Space"]

HEADS: Table[type[Head]] = Table(
    "head",
    {
        "matching": "lightcrl.heads.matching:Matching",
        "captioning": "lightcrl.heads.captioning.head:Captioning",
        "prior": "lightcrl.heads.prior.head:Prior",
        "drawing": "lightcrl.heads.drawing.head:Drawing",
    },
)
