"""The tables of LightCRL's paper, computed anew from a family of recipes, beside the published figures."""

from __future__ import annotations

from lightcrl.reproduction.family import Family, load_family
from lightcrl.reproduction.outcome import Reproduction
from lightcrl.reproduction.run import reproduce

__all__ = ["Family", "Reproduction", "load_family", "reproduce"]
