"""Correction for hubs: products by the formula, unit vectors of the same width, and old vectors that never change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.checkpoint import Checkpoint, load_folder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.methods import METHODS, Method
from lightcrl.methods.hubs import FLOOR, SPREAD, WEIGHT, Hubs
from lightcrl.methods.spec import make_method
from lightcrl.metrics.retrieval import Retrieval, mean_recall
from lightcrl.tokens import TokenBatch, TokenSpec
from samples import randn, units

SPECS = {"image": TokenSpec(6, 2), "text": TokenSpec(5, 1, True)}
SIZES = {"a": 300, "b": 700, "c": 40}


def banks(*names: str, dim: int = 24) -> dict[str, Tensor]:
    return {name: units(SIZES[name], dim, seed=number).float() for number, name in enumerate(names)}


def crowding(vectors: Tensor, name: str, bank: dict[str, Tensor]) -> Tensor:
    """r in float64, by sorting: a 64th of a bank's items counts, at least 5."""
    means = []
    for other, items in bank.items():
        if other != name:
            scores = (vectors.double() @ items.half().double().T).sort(1).values
            means.append(scores[:, -max(5, round(len(items) / 64)) :].mean(1))
    return torch.stack(means).mean(0)


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_products_between_modalities_are_the_formula(names):
    bank = banks(*names)
    hubs = Hubs.measured(bank)
    vectors = {name: units(50, 24, seed=9 + number).float() for number, name in enumerate(names)}
    left = torch.ones(24, dtype=torch.bool)
    left[hubs.places] = False
    known = {name: crowding(items.half(), name, bank) for name, items in bank.items()}
    excess = {
        name: (crowding(vectors[name], name, bank) - own.mean()).clamp(min=-FLOOR * own.std(correction=0))
        for name, own in known.items()
    }
    assert all(len(values.unique()) < 50 for values in excess.values())  # some are at the floor
    for one, other in (("a", "b"), ("b", names[-1])):
        if one == other:
            continue
        products = vectors[one].double()[:, left] @ vectors[other].double()[:, left].T
        raw = products - WEIGHT * (excess[one][:, None] + excess[other]) + (len(names) - 2) * SPREAD**2
        lengths = {
            name: (
                vectors[name].double()[:, left].square().sum(1)
                + (len(names) - 1) * SPREAD**2
                + (WEIGHT / SPREAD * excess[name]).square()
            ).sqrt()
            for name in (one, other)
        }
        expected = raw / lengths[one][:, None] / lengths[other]
        corrected = hubs(one, vectors[one]) @ hubs(other, vectors[other]).T
        torch.testing.assert_close(corrected.double(), expected, atol=2e-6, rtol=0)


