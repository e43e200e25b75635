"""Text similarity on pairs: every space of a model, each text encoded once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lightcrl.data.pairs import TextPairs
from lightcrl.errors import DataError, ModalityError
from lightcrl.features.spec import FeaturesSpec
from lightcrl.methods.spec import make_method
from lightcrl.metrics.similarity import calibrate
from lightcrl.tasks.base import Setting
from lightcrl.tasks.text_similarity import TextSimilaritySpec, TextSimilarityTask
from lightcrl.tokens import TokenSpec
from samples import bare
from worlds import Digits

LEFT, RIGHT = ("12", "345", "6", "12"), ("21", "543", "78", "345")


def pairs(left=LEFT, right=RIGHT, truth=(1, 1, 0, 0), scored=False) -> TextPairs:
    return TextPairs("pairs", left, right, np.array(truth, dtype=np.float64), scored)


@pytest.fixture
def encoders():
    return {"a": Digits(), "b": Digits(version=3)}


@pytest.fixture
def method():
    specs = {"a": TokenSpec(4), "b": TokenSpec(4)}
    return make_method("linear", specs, {"dim": 8, "input_dropout": 0.0}, "info_nce").eval()


def features(folder) -> FeaturesSpec:
    return FeaturesSpec(folder=str(folder), dtype="float32")


def task_of(found, calibration, encoders, storage) -> TextSimilarityTask:
    return TextSimilarityTask.of(found, calibration, TextSimilaritySpec(data="pairs"), Setting(encoders, storage))


def test_spaces_are_the_cosines_of_their_vectors(tmp_path, encoders, method):
    calibration = pairs(("1", "22", "77"), ("2", "23", "8"), (0, 1, 0))
    task = task_of(pairs(), calibration, encoders, features(tmp_path))
    sides = ((*LEFT, "1", "22", "77"), (*RIGHT, "2", "23", "8"))
    raw = {n: [torch.stack([e.encode([t]).mean()[0] for t in side]) for side in sides] for n, e in encoders.items()}
    with torch.no_grad():
        own = {n: [torch.cat([method(n, e.encode([t])) for t in side]) for side in sides] for n, e in encoders.items()}

    def cosine(left, right):
        return (normalize(left.double(), dim=-1) * normalize(right.double(), dim=-1)).sum(-1).numpy()

    expected = {
        "aligned a-a": cosine(*own["a"]),
        "aligned b-b": cosine(*own["b"]),
        "aligned a-b": (cosine(own["a"][0], own["b"][1]) + cosine(own["b"][0], own["a"][1])) / 2,
        "raw a": cosine(*raw["a"]),
        "raw b": cosine(*raw["b"]),
    }
    found = task.measure(bare(method)).joined(task.baseline()).items
    assert found.keys() == expected.keys()
    for space, values in expected.items():
        np.testing.assert_allclose(found[space], values, atol=2e-6)
    result = task.evaluate(bare(method))
    for space, values in found.items():
        assert result.thresholds[space] == calibrate(values[4:], calibration.truth)
        accuracy = ((values[:4] >= result.thresholds[space]) == task.pairs.truth).mean()
        assert result.metrics[f"{space}/accuracy"] == accuracy


def test_the_order_of_a_pairs_texts_does_not_matter(tmp_path, encoders, method):
    one = task_of(pairs(scored=True), None, encoders, features(tmp_path))
    other = task_of(pairs(RIGHT, LEFT, scored=True), None, encoders, features(tmp_path))
    for space, values in one.similarities(method).items():
        np.testing.assert_allclose(other.similarities(method)[space], values, atol=2e-6)
    assert one.evaluate(bare(method)).thresholds == {}


def test_every_text_is_encoded_once(tmp_path, encoders, method):
    for _ in range(2):
        task_of(pairs(), pairs(("6", "12"), ("6", "345"), (1, 0)), encoders, features(tmp_path))
    for encoder in encoders.values():
        assert Counter(encoder.calls) == Counter({*LEFT, *RIGHT})


def test_a_text_that_an_encoder_cannot_read_takes_its_pair_along(tmp_path, encoders, method):
    found = pairs((*LEFT, "word"), (*RIGHT, "1"), (1, 1, 0, 0, 1), scored=True)
    task = task_of(found, None, encoders, features(tmp_path))
    assert len(task.pairs) == 4
    assert {one.reason for one in task.rejected} == {"not a number"}
    alone = pairs(("word", *LEFT[2:], "9"), ("21", *RIGHT[2:], "8"), (1, 0, 0, 0))
    with pytest.raises(DataError, match="every one of 3 pairs has label 0"):
        task_of(alone, None, encoders, FeaturesSpec(folder=str(tmp_path / "other")))


def test_a_model_without_texts_is_refused(tmp_path):
    with pytest.raises(ModalityError, match="text similarity needs a modality of text; there are none"):
        TextSimilarityTask.prepare(TextSimilaritySpec(data="pairs.jsonl"), Setting({}, features(tmp_path)))
