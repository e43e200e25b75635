"""The result of a cleaning, as JSON and as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightcrl.recipe import Recipe
from lightcrl.sheets import Sheet
from lightcrl.studies.clean.decisions import DECISIONS, Decision, count_decisions
from lightcrl.studies.clean.duplicates import Twins
from lightcrl.studies.clean.verdict import Rate

FORMAT = 1


@dataclass(frozen=True)
class Cleaning:
    """A finished cleaning.

    Attributes:
        folder: folder with the cleaned table, its recipe, the decisions and the page.
        recipe: the cleaned recipe.
        anchor: modality that stands for a group.
        method: method of the spaces.
        folds: number of folds.
        rounds: noise rates by round, modality and split.
        threshold: probability of being wrong above which a pair is dropped.
        decisions: the decision on every pair.
        twins: duplicates among the anchors.
        merged: number of groups merged into another with the same anchor.
        leaks: number of groups left out because their anchor is also in another split.
        seconds: duration of this call.
        table: data table of the cleaned recipe.
        original: recipe of the original data.
        captioner: model and digest of the captioner that wrote new texts, if there was one.
    """

    folder: Path
    recipe: Path
    anchor: str
    method: str
    folds: int
    rounds: tuple[Mapping[str, Mapping[str, Rate]], ...]
    threshold: float
    decisions: tuple[Decision, ...]
    twins: Twins
    merged: int
    leaks: int
    seconds: float
    table: Mapping[str, Any]
    original: Recipe
    captioner: Mapping[str, str] | None = None

    @property
    def rates(self) -> Mapping[str, Mapping[str, Rate]]:
        """Noise rates by modality and split, those of the last round."""
        return self.rounds[-1]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without the single decisions."""
        return {
            "format": FORMAT,
            "anchor": self.anchor,
            "method": self.method,
            "folds": self.folds,
            "threshold": self.threshold,
            "pairs": len(self.decisions),
            "decisions": count_decisions(self.decisions),
            "noise": {name: {split: asdict(rate) for split, rate in by.items()} for name, by in self.rates.items()},
            "rounds": [
                {name: {split: rate.share for split, rate in by.items()} for name, by in each.items()}
                for each in self.rounds
            ],
            "duplicates": {
                "exact": len(self.twins.exact),
                "near": len(self.twins.near),
                "cosine": self.twins.threshold,
                "compared": self.twins.compared,
                "merged_groups": self.merged,
                "leaks": self.leaks,
            },
            "seconds": round(self.seconds, 1),
            "captioner": self.captioner,
            "recipe": str(self.recipe),
            "data": dict(self.table),
        }


def sheets(cleaning: Cleaning) -> list[Sheet]:
    """Return the tables: noise rates, and decisions by split."""
    rows = [
        (
            f"{name}, {split}",
            f"{rate.pairs:,}",
            f"{100 * rate.share:.1f} %",
            f"{100 * rate.interval[0]:.1f} to {100 * rate.interval[1]:.1f} %" if rate.own else "that of train",
        )
        for name, by in cleaning.rates.items()
        for split, rate in by.items()
    ]
    headings = ("pairs of", "number", "wrong", "95 % interval")
    note = f"each judged beside its {cleaning.anchor}, by {cleaning.folds} spaces ({cleaning.method}) not trained on it"
    noise = Sheet("pairs no better than random ones", headings, rows, note)
    splits = dict.fromkeys(each.split for each in cleaning.decisions)
    counted = Counter((each.split, each.decision, each.reason) for each in cleaning.decisions)
    kinds = sorted({key[1:] for key in counted}, key=lambda kind: (DECISIONS.index(kind[0]), kind[1]))
    decided = [
        (f"{word}: {reason}", *(f"{counted[split, word, reason]:,}" for split in splits)) for word, reason in kinds
    ]
    twins = cleaning.twins
    told = f"{len(twins.exact):,} {cleaning.anchor} items are exact copies of another, {len(twins.near):,} nearly so"
    told += f"; {cleaning.merged:,} groups merged, {cleaning.leaks:,} left out as copies of held-out ones"
    return [noise, Sheet("decisions", ("decision", *splits), decided, told)]
