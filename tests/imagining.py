"""A model with a prior and a decoder of random weights: made in no time, for all that reads prompts."""

from __future__ import annotations

from typing import Any

import torch

from lightcrl.embedder import Embedder
from lightcrl.heads.spec import make_head
from lightcrl.heads.state import TrainedHead
from samples import randn
from shelves import make_embedder

PRIOR = {"width": 16, "blocks": 1, "steps": 4, "source": "text", "target": "image"}
DRAWING = {"size": 16, "width": 16, "channels": 8, "steps": 3, "source": "text", "target": "image"}


def add_head(embedder: Embedder, name: str, kind: str, options: dict[str, Any]) -> None:
    """Give a model a head no weight of which is zero."""
    checkpoint = embedder.checkpoint
    head = make_head(kind, checkpoint.space, options)
    with torch.no_grad():
        for number, parameter in enumerate(head.parameters()):
            parameter.add_(0.2 * randn(*parameter.shape, seed=number))
    if kind == "drawing":
        head.mean.fill_(128)
        head.deviation.fill_(50)
    checkpoint.heads[name] = TrainedHead.of(head, kind, checkpoint.digest, {})


def imagining() -> Embedder:
    """A model of texts, pictures and sounds with the heads `prior` and `drawing`."""
    embedder = make_embedder(kinds=("text", "image", "audio"))
    add_head(embedder, "prior", "prior", PRIOR)
    add_head(embedder, "drawing", "drawing", DRAWING)
    return embedder
