"""Hubs: what is near to everything no longer wins, by the formula, for any number of modalities."""

from __future__ import annotations

import numpy as np
import torch

from lightcrl.metrics.hubness import without_hubs
from lightcrl.metrics.retrieval import Retrieval, mean_recall
from samples import randn, units


def test_products_between_modalities_are_the_formula():
    vectors = {name: units(count, 6, seed=n) for n, (name, count) in enumerate({"a": 5, "b": 2000, "c": 4}.items())}
    bank = {name: units(count, 6, seed=9 + n) for n, (name, count) in enumerate({"a": 30, "b": 7, "c": 40}.items())}
    levelled = without_hubs(vectors, bank, neighbours=10)
    for one, other in (("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")):
        far = (vectors[one] @ bank[other].T).sort(1).values[:, -10:].mean(1)
        near = (vectors[other] @ bank[one].T).sort(1).values[:, -10:].mean(1)
        expected = vectors[one] @ vectors[other].T - (far[:, None] + near) / 2
        torch.testing.assert_close((levelled[one] @ levelled[other].T).double(), expected, atol=1e-6, rtol=0)


def test_a_planted_hub_no_longer_comes_first():
    """Forty pairs in noise, and a text near to the mean of all pictures, which is the first hit of most of them."""
    shift = torch.nn.functional.normalize(randn(1, 24, seed=5), dim=-1)

    def draw(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        thing = randn(count, 24, seed=seed)
        pictures, texts = thing + 6 * shift, thing + 0.5 * randn(count, 24, seed=seed + 1)
        return torch.nn.functional.normalize(pictures, dim=-1), torch.nn.functional.normalize(texts, dim=-1)

    pictures, texts = draw(40, 1)
    vectors = {"image": pictures, "text": torch.cat([texts, shift])}
    retrieval = Retrieval({"image": np.stack([np.arange(40)] * 2, 1), "text": np.stack([np.arange(40)] * 2, 1)})
    known = dict(zip(("image", "text"), draw(200, 11), strict=True))
    assert int(((pictures @ vectors["text"].T).argmax(1) == 40).sum()) > 30
    assert mean_recall(retrieval.per_query(vectors)) < 0.6
    assert mean_recall(retrieval.per_query(without_hubs(vectors, known))) > 0.85
