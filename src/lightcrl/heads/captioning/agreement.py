"""The agreement of captions with each other: in their words, or in the space."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from lightcrl.metrics.captions import ORDERS, SIGMA, grams, words


class WordAgreement:
    """CIDEr-D between the captions of a collection, without its clipping: a product of sparse matrices.

        s(a, b) = exp(-(l_a - l_b)² / (2 · 6²)) · mean over n of cos(w_a, w_b)     lengths l, n-grams of 1 to 4 words

    w weights an n-gram by its number in the caption and the logarithm of its rarity in the collection.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        """Count the n-grams of all captions."""
        texts = [words(caption) for caption in captions]
        counts = [grams(text) for text in texts]
        frequency = Counter(gram for count in counts for gram in count)
        number = {gram: place for place, gram in enumerate(frequency)}
        rarity = [math.log(len(captions) / times) for times in frequency.values()]
        rows = [_unit_weights(count, number, rarity) for count in counts]
        starts = np.cumsum([0, *(len(row) for row in rows)])
        values = np.array([value for row in rows for _, value in row], dtype=np.float32)
        columns = np.array([column for row in rows for column, _ in row], dtype=np.int64)
        self._weights = csr_matrix((values, columns, starts), shape=(len(captions), len(number)))
        self._lengths = np.array([len(text) for text in texts])

    def __call__(self, places: np.ndarray) -> Tensor:
        """Return the agreement [k, k] of the captions at `places` [k] with each other."""
        chosen, lengths = self._weights[places], self._lengths[places]
        cosines = (chosen @ chosen.T).toarray() / ORDERS
        apart = lengths[:, None] - lengths[None]
        return torch.from_numpy((cosines * np.exp(-(apart**2) / (2 * SIGMA**2))).astype(np.float32))


def _unit_weights(
    count: Counter[tuple[str, ...]], number: dict[tuple[str, ...], int], rarity: Sequence[float]
) -> list[tuple[int, float]]:
    """Return columns and weights of a caption's n-grams; those of each order have unit length."""
    weights = {gram: times * rarity[number[gram]] for gram, times in count.items()}
    squares = [0.0] * (ORDERS + 1)
    for gram, weight in weights.items():
        squares[len(gram)] += weight**2
    return [(number[gram], weight / math.sqrt(squares[len(gram)])) for gram, weight in weights.items() if weight]


def consensus(agreement: Tensor, closeness: Tensor, sharpness: float) -> Tensor:
    """Return the mean agreement [..., k] of each caption with the others, weighted by their closeness to the item.

        score(c) = Σ_c' v(c') s(c, c') / Σ_c' v(c')     c' without c, v = exp(sharpness · closeness)

    Args:
        agreement: agreement s of the captions with each other, [..., k, k].
        closeness: cosines of the captions and the item, [..., k].
        sharpness: weight of the closeness.

    >>> agreement = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.4], [0.1, 0.4, 1.0]])
    >>> consensus(agreement, torch.zeros(3), 0.0).tolist()
    [0.45..., 0.60..., 0.25]
    """
    own = torch.eye(agreement.shape[-1], dtype=torch.bool, device=agreement.device)
    shares = (sharpness * closeness).unsqueeze(-2).masked_fill(own, -torch.inf).softmax(-1)
    return (agreement * shares.nan_to_num()).sum(-1)  # a single caption has no others
