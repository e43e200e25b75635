"""Retrieval on cases small enough to be read off by eye."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightcrl.errors import EmptyDatasetError
from lightcrl.metrics import Result
from lightcrl.metrics.retrieval import Retrieval, evaluate, mean_recall
from samples import units


def links(*pairs: tuple[int, int]) -> np.ndarray:
    """Item number, group number."""
    return np.array(pairs, dtype=np.int64)


def angles(*degrees: float) -> Tensor:
    """Unit vectors in the plane."""
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1)


# Three images, two captions each. Seen from the image at 0 degrees its captions are first (5) and sixth (130); from
# that at 60 degrees second (75) and third (30); from that at 120 degrees third (60.5) and sixth (-20).
TWO_CAPTIONS = {
    "image": links((0, 0), (1, 1), (2, 2)),
    "text": links((0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)),
}
IMAGES, TEXTS = angles(0, 60, 120), angles(5, 130, 75, 30, 60.5, -20)


def test_an_image_is_found_by_the_best_of_its_captions():
    found = evaluate({"image": IMAGES, "text": TEXTS}, TWO_CAPTIONS).metrics
    # Ranks of the best caption: 1; 2 (after 60.5); 3 (after 130 and 75).
    assert found["image_to_text/recall@1"] == pytest.approx(1 / 3)
    assert found["image_to_text/recall@5"] == 1.0
    assert found["image_to_text/median_rank"] == 2.0


def test_every_caption_is_a_query_of_its_own():
    found = evaluate({"image": IMAGES, "text": TEXTS}, TWO_CAPTIONS).metrics
    # Nearest image of the six captions: 0, 2, 1, tie of 0 and 1, 1, 0. Right ones: 0, 0, 1, 1, 2, 2.
    assert found["text_to_image/recall@1"] == pytest.approx((1 + 0 + 1 + 0.5 + 0 + 0) / 6)
    # Ranks: 1, 3, 1, 1.5, 2, 3.
    assert found["text_to_image/median_rank"] == 1.75
    assert found["text_to_image/recall@5"] == found["text_to_image/recall@10"] == 1.0
    assert found["mean_recall@1"] == pytest.approx((1 / 3 + 2.5 / 6) / 2)


def test_the_keys_are_those_promised():
    result = evaluate({"image": IMAGES, "text": TEXTS}, TWO_CAPTIONS)
    directions = ("image_to_text", "text_to_image")
    recalls = {f"{direction}/recall@{k}" for direction in directions for k in (1, 5, 10)} | {"mean_recall@1"}
    assert set(result.metrics) == recalls | {f"{direction}/median_rank" for direction in directions}
    assert set(result.interval) == set(result.metrics)
    assert set(result.chance) == recalls
    assert result.counts == {
        "image_to_text/queries": 3, "image_to_text/gallery": 6, "text_to_image/queries": 6, "text_to_image/gallery": 3
    }  # fmt: skip
    for name, (low, high) in result.interval.items():
        assert 0 <= low <= result.metrics[name] <= high, name
        assert high <= 1 or name.endswith("median_rank"), name


def test_curves_of_precision_and_recall_by_hand():
    found = Retrieval(TWO_CAPTIONS).curves({"image": IMAGES, "text": TEXTS})
    # Right captions of the three images stand at places 1 and 6, 2 and 3, 3 and 6.
    curve = found["image_to_text"]
    assert curve["k"] == [1, 2, 3, 4, 5, 6]
    right = np.array([1, 2, 4, 4, 4, 6])
    assert curve["precision"] == pytest.approx(right / 3 / np.arange(1, 7))
    assert curve["recall"] == pytest.approx(right / 6)
    # The right image of the six captions: 1, 3, 1, a tie of 1 and 2, 2, 3.
    assert found["text_to_image"]["recall"] == pytest.approx([2.5 / 6, 4 / 6, 1])
    assert found["text_to_image"]["precision"] == pytest.approx([2.5 / 6, 4 / 12, 1 / 3])


def test_chance_is_what_a_random_order_scores():
    chance = evaluate({"image": IMAGES, "text": TEXTS}, TWO_CAPTIONS).chance
    assert chance["text_to_image/recall@1"] == pytest.approx(1 / 3)
    assert chance["image_to_text/recall@1"] == pytest.approx(2 / 6)
    # Five of six places without both captions of an image: none; one of them is always there.
    assert chance["image_to_text/recall@5"] == chance["image_to_text/recall@10"] == 1.0
    assert chance["mean_recall@1"] == pytest.approx(1 / 3)
    big = {"image": links(*((n, n) for n in range(50))), "text": links(*((n, n // 3) for n in range(150)))}
    found = Retrieval(big)({"image": units(50, 8), "text": units(150, 8)}).chance["image_to_text/recall@10"]
    assert found == pytest.approx(1 - math.comb(147, 10) / math.comb(150, 10))


def test_an_item_in_several_groups_stands_once_in_the_gallery_and_is_right_for_all_of_them():
    """Caption 0 was given to both images, so it is right for both, and both are right for it."""
    shared = {"image": links((0, 0), (1, 1)), "text": links((0, 0), (0, 1), (1, 1))}
    result = evaluate({"image": angles(0, 10), "text": angles(5.1, 90)}, shared)
    assert result.counts["image_to_text/gallery"] == 2
    assert result.counts["text_to_image/queries"] == 2
    assert result.metrics["image_to_text/recall@1"] == 1.0
    assert result.metrics["text_to_image/recall@1"] == 1.0


def test_items_that_share_two_groups_answer_each_other_once():
    """The first caption stands beside the first image in two groups; constant embeddings still score chance."""
    twice = {"image": links((0, 0), (0, 1), (1, 2)), "text": links((0, 0), (0, 1), (1, 1), (2, 2))}
    result = evaluate({"image": angles(30, 30), "text": angles(30, 30, 30)}, twice)
    assert {key: result.metrics[key] for key in result.chance} == pytest.approx(result.chance)
    assert result.metrics["image_to_text/recall@1"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_what_has_no_counterpart_is_no_query_but_stays_in_the_gallery():
    """Text 1 belongs to no image, and lies nearer to the image than its own text does."""
    links_with_loner = {"image": links((0, 0)), "text": links((0, 0), (1, 1))}
    result = evaluate({"image": angles(0), "text": angles(20, 10)}, links_with_loner)
    assert result.counts["text_to_image/queries"] == 1
    assert result.counts["image_to_text/gallery"] == 2
    assert result.metrics["image_to_text/recall@1"] == 0.0
    assert result.metrics["image_to_text/median_rank"] == 2.0


def test_three_modalities_have_six_directions():
    three = {name: links(*((n, n) for n in range(4))) for name in ("image", "sound", "text")}
    vectors = {"image": units(4, 8, 0), "sound": units(4, 8, 0), "text": units(4, 8, 1)}
    retrieval = Retrieval(three)
    assert retrieval.directions == tuple(f"{a}_to_{b}" for a, b in permutations(sorted(three), 2))
    metrics = retrieval(vectors).metrics
    assert metrics["image_to_sound/recall@1"] == metrics["sound_to_image/recall@1"] == 1.0
    assert metrics["image_to_text/recall@1"] == metrics["sound_to_text/recall@1"]
    recalls = [metrics[f"{direction}/recall@1"] for direction in retrieval.directions]
    assert metrics["mean_recall@1"] == pytest.approx(np.mean(recalls))
    assert metrics["mean_recall@1"] < 1


def test_pairs_of_modalities_that_share_no_group_have_no_direction():
    part = {"image": links((0, 0), (1, 1)), "sound": links((0, 2)), "text": links((0, 0), (1, 1), (2, 2))}
    assert Retrieval(part).directions == ("image_to_text", "sound_to_text", "text_to_image", "text_to_sound")


def test_mean_recall_alone_is_the_same_number():
    retrieval, vectors = Retrieval(TWO_CAPTIONS), {"image": IMAGES, "text": TEXTS}
    assert mean_recall(retrieval.per_query(vectors)) == retrieval(vectors).metrics["mean_recall@1"]


def test_the_ks_can_be_chosen():
    metrics = Retrieval(TWO_CAPTIONS, ks=(1, 2))({"image": IMAGES, "text": TEXTS}).metrics
    assert metrics["image_to_text/recall@2"] == pytest.approx(2 / 3)
    assert "image_to_text/recall@5" not in metrics


def test_intervals_draw_groups_not_captions():
    """Five copies of each caption give the same interval as one: they bring no new evidence."""
    generator = np.random.default_rng(0)
    once = {"image": links(*((n, n) for n in range(60))), "text": links(*((n, n) for n in range(60)))}
    five = {"image": once["image"], "text": links(*((n, n // 5) for n in range(300)))}
    image = units(60, 8, 0)
    text = torch.nn.functional.normalize(image + torch.from_numpy(generator.normal(0, 0.4, image.shape)), dim=1)
    one = evaluate({"image": image, "text": text}, once)
    copies = evaluate({"image": image, "text": text.repeat_interleave(5, 0)}, five)
    for key in ("text_to_image/recall@1", "text_to_image/recall@5"):
        assert 0 < one.metrics[key] < 1
        assert copies.interval[key] == pytest.approx(one.interval[key])
        assert copies.metrics[key] == pytest.approx(one.metrics[key])


def test_the_mean_over_directions_has_an_interval_over_the_same_groups():
    """Two directions that hit and miss together vary as one alone, not less."""
    count = 40
    both = {name: links(*((n, n) for n in range(count))) for name in ("image", "text")}
    image = units(count, 64)
    text = torch.where(torch.arange(count)[:, None] % 2 == 0, image, -image)
    result = evaluate({"image": image, "text": text}, both)
    assert result.metrics["mean_recall@1"] == 0.5
    assert result.interval["mean_recall@1"] == pytest.approx(result.interval["image_to_text/recall@1"])


def test_the_order_of_links_does_not_matter():
    turned = {modality: found[::-1] for modality, found in TWO_CAPTIONS.items()}
    vectors = {"image": IMAGES, "text": TEXTS}
    assert evaluate(vectors, turned).metrics == evaluate(vectors, TWO_CAPTIONS).metrics


def test_data_without_a_counterpart_is_refused():
    with pytest.raises(EmptyDatasetError, match=r"no group has items of two modalities \(image, text\)"):
        Retrieval({"image": links((0, 0)), "text": links((0, 1))})


def test_a_result_survives_json():
    result = evaluate({"image": IMAGES, "text": TEXTS}, TWO_CAPTIONS)
    assert Result.from_json(result.to_json()) == result
