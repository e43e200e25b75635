"""What recipes over a small generated world have in common: its table below `world`, read by built-in encoders."""

from __future__ import annotations

from typing import Any

# Narrow: a closed form decomposes matrices as wide as the features of all modalities together.
NARROW = {"text": {"dim": 64}, "image": {"size": 48, "grid": 2}, "audio": {"segments": 2}}


def builtin(kind: str) -> dict[str, Any]:
    """The table of a narrow encoder without weights."""
    return {"kind": kind, "model": "builtin", "options": NARROW[kind]}


SMALL_WORLD = """
[data]
path = "world/groups.jsonl"
dev_fraction = 0.3

[encoders.image]
kind = "image"
model = "builtin"
options = { size = 48, grid = 2 }

[encoders.text]
kind = "text"
model = "builtin"
options = { dim = 64 }

[features]
folder = "features"
"""

SMALL_RUN = (
    SMALL_WORLD
    + """
[method]
dim = 32
feedforward = 32

[training]
epochs = 8
batch_size = 16
tensorboard = false

[evaluation]
baselines = ["linear"]
zero_shot = { data = "shapes", templates = ["a picture of a {}."] }
"""
)
