"""Figures of captions against the references of their groups: BLEU, ROUGE-L and CIDEr-D. Texts in, numbers out.

Texts are compared word by word. A word is a run of letters and digits in lower case, with apostrophes and hyphens
inside it (`WORD`); other characters are dropped, as the evaluation of COCO does. A Chinese, Japanese or Korean
character is a word of its own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lightcrl.errors import DataError, MissingExtraError

ORDERS = 4
"""Greatest number of words of an n-gram."""
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+(?:['’-][^\W_{CJK}]+)*")
BETA = 1.2
"""Weight of recall in ROUGE-L, as in the evaluation of COCO."""
SIGMA = 6.0
"""Deviation of CIDEr-D's penalty of length, in words."""

Texts = Sequence[str]


def words(text: str) -> list[str]:
    """Return the words of a text.

    >>> words("A dog's T-shirt , wet !")
    ['a', "dog's", 't-shirt', 'wet']
    """
    return WORD.findall(text.lower())


def bleu_counts(captions: Texts, references: Sequence[Texts]) -> np.ndarray:
    """Return what BLEU sums over a corpus, [N, 10]: matches and n-grams by order, the caption's and reference's length.

    The counts are sacreBLEU's: matches are clipped at the greatest number in a reference, and the reference's length
    is the one nearest to the caption's.

    Raises:
        MissingExtraError: the extra `captions` is not installed.
        DataError: a caption has no references.
    """
    check_references(references)
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError("BLEU", "captions") from error
    metric = BLEU(tokenize="none", max_ngram_order=ORDERS, effective_order=True)
    rows = []
    for caption, texts in zip(captions, references, strict=True):
        score = metric.sentence_score(" ".join(words(caption)), [" ".join(words(text)) for text in texts])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=np.float64).reshape(len(rows), 2 * ORDERS + 2)


def bleu(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return `bleu_1` to `bleu_4` [...] of summed counts [..., 10] (Papineni et al. 2002), without smoothing.

        BLEU-n = exp(min(0, 1 - reference / length)) (p_1 ... p_n)^(1/n)     p_k = matches of order k / n-grams

    >>> figures = bleu(np.array([3, 2, 1, 0, 4, 3, 2, 1, 4, 4.0]))
    >>> {name: round(float(value), 3) for name, value in figures.items()}
    {'bleu_1': 0.75, 'bleu_2': 0.707, 'bleu_3': 0.63, 'bleu_4': 0.0}
    """
    matches, grams = counts[..., :ORDERS], counts[..., ORDERS : 2 * ORDERS]
    length, reference = counts[..., -2], counts[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.log(np.where(grams > 0, matches / np.maximum(grams, 1), 0.0))
        brief = np.where(length > 0, np.minimum(0.0, 1 - reference / length), -np.inf)
    totals = np.cumsum(precision, -1) / np.arange(1, ORDERS + 1)
    return {f"bleu_{order}": np.exp(totals[..., order - 1] + brief) for order in range(1, ORDERS + 1)}


def rouge_l(captions: Texts, references: Sequence[Texts]) -> np.ndarray:
    """Return ROUGE-L of each caption, [N] (Lin 2004), as the evaluation of COCO computes it.

        P, R = longest common subsequence / words of the caption, of the reference; the best over references each
        ROUGE-L = (1 + b²) P R / (R + b² P)     b = 1.2

    Raises:
        DataError: a caption has no references.
    """
    check_references(references)
    scores = []
    for caption, texts in zip(captions, references, strict=True):
        own, others = words(caption), [words(text) for text in texts]
        common = [_common(own, other) for other in others]
        precision = max(common) / max(len(own), 1)
        recall = max(size / max(len(other), 1) for size, other in zip(common, others, strict=True))
        bottom = recall + BETA**2 * precision
        scores.append((1 + BETA**2) * precision * recall / bottom if bottom else 0.0)
    return np.array(scores)


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for word in left:
        before = 0
        for place, other in enumerate(right, 1):
            before, row[place] = row[place], before + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]


Vector = Mapping[tuple[str, ...], float]


class Cider:
    """CIDEr-D (Vedantam et al., arXiv 1411.5726): n-grams weighted by rarity, averaged over orders and references.

        w(g) = count of g · log(documents / documents with g)
        s_n  = 10 exp(-(l - r)² / (2 · 6²)) Σ_g min(w_c(g), w_r(g)) w_r(g) / (|w_c| |w_r|)     lengths l, r

    A document is the references of a group. Without the stemming of the paper, as in the evaluation of COCO. The
    scale is COCO's: 1.0 is often printed as 100.

    Attributes:
        documents: number of documents.
        frequency: number of documents with an n-gram.
    """

    def __init__(self, documents: Iterable[Texts]) -> None:
        """Count the n-grams of documents, each a group's references."""
        self.frequency: Counter[tuple[str, ...]] = Counter()
        self.documents = 0
        for texts in documents:
            self.documents += 1
            self.frequency.update(set().union(*(grams(words(text)) for text in texts)))
        self._rarest = math.log(max(self.documents, 1))

    def __call__(self, captions: Texts, references: Sequence[Texts]) -> np.ndarray:
        """Return CIDEr-D of each caption, [N].

        Raises:
            DataError: a caption has no references.
        """
        check_references(references)
        pairs = zip(captions, references, strict=True)
        return np.array([self.score(words(caption), [words(text) for text in texts]) for caption, texts in pairs])

    def score(self, caption: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Return CIDEr-D of a caption in words."""
        own = self.vectors(caption)
        total = 0.0
        for reference in references:
            gauss = math.exp(-((len(caption) - len(reference)) ** 2) / (2 * SIGMA**2))
            total += gauss * sum(map(_clipped_cosine, own, self.vectors(reference)))
        return 10 * total / (ORDERS * len(references))

    def vectors(self, text: Sequence[str]) -> list[Vector]:
        """Return the weights of a text's n-grams by order."""
        by_order: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
        for gram, count in grams(text).items():
            rarity = self._rarest - math.log(max(1, self.frequency[gram]))
            by_order[len(gram) - 1][gram] = count * rarity
        return list(by_order)


def grams(text: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Return the counts of all n-grams of 1 to 4 words."""
    return Counter(
        tuple(text[place : place + order]) for order in range(1, ORDERS + 1) for place in range(len(text) - order + 1)
    )


def _clipped_cosine(caption: Vector, reference: Vector) -> float:
    norms = math.hypot(*caption.values()) * math.hypot(*reference.values())
    shared = caption.keys() & reference.keys()
    return (
        sum(min(caption[gram], reference[gram]) * reference[gram] for gram in sorted(shared)) / norms if norms else 0.0
    )


def check_references(references: Sequence[Texts]) -> None:
    """Raise an error unless every caption has a reference.

    Raises:
        DataError: a caption has none.
    """
    empty = [number for number, texts in enumerate(references) if not texts]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(references)} captions have no reference, the first is number {empty[0]}; expected a "
            "text or more in every group. Leave these groups out, or add texts."
        )
