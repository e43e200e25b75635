"""A world whose captions differ in the order of their words alone: "red circle left of blue star".

Words and cells are tokens that carry what they are and where they stand, added up as in transformers. The slot is their
mean, which no order changes: a space of slots cannot tell a caption from its swapped twin.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightcrl.features import Features
from samples import make_features, randn

COLOURS, SHAPES = 5, 5
WORDS = 24
DIM = 32


def scenes(count: int, seed: int) -> np.ndarray:
    """Two things side by side, [count, 4]: colour and shape of the left one, then of the right one."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, COLOURS, (4 * count, 4))
    apart = (chosen[:, 0] != chosen[:, 2]) & (chosen[:, 1] != chosen[:, 3])
    return chosen[apart][:count]


def swapped(things: np.ndarray) -> np.ndarray:
    """The same things, each in the place of the other."""
    return things[:, [2, 3, 0, 1]]


def words(scene: np.ndarray) -> Tensor:
    """`colour shape left of colour shape`: a mean and six words, [7, DIM]."""
    names, places = randn(WORDS, DIM, seed=11), randn(6, DIM, seed=12)
    a, b, c, d = scene.tolist()
    tokens = names[torch.tensor([a, COLOURS + b, 20, 21, c, COLOURS + d])] + places
    return torch.cat([tokens.mean(0, keepdim=True), tokens])


def cells(scene: np.ndarray, seed: int) -> Tensor:
    """A mean and four cells in a row, two of each thing, [5, DIM], with noise."""
    colours, shapes, places = randn(COLOURS, DIM, seed=21), randn(SHAPES, DIM, seed=22), randn(4, DIM, seed=23)
    a, b, c, d = scene.tolist()
    tokens = colours[[a, a, c, c]] + shapes[[b, b, d, d]] + places + 0.1 * randn(4, DIM, seed=seed)
    return torch.cat([tokens.mean(0, keepdim=True), tokens])


def world(folder: Path, train: int, dev: int) -> Features:
    """Groups of a picture and a caption; every scene has its swapped twin beside it, as a group of its own."""
    half = np.concatenate([scenes(train // 2, 1), scenes(dev // 2, 2)])
    things = np.stack([half, swapped(half)], 1).reshape(-1, 4)
    owners = [f"{'train' if n < train else 'dev'}:g{n}" for n in range(len(things))]
    sequences = {
        "image": [cells(scene, 1000 + n) for n, scene in enumerate(things)],
        "text": [words(scene) for scene in things],
    }
    return make_features(folder, sequences, dict.fromkeys(sequences, owners), sequence=True)