def test_vectors_keep_width_and_length_and_do_not_depend_on_their_batch():
    hubs = Hubs.measured(banks("a", "b"))
    vectors = units(130, 24, seed=3).float()
    whole = hubs("b", vectors)
    assert whole.shape == vectors.shape
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(130))
    torch.testing.assert_close(torch.cat([hubs("b", part) for part in vectors.split(7)]), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(hubs("b", vectors.flip(0)).flip(0), whole, atol=1e-6, rtol=0)


def test_the_coordinates_that_carry_least_are_given_up():
    bank = banks("a", "b")
    for items in bank.values():
        items[:, [5, 17]] *= 0.01
    assert sorted(Hubs.measured(bank).places.tolist()) == [5, 17]


def test_a_planted_hub_no_longer_comes_first():
    """Forty pairs in noise, and a text near to the mean of all pictures, which is the first hit of most of them."""
    shift = normalize(randn(1, 24, seed=5), dim=-1)

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        thing = randn(count, 24, seed=seed)
        pictures, texts = thing + 6 * shift, thing + 0.5 * randn(count, 24, seed=seed + 1)
        return normalize(pictures, dim=-1), normalize(texts, dim=-1)

    pictures, texts = draw(40, 1)
    vectors = {"image": pictures, "text": torch.cat([texts, shift])}
    retrieval = Retrieval({"image": np.stack([np.arange(40)] * 2, 1), "text": np.stack([np.arange(40)] * 2, 1)})
    hubs = Hubs.measured(dict(zip(("image", "text"), draw(500, 11), strict=True)))
    corrected = {name: hubs(name, items) for name, items in vectors.items()}
    first = [int(((some["image"] @ some["text"].T).argmax(1) == 40).sum()) for some in (vectors, corrected)]
    assert first[0] > 30
    assert first[1] < first[0] / 2
    assert mean_recall(retrieval.per_query(corrected)) > mean_recall(retrieval.per_query(vectors)) + 0.05


def test_a_modality_that_came_later_is_corrected_towards_the_older_ones():
    bank = banks("a", "b")
    hubs = Hubs.measured(bank)
    later, old = units(400, 24, seed=21).float(), units(60, 24, seed=22).float()
    excess = crowding(later, "later", bank)
    left = torch.ones(24, dtype=torch.bool)
    left[hubs.places] = False
    plain = later.double()[:, left] @ old.double()[:, left].T
    corrected = (hubs("later", later) @ hubs("a", old).T).double() * (1 + 2 * SPREAD**2) ** 0.5
    moved = (corrected * (1 + SPREAD**2) ** 0.5 - plain).mean(1)
    crowded = excess > excess.mean()
    design = torch.stack([excess, torch.ones(400)], 1).double()[crowded]
    slope = torch.linalg.lstsq(design, moved[crowded]).solution[0]
    assert slope == pytest.approx(-WEIGHT, abs=0.2)


def with_hubs(name: str = "dfe") -> Method:
    method = make_method(name, SPECS, {"dim": 16}, "info_nce").eval()
    generator = torch.Generator().manual_seed(4)
    bank = {
        modality: normalize(torch.randn(64, method.dim, generator=generator), dim=-1) for modality in method.modalities
    }
    method.hubs = Hubs.measured(bank)
    return method


def embedded(method: Method, modality: str) -> Tensor:
    spec = method.modalities[modality]
    tokens = TokenBatch.full(randn(9, spec.slots + 3 * spec.sequence, spec.dim, seed=2))
    with torch.inference_mode():
        vectors: Tensor = method.eval()(modality, tokens)
    return vectors


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_corrected_and_its_checkpoint_has_the_banks(name, tmp_path):
    method = with_hubs(name)
    encoders = {modality: EncoderSpec(kind="text", model="builtin") for modality in SPECS}
    saved = Checkpoint(
        method, name=name, loss="info_nce", encoders=encoders, fingerprints=dict.fromkeys(SPECS, "0" * 32)
    )
    saved.save(tmp_path / "best")
    loaded = load_folder(tmp_path / "best")
    assert saved.config()["format"] == (5 if name == "dfe" else 4)
    for modality in SPECS:
        vectors = embedded(method, modality)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(9))
        assert torch.equal(embedded(loaded.method, modality), vectors)
    before, plain = loaded.digest, embedded(method, "text")
    loaded.method.hubs = None
    assert loaded.digest != before
    assert loaded.config()["format"] == (5 if name == "dfe" else 1)
    assert not torch.allclose(embedded(loaded.method, "text"), plain, atol=1e-3)


def test_a_method_that_grows_or_shrinks_embeds_the_others_as_before():
    method = with_hubs()
    grown = method.extended({"audio": TokenSpec(4, 3)}, seed=5)
    shrunk = grown.without("text")
    for modality in SPECS:
        assert torch.equal(embedded(grown, modality), embedded(method, modality))
    assert torch.equal(embedded(shrunk, "image"), embedded(method, "image"))
    assert embedded(grown, "audio").norm(dim=1).allclose(torch.ones(9))


def test_in_training_there_is_no_correction():
    method = with_hubs()
    tokens = TokenBatch.full(randn(9, 2, 6, seed=2))
    assert method.train()("image", tokens).shape[1] == method.trained_dim
