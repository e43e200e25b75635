"""Figures of captions: published examples, the values of COCO's own evaluation, and designed errors."""

from __future__ import annotations

import numpy as np
import pytest

from lightcrl.errors import DataError
from lightcrl.metrics.captions import Cider, bleu, bleu_counts, rouge_l, words
from lightcrl.metrics.intervals import bootstrap_intervals

CAPTIONS = [
    "A dog runs on the green grass .",
    "two men play football",
    "A man rides a bike down a hill.",
    "a a a",
]
REFERENCES = [
    ["A brown dog is running on grass .", "The dog runs through the grass", "a dog playing outside"],
    ["Two men are playing football .", "two boys play soccer on a field"],
    ["A man riding a mountain bike down a steep hill .", "The man rides his bicycle"],
    ["A girl in a red dress", "a girl"],
]


def figures(captions, references):
    return {name: float(value) for name, value in bleu(bleu_counts(captions, references).sum(0)).items()}


def test_words_are_runs_of_letters_and_digits_in_any_script():
    assert words("The 2 dogs' T-shirts, ÉTÉ!") == ["the", "2", "dogs", "t-shirts", "été"]
    assert words("一只狗 runs") == ["一", "只", "狗", "runs"]
    assert words(" ... ") == []


def test_all_figures_are_those_of_cocos_evaluation():
    """Values of pycocoevalcap 1.2 on the same words."""
    found = figures(CAPTIONS, REFERENCES)
    assert [found["bleu_1"], found["bleu_2"], found["bleu_3"]] == pytest.approx(
        [0.8300915601811392, 0.542919084759664, 0.26788822301750825], abs=1e-9
    )
    assert found["bleu_4"] == 0  # COCO's adds a tiny number
    np.testing.assert_allclose(rouge_l(CAPTIONS, REFERENCES), [0.62404092, 0.65357143, 0.7625, 0.55707763], atol=1e-8)
    cider = Cider(REFERENCES)(CAPTIONS, REFERENCES)
    np.testing.assert_allclose(cider, [1.54666838, 1.73427222, 2.10414881, 0.0], atol=1e-8)


def test_bleu_counts_a_word_no_more_often_than_a_reference_does():
    """The example of Papineni et al.: 2 of 7."""
    counts = bleu_counts(["the the the the the the the"], [["The cat is on the mat.", "There is a cat on the mat."]])
    assert counts[0, [0, 4]].tolist() == [2, 7]


def test_rouge_l_is_the_longest_common_subsequence():
    """The example of Lin: the second candidate has the words of the first, in the wrong order."""
    reference = ["police killed the gunman"]
    found = rouge_l(["police kill the gunman", "the gunman kill police"], [reference, reference])
    np.testing.assert_allclose(found, [0.75, 0.5])


def test_a_reference_itself_is_perfect_and_a_text_without_a_common_word_is_not():
    own = [texts[0] for texts in REFERENCES[:3]]
    assert figures(own, REFERENCES[:3]) == pytest.approx({f"bleu_{n}": 1.0 for n in range(1, 5)})
    assert rouge_l(own, REFERENCES[:3]).tolist() == [1.0] * 3
    single = [[text] for text in own]
    np.testing.assert_allclose(Cider(single)(own, single), 10.0)
    strange = ["zebra"] * 3
    assert set(figures(strange, REFERENCES[:3]).values()) == {0.0}
    assert Cider(REFERENCES)(strange, REFERENCES[:3]).tolist() == [0.0] * 3


def test_an_empty_caption_scores_nothing():
    assert set(figures(["", "..."], [["a dog"], ["a cat"]]).values()) == {0.0}
    assert rouge_l([""], [["a dog"]]).tolist() == [0.0]
    assert Cider([["a dog"], ["a cat"]])([""], [["a dog"]]).tolist() == [0.0]


def test_short_captions_are_punished_by_brevity_alone():
    found = figures(["a brown dog is"], [["a brown dog is running on grass today"]])
    assert found == pytest.approx({f"bleu_{n}": np.exp(1 - 8 / 4) for n in range(1, 5)})


def test_intervals_come_from_sums_over_drawn_captions():
    counts = bleu_counts(CAPTIONS[:3] * 20, REFERENCES[:3] * 20)
    low, high = bootstrap_intervals(lambda weights: bleu(weights @ counts), len(counts))["bleu_1"]
    assert low < figures(CAPTIONS[:3], REFERENCES[:3])["bleu_1"] < high
    assert high - low < 0.1


def test_a_caption_without_references_is_refused_by_number():
    for score in (bleu_counts, rouge_l, Cider(REFERENCES)):
        with pytest.raises(DataError, match="1 of 2 captions have no reference, the first is number 1"):
            score(["a", "b"], [["a"], []])
