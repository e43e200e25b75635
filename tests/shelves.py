"""What tests of the index need: a small model of texts and pictures without training, and items for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lightcrl.checkpoint import Checkpoint
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenSpec

KINDS = ("text", "image")


def make_embedder(dim: int = 16, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> Embedder:
    """Built-in encoders through linear maps with random weights."""
    specs = {kind: EncoderSpec(kind=kind, model="builtin") for kind in kinds}
    encoders = {kind: load_encoder(spec) for kind, spec in specs.items()}
    tokens = {kind: TokenSpec(encoder.dim, encoder.slots, encoder.sequence) for kind, encoder in encoders.items()}
    method = make_method("linear", tokens, {"dim": dim, "standardise": False}, "info_nce")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in method.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim:
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    fingerprints = {kind: encoder.fingerprint for kind, encoder in encoders.items()}
    checkpoint = Checkpoint(
        method, name="linear", loss="info_nce", encoders=specs, fingerprints=fingerprints, recipe={"name": "shelf"}
    )
    return Embedder(checkpoint, device="cpu")


def clustered(count: int, dim: int, seed: int = 0, clusters: int = 50) -> np.ndarray:
    """Unit vectors [count, dim] float32 around some directions, as embeddings are."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(99)
    centres = shape.normal(size=(clusters, dim))
    vectors = centres[rng.integers(0, clusters, count)] + 0.7 * rng.normal(size=(count, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def picture(path: Path, number: int) -> Path:
    """A picture that no other number has."""
    rng = np.random.default_rng(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((48, 48)).save(path)
    return path
