"""The Deep Fusion Encoder as it was published (arXiv 2403.04650), with the training settings of its paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lightcrl.fusion.encoder import DeepFusionEncoder, DFEOptions
from lightcrl.methods.base import MethodOptions


class PaperOptions(DFEOptions):
    """Options of the Deep Fusion Encoder, by default those of the paper; see recipes/flickr8k_paper.toml."""

    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    standardise: bool = False
    by_slot: bool = False
    feedforward: int = Field(default=2048, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    key_dropout: float = Field(default=0.0, ge=0, lt=1)
    layer_scale: Annotated[float, Field(gt=0)] | Literal["none"] = "none"
    inner_residual: bool = True


class LightCRLPaper(DeepFusionEncoder):
    """DFE-1 as published: plain pre-norm transformer layer, nothing standardised, no projection per slot.

    The bugs of its code are mended: padding is masked, a picture's captions are positives of each other, and the
    logit scale starts at 1 / 0.07 (see tests/test_official_mistakes.py). `epochs = "auto"` is 5 here, in place of at
    most 100 with early stop: batches of 64 make an epoch dear, and its dev loss rises after the second
    (docs/benchmarks.md).
    """

    Options: ClassVar[type[MethodOptions]] = PaperOptions
    suits: ClassVar[Mapping[str, Any]] = {
        "batch_size": 64,
        "epochs": 5,
        "learning_rate": 1e-3,
        "weight_decay": 1e-3,
        "label_smoothing": 0.0,
        "schedule": "plateau",
    }
