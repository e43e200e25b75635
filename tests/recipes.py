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
