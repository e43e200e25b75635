"""Verdicts on pairs: evidence combined into the probability that a pair is wrong, and the rate of wrong pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lightcrl.errors import CleaningError
from lightcrl.features.table import SPLITS
from lightcrl.metrics.mixture import fit_mixture, probability, share_interval
from lightcrl.studies.clean.pairs import Layout
from lightcrl.studies.clean.spaces import Measured

LEAST = 100
"""Least number of pairs for a noise rate."""


@dataclass(frozen=True)
class Rate:
    """The estimated share of wrong pairs in a split.

    Attributes:
        pairs: number of pairs.
        share: share of pairs that are no better than random ones.
        interval: its 95 % interval over groups.
        own: false if the split is too small, so that the rate is that of train.
    """

    pairs: int
    share: float
    interval: tuple[float, float]
    own: bool = True


@dataclass(frozen=True)
class Verdict:
    """The verdict on the pairs of a modality.

    Attributes:
        links: number of the link of every pair, [P].
        log_ratio: logarithm of the likelihood ratio of right against wrong, [P].
        wrong: probability that a pair is wrong, [P].
        rates: noise rate by split.
    """

    links: np.ndarray
    log_ratio: np.ndarray
    wrong: np.ndarray
    rates: Mapping[str, Rate]

    def over_links(self, count: int) -> np.ndarray:
        """Return the probability that a link is wrong, [L]; links that are not judged have 0."""
        values = np.zeros(count)
        values[self.links] = self.wrong
        return values


def give_verdict(measured: Measured, layout: Layout, modality: str, seed: int = 0) -> Verdict:
    """Combine the evidence of a round.

    The mixture is fitted on the pairs of train, for each fold on the other folds, so that no pair is judged by weights
    that were fitted on it. Rates are those of `share_interval`.

    Raises:
        CleaningError: too few pairs for a noise rate.
    """
    groups = layout.links[modality].groups
    of_train = (layout.splits[groups[links]] == 0 for links in (measured.links, measured.null_links))
    train, null_train = of_train
    if train.sum() < LEAST or null_train.sum() < LEAST:
        raise CleaningError(
            f"{int(train.sum())} pairs of {modality} and {layout.anchor} in train; a noise rate needs {LEAST} or more. "
            "Check data.key, or clean a larger table."
        )
    ratio, null_ratio = np.empty(len(measured.links)), np.empty(len(measured.null_links))
    for fold in np.unique(measured.folds):
        inside, outside = measured.folds != fold, measured.null_folds != fold
        mixture = fit_mixture(measured.pairs[inside & train], measured.null[outside & null_train])
        ratio[~inside] = mixture.log_ratio(measured.pairs[~inside])
        null_ratio[~outside] = mixture.log_ratio(measured.null[~outside])
    wrong = np.empty(len(ratio))
    rates: dict[str, Rate] = {}
    for name in layout.starts:
        code = SPLITS.index(name)
        own, other = (layout.splits[groups[links]] == code for links in (measured.links, measured.null_links))
        if min(own.sum(), other.sum()) >= LEAST:
            pair = groups[measured.links[own]], groups[measured.null_links[other]]
            share, interval = share_interval(ratio[own], null_ratio[other], pair, seed=seed)
            rates[name] = Rate(int(own.sum()), share, interval)
        else:
            rates[name] = Rate(int(own.sum()), rates["train"].share, rates["train"].interval, own=False)
        wrong[own] = probability(ratio[own], rates[name].share)
    return Verdict(measured.links, ratio, wrong, rates)
