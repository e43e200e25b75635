"""Figures with intervals from outcomes, and what becomes of claims: on outcomes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from lightcrl.metrics.intervals import mean_interval
from lightcrl.metrics.statistics import Difference
from lightcrl.studies.judge import judge
from lightcrl.studies.reproduce.claims import Reading, read_claims
from lightcrl.studies.reproduce.outcome import estimated
from lightcrl.studies.reproduce.published import published
from lightcrl.tasks.base import EMBEDDING, Outcome, Task, shares

ITEMS = 400


class Top(Task):
    """Top-1 accuracy of hits that are given."""

    units = ITEMS
    identity = ()
    headlines = ((EMBEDDING, "top1"),)

    @classmethod
    def prepare(cls, spec, setting):
        raise NotImplementedError

    def measure(self, checkpoint, folder):
        raise NotImplementedError

    def figures(self, space, found):
        return shares(["top1"], found, np.ones((1, ITEMS)))


def hits(share: float, seed: int) -> Outcome:
    """The first `share` of the items, and a few more by the seed."""
    found = np.arange(ITEMS) < share * ITEMS + seed
    return Outcome({EMBEDDING: found[None].astype(float)})


def test_figures_are_means_over_seeds_and_intervals_those_of_items_and_seeds():
    judged = judge(Top(), {"a": [hits(0.5, 0), hits(0.5, 2), hits(0.5, 4)], "raw": [hits(0.25, 0)]})
    found = judged["a"][EMBEDDING]["top1"]
    assert found.values.tolist() == [0.5, 0.505, 0.51]
    known = estimated("top1", found)
    assert known.mean == pytest.approx(0.505)
    # Three seeds 0.005 apart: t is 4.303, the standard error 0.005 / sqrt(3).
    assert known.seeds == pytest.approx((0.505 - 0.01242, 0.505 + 0.01242), abs=1e-4)
    wanted = mean_interval(hits(0.5, 2).items[EMBEDDING][0], np.arange(ITEMS))
    assert known.items == pytest.approx(wanted, abs=0.01)
    assert known.both[0] < known.items[0]
    assert known.both[1] > known.items[1]
    alone = estimated("top1", judged["raw"][EMBEDDING]["top1"])
    assert alone.seeds is None
    assert alone.both == alone.items


def test_differences_are_paired_by_items():
    # The hits of one are those of the other and ten items more: items that both have do not widen the difference.
    outcomes = {"mine": [hits(0.525, 0)], "theirs": [hits(0.5, 0)], "other": [hits(0.5, 0)]}
    names = {"mine": "DFE-2", "theirs": "conVIRT", "other": None}
    judged = judge(Top(), outcomes)
    first, *others = read_claims("shapes", Top(), "zero_shot", judged, names, published())
    assert others == []
    assert (first.task, first.space, first.measure, first.against) == ("shapes", EMBEDDING, "top1", "theirs")
    assert list(first.differences) == ["mine"]
    found = first.differences["mine"]
    assert found.mean == pytest.approx(0.025)
    low, high = found.interval
    assert 0.01 < low < 0.025 < high < 0.045
    assert first.word == "holds"


def test_without_the_rival_or_the_encoder_nothing_is_claimed():
    for names in ({"a": "DFE-1", "b": None}, {"a": None, "b": "conVIRT"}):
        judged = judge(Top(), {"a": [hits(0.5, 0)], "b": [hits(0.4, 0)]})
        assert read_claims("shapes", Top(), "zero_shot", judged, names, published()) == []


@pytest.mark.parametrize(
    ("ends", "word"),
    [
        ([(0.1, 0.2), (0.01, 0.3)], "holds"),
        ([(-0.1, 0.2), (-0.01, 0.3)], "no significant difference"),
        ([(-0.3, -0.1), (-0.2, -0.01)], "does not hold"),
        ([(0.1, 0.2), (-0.1, 0.1)], "holds for m0; no significant difference for m1"),
        (
            [(-0.2, -0.1), (0.1, 0.2), (-0.1, 0.1), (0.1, 0.2)],
            "holds for m1, m3; no significant difference for m2; does not hold for m0",
        ),
    ],
)
def test_a_claim_holds_where_whole_intervals_are_above_zero(ends, word):
    differences = {f"m{at}": Difference(sum(pair) / 2, pair) for at, pair in enumerate(ends)}
    claim = published().claims[0]
    assert Reading(claim, "shapes", EMBEDDING, "top1", "conVIRT", differences).word == word
