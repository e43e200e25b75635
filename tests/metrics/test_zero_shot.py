"""Zero-shot classification: prompts, class vectors and accuracies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lightcrl.errors import RecipeError, ShapeError
from lightcrl.metrics.zero_shot import TEMPLATES, class_vectors, evaluate, predict, prompts
from samples import randn, units


def test_prompts_come_class_by_class():
    assert prompts(["dog", "red car"], ["a {}.", "the {}!"]) == ["a dog.", "the dog!", "a red car.", "the red car!"]


def test_a_class_name_is_taken_as_it_is():
    assert prompts(["{0}"], ["a {}."]) == ["a {0}."]


def test_a_template_without_a_place_for_the_class_is_refused():
    with pytest.raises(RecipeError, match=r"the prompt template 'a dog' has no \{\} for the class name"):
        prompts(["dog"], ["a {}", "a dog"])


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_template_of_ours_has_a_place_for_the_class(kind):
    assert len(set(prompts(["x"], TEMPLATES[kind]))) == len(TEMPLATES[kind]) > 1


def test_a_class_is_the_mean_direction_of_its_prompts():
    embeddings = units(6, 4)
    found = class_vectors(embeddings, 2)
    for vector, part in zip(found, (embeddings[:3], embeddings[3:]), strict=True):
        mean = sum(part) / 3
        torch.testing.assert_close(vector, mean / mean.norm())


def test_top_k_counts_the_classes_that_lie_nearer():
    """All five items are of class 0, but item n lies nearer to n other classes."""
    items = torch.zeros(5, 6)
    items[:, 0] = 1
    for n in range(5):
        items[n, 1 : n + 1] = 2 + torch.arange(n)
    result = evaluate(normalize(items), np.zeros(5, dtype=np.int64), torch.eye(6))
    assert [result.metrics[f"top{k}"] for k in range(1, 6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [result.chance[f"top{k}"] for k in range(1, 6)] == pytest.approx([k / 6 for k in range(1, 6)])
    assert result.counts == {"items": 5, "classes": 6}


def test_top_1_is_the_share_of_right_predictions():
    items, classes = units(200, 8, 1), units(10, 8, 2)
    labels = np.arange(200) % 10
    result = evaluate(items, labels, classes)
    assert result.metrics["top1"] == pytest.approx((predict(items, classes).numpy() == labels).mean())
    low, high = result.interval["top1"]
    assert 0 <= low < result.metrics["top1"] < high < 0.5


def test_items_on_their_class_score_one():
    classes, labels = units(7, 16), np.array([3, 1, 4, 1, 5, 2, 6, 0])
    result = evaluate(classes[labels], labels, classes)
    assert result.metrics["top1"] == 1.0
    # Of eight items without a miss: the exact interval, where a bootstrap would be certain.
    assert result.interval["top1"] == (pytest.approx(0.025 ** (1 / 8)), 1.0)
    assert predict(classes[labels], classes).tolist() == labels.tolist()


def test_constant_items_and_classes_score_chance():
    same = units(1, 64, dtype=torch.float32)
    result = evaluate(same.repeat(30, 1), np.arange(30) % 7, same.repeat(7, 1))
    for k in range(1, 6):
        assert result.metrics[f"top{k}"] == pytest.approx(k / 7) == pytest.approx(result.chance[f"top{k}"])


def test_no_more_places_than_classes():
    assert sorted(evaluate(units(3, 4), np.zeros(3, dtype=int), units(2, 4)).metrics) == ["top1", "top2"]


@pytest.mark.parametrize(
    ("count", "labels"), [(0, []), (2, [0]), (2, [0, 3]), (2, [-1, 0])], ids=["none", "too few", "too high", "negative"]
)
def test_labels_that_do_not_fit_are_refused(count, labels):
    with pytest.raises(ShapeError, match=rf"^{count} items with {len(labels)} labels for 3 classes; expected"):
        evaluate(randn(count, 4), np.array(labels, dtype=np.int64), units(3, 4, dtype=torch.float32))
