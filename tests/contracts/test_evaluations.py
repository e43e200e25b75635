"""What every evaluation promises, whichever it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightcrl.metrics import Result
from lightcrl.metrics.fine_tuning import evaluate as fine_tuning
from lightcrl.metrics.probe import evaluate as linear_probe
from lightcrl.metrics.retrieval import evaluate as retrieval
from lightcrl.metrics.similarity import calibrate, cosines
from lightcrl.metrics.similarity import evaluate as text_similarity
from lightcrl.metrics.zero_shot import evaluate as zero_shot
from lightcrl.tasks.spec import TASKS
from samples import units

COUNT, CLASSES = 60, 6


def retrieval_on(vectors: torch.Tensor, order: np.ndarray) -> Result:
    """Pictures `vectors`, captions the first of them; picture i belongs with caption i mod CLASSES."""
    captions = np.stack([np.arange(CLASSES)] * 2, 1)
    pictures = np.stack([np.arange(COUNT), order % CLASSES], 1)
    return retrieval({"image": vectors[order], "text": vectors[:CLASSES]}, {"image": pictures, "text": captions})


def zero_shot_on(vectors: torch.Tensor, order: np.ndarray) -> Result:
    return zero_shot(vectors[order], order % CLASSES, vectors[:CLASSES])


def text_similarity_on(vectors: torch.Tensor, order: np.ndarray) -> Result:
    """Every item beside the first of its class (similar) and the first of the next (dissimilar)."""
    left = vectors[np.tile(order, 2)]
    right = vectors[:CLASSES][np.concatenate([order, order + 1]) % CLASSES]
    found, labels = cosines(left, right), np.repeat([1, 0], COUNT)
    return text_similarity({"space": found}, labels, {"space": calibrate(found, labels)})


def linear_probe_on(vectors: torch.Tensor, order: np.ndarray) -> Result:
    """The first half of the items is fitted, the second measured on, in the order given."""
    train, order = np.arange(COUNT // 2), order[order >= COUNT // 2]
    spaces = ({"space": vectors[train]}, train % CLASSES, {"space": vectors[order]}, order % CLASSES)
    return linear_probe(*spaces, epochs=(5,))


def fine_tuning_on(vectors: torch.Tensor, order: np.ndarray) -> Result:
    """Logits that are similarities to the first item of each class."""
    return fine_tuning(vectors[order] @ vectors[:CLASSES].T, order % CLASSES, np.arange(CLASSES))


CASES = {
    "retrieval": retrieval_on,
    "zero_shot": zero_shot_on,
    "text_similarity": text_similarity_on,
    "linear_probe": linear_probe_on,
    "fine_tuning": fine_tuning_on,
}
FIRST = {
    "retrieval": "image_to_text/recall@1",
    "zero_shot": "top1",
    "text_similarity": "space/roc_auc",
    "linear_probe": "space/top1",
    "fine_tuning": "top1",
}
# A tenth of all items are the first of their class, and find themselves; a probe has never seen what it is measured on.
GUESSED = {
    "retrieval": 0.1 + 0.9 / CLASSES,
    "zero_shot": 0.1 + 0.9 / CLASSES,
    "text_similarity": 0.1 + 0.9 / 2,
    "linear_probe": 1 / CLASSES,
    "fine_tuning": 0.1 + 0.9 / CLASSES,
}
# What no blind guess has a value for: it depends on what the guess prefers.
WITHOUT_CHANCE = ("median_rank", "precision", "recall", "f1")


def test_every_evaluation_has_a_case():
    # Captions are measured as texts, and priors by what they make: tests/metrics/test_captions.py, test_generation.py.
    assert CASES.keys() == FIRST.keys() == set(TASKS) - {"captioning", "prior"}


@pytest.fixture(params=sorted(CASES))
def name(request):
    return request.param


def perfect() -> torch.Tensor:
    return units(CLASSES, 8).float().repeat(COUNT // CLASSES, 1)


def test_right_embeddings_score_one_and_constant_ones_chance(name):
    found = CASES[name](perfect(), np.arange(COUNT))
    assert found.metrics[FIRST[name]] == 1.0
    # A share without a miss has the exact interval of so many groups; an area under a curve that of the smaller class.
    drawn = {"retrieval": CLASSES, "linear_probe": COUNT // 2}.get(name, COUNT)
    assert found.interval[FIRST[name]] == (pytest.approx(0.025 ** (1 / drawn)), 1.0)
    constant = CASES[name](perfect()[:1].repeat(COUNT, 1), np.arange(COUNT))
    for metric, chance in constant.chance.items():
        assert constant.metrics[metric] == pytest.approx(chance)


def test_random_embeddings_score_about_chance(name):
    values = [
        CASES[name](units(COUNT, 8, seed=seed).float(), np.arange(COUNT)).metrics[FIRST[name]] for seed in range(40)
    ]
    assert np.mean(values) == pytest.approx(GUESSED[name], abs=0.04)


def test_the_order_of_items_does_not_matter(name):
    vectors = units(COUNT, 8, seed=2).float()
    shuffled = CASES[name](vectors, np.random.default_rng(0).permutation(COUNT))
    assert shuffled.metrics == pytest.approx(CASES[name](vectors, np.arange(COUNT)).metrics)


def test_every_fraction_has_an_interval_around_it_and_a_chance(name):
    found = CASES[name](units(COUNT, 8, seed=3).float(), np.arange(COUNT))
    assert found.interval.keys() == found.metrics.keys()
    for metric, value in found.metrics.items():
        low, high = found.interval[metric]
        assert low <= value <= high
        if not metric.endswith("median_rank"):
            assert 0 <= low <= high <= 1
        if not metric.endswith(WITHOUT_CHANCE):
            assert 0 < found.chance[metric] <= 1


def test_a_result_survives_json(name):
    import json

    found = CASES[name](units(COUNT, 8, seed=4).float(), np.arange(COUNT))
    assert Result.from_json(json.loads(json.dumps(found.to_json()))) == found
