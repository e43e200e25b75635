"""What recipes over a small generated world have in common: its table below `world`, read by built-in encoders."""

from __future__ import annotations

SMALL_WORLD = """
[data]
path = "world/groups.jsonl"
dev_fraction = 0.3

[encoders.image]
kind = "image"
model = "builtin"

[encoders.text]
kind = "text"
model = "builtin"

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
