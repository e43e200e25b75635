"""LightCRL: one embedding space over any frozen encoders, in minutes, with honest numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from lightcrl.captioner import Captioner
    from lightcrl.checkpoint import Checkpoint, load_checkpoint
    from lightcrl.embedder import Embedder, load
    from lightcrl.encoders.base import Encoder
    from lightcrl.errors import LightCRLError
    from lightcrl.features import Features, FeatureStore
    from lightcrl.growth.extend import extend
    from lightcrl.pipeline import run
    from lightcrl.recipe import Recipe, load_recipe, make_recipe
    from lightcrl.studies.clean.run import clean
    from lightcrl.tokens import TokenBatch

# Where each public name lives; imported when first used, so that `import lightcrl` costs next to nothing.
_HOMES = {
    "Captioner": "captioner",
    "Checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "Embedder": "embedder",
    "load": "embedder",
    "Encoder": "encoders.base",
    "LightCRLError": "errors",
    "FeatureStore": "features",
    "Features": "features",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "make_recipe": "recipe",
    "run": "pipeline",
    "extend": "growth.extend",
    "clean": "studies.clean.run",
    "TokenBatch": "tokens",
}

__all__ = [
    "Captioner",
    "Checkpoint",
    "Embedder",
    "Encoder",
    "FeatureStore",
    "Features",
    "LightCRLError",
    "Recipe",
    "TokenBatch",
    "__version__",
    "clean",
    "extend",
    "load",
    "load_checkpoint",
    "load_recipe",
    "make_recipe",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lightcrl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"lightcrl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
