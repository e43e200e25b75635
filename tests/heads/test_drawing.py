"""The decoder: it draws what words say, and refuses what is no picture."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from lightcrl.data.base import Item
from lightcrl.errors import HeadError
from lightcrl.features import Features
from lightcrl.heads.base import HeadBatch, Material, Space
from lightcrl.heads.drawing.head import read_pixels
from lightcrl.heads.flow import integrate
from lightcrl.heads.spec import make_head
from lightcrl.tokens import TokenBatch, TokenSpec
from samples import make_features, randn, units

SHADES = ((230, 40, 40), (40, 60, 230), (40, 200, 60), (20, 20, 20))
KINDS = list(product(range(4), range(4)))
COUNT, TRAIN, STEPS = 96, 84, 130
DIM = 4
SPECS = {"text": TokenSpec(8, slots=1), "image": TokenSpec(3, slots=1)}
OPTIONS = {"size": 16, "width": 32, "channels": 8, "steps": 8, "input_dropout": 0.0, "judged": 6}


def halves(left: int, right: int) -> Image.Image:
    """A picture whose halves have a shade each."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:] = SHADES[left], SHADES[right]
    return Image.fromarray(pixels)


def words(left: int, right: int, seed: int) -> torch.Tensor:
    """A token that tells both shades."""
    return one_hot(torch.tensor([left, 4 + right]), 8).sum(0) + 0.1 * randn(1, 8, seed=seed)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    """Groups of a text and a picture of all combinations; embeddings say nothing of them."""
    kinds = [KINDS[number % 16] for number in range(COUNT)]
    sequences = {
        "text": [words(*kind, seed=number) for number, kind in enumerate(kinds)],
        "image": [randn(1, 3, seed=number) for number in range(COUNT)],
    }
    names = [f"{'train' if number < TRAIN else 'dev'}:g{number}" for number in range(COUNT)]
    folder = tmp_path_factory.mktemp("halves")
    stores = {}
    for name, items in sequences.items():
        stores |= make_features(folder / name, {name: items}, {name: names}).stores
    pictures = [Item(f"image{number}", "image", halves(*kind)) for number, kind in enumerate(kinds)]
    vectors = {name: units(COUNT, DIM, seed).float() for seed, name in enumerate(stores)}
    return Material(Features(stores, {"image": pictures}), vectors)


def test_it_draws_what_the_words_say(material):
    head = make_head("drawing", Space(SPECS, DIM), OPTIONS)
    head.fit("text", material.features.store("text").gather(np.arange(TRAIN)))
    head.prepare(material)
    optimiser = torch.optim.AdamW(head.parameters(), 4e-3)
    torch.manual_seed(0)
    explained = []
    for step in range(STEPS):
        if step in (0, STEPS - 1):
            with torch.inference_mode():
                explained.append(head.eval().judge(material)["dev_explained"])
        rows = {name: np.random.default_rng(step).permutation(TRAIN)[:24] for name in SPECS}
        groups = {name: torch.from_numpy(chosen) for name, chosen in rows.items()}
        batch = material.batch(rows, groups, True)
        head.train().loss(HeadBatch(batch.tokens, batch.embeddings, batch.groups, rows)).backward()
        optimiser.step()
        optimiser.zero_grad()
        optimiser.param_groups[0]["lr"] = 4e-3 * (1 - step / STEPS)
    assert explained[0] < 0.2 < 0.7 < explained[1]
    asked = [(0, 0), (1, 0), (2, 1), (3, 2)]
    tokens = TokenBatch.from_ragged([words(*kind, seed=900 + number) for number, kind in enumerate(asked)])
    head.eval()
    shades = np.array(SHADES)
    for embeddings in (None, units(4, DIM, 5).float()):  # embeddings that were never seen, and say nothing
        drawn = head.draw(tokens, embeddings, numbers=range(4), guidance=1.5)
        means = drawn.reshape(4, 16, 2, 8, 3).mean((1, 3))
        nearest = np.abs(means[:, :, None] - shades).sum(-1).argmin(-1)
        assert nearest.tolist() == [list(kind) for kind in asked]
        assert np.abs(means - shades[np.array(asked)]).mean() < 30


def test_pictures_are_read_at_the_size_of_the_decoder(material):
    assert read_pixels(Image.new("L", (40, 20), 7), 16).tolist() == [[[7, 7, 7]] * 16] * 16
    with pytest.raises(HeadError, match=r"learns from pictures \(not an image"):
        read_pixels(3, 16)
    with pytest.raises(ValueError, match="leave no share of training"):
        make_head("drawing", Space(SPECS, DIM), {"unconditional": 0.6, "without_embedding": 0.5})
    with pytest.raises(HeadError, match="no raw items of 'image'"):
        make_head("drawing", Space(SPECS, DIM), OPTIONS).prepare(Material(Features(material.features.stores), {}))


def test_a_shift_makes_the_steps_near_the_noise_shorter():
    seen: list[tuple[float, float]] = []

    def predict(places: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        seen.append((times.item(), places.item()))
        return torch.full_like(places, 5)

    assert integrate(predict, torch.ones(1, 1), 4, 3.0).item() == pytest.approx(5)
    times = [0, 1 / 10, 1 / 4, 1 / 2]  # s / (s + 3 (1 - s)) of quarters
    assert [time for time, _ in seen] == pytest.approx(times)
    assert [place for _, place in seen] == pytest.approx([1 + 4 * time for time in times])
