"""Noisy coloured pictures with captions, class folders of the same colours, and tiny models without dropout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tiny
from lightcrl.recipe import Recipe, make_recipe

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "old": (90, 90, 90)}
THINGS = ("dog", "cat", "bird", "roof")
GROUPS = 24


def write(root: Path) -> Path:
    """The models `vit` and `bert`, a table of pictures with two captions each, and `classes/<colour>`, below `root`."""
    from transformers import BertConfig, ViTConfig, ViTImageProcessorPil

    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    small = {**tiny.WIDE, "num_hidden_layers": 3, **still}
    size = {"height": 32, "width": 32}
    tiny.save(root / "vit", ViTConfig(image_size=32, patch_size=16, **small), ViTImageProcessorPil(size=size))
    tiny.save(root / "bert", BertConfig(vocab_size=40, max_position_embeddings=24, **small), tiny.bert_words(), seed=1)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(GROUPS):
        colour, thing = list(COLOURS)[number % 4], THINGS[number // 4 % 4]
        pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
        pixels[4 * (number // 4 % 4) : 4 * (number // 4 % 4) + 8] //= 3
        Image.fromarray(pixels).save(root / f"{number}.png")
        for words in (f"the {colour} {thing}", f"a {thing} {colour} and small"):
            rows.append({"image": f"{number}.png", "text": words, "split": "dev" if number % 6 == 5 else "train"})
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for colour, value in COLOURS.items():
        (root / "classes" / colour).mkdir(parents=True)
        for number in range(3):
            pixels = np.clip(np.array(value) + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "classes" / colour / f"{number}.png")
    return root


def recipe(place: Path, tuning: dict[str, Any], method: dict[str, Any] | None = None, **training: Any) -> Recipe:
    """A recipe over the table; pictures and captions have a tower each where `tuning` says so."""
    usual = {"epochs": 2, "batch_size": 10, "items_per_group": 1, "precision": "float32", "tensorboard": False}
    return make_recipe(
        {
            "name": "towers",
            "data": {"path": str(place / "pairs.jsonl"), "split_column": "split"},
            "encoders": {
                "image": {"kind": "image", "model": str(place / "vit"), "layers": [-1], "tokens": "mean"},
                "text": {"kind": "text", "model": str(place / "bert"), "layers": [-1], "tokens": "mean"},
            },
            "features": {"folder": str(place / "features")},
            "method": {"name": "clip", "dim": 16, **(method or {})},
            "tuning": tuning,
            "training": {**usual, **training},
        }
    )
