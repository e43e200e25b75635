"""The tables of LightCRL's paper, computed anew from a family of recipes, beside the published figures."""

from __future__ import annotations

from lightcrl.studies.reproduce.family import Family, load_family
from lightcrl.studies.reproduce.outcome import Reproduction
from lightcrl.studies.reproduce.run import reproduce

__all__ = ["Family", "Reproduction", "load_family", "reproduce"]
