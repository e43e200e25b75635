"""Names and items behind the numbers of a cleaning, the decisions on them, and the edits that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightcrl.data import Item, load_dataset
from lightcrl.data.rewrite import Edits
from lightcrl.errors import CleaningError
from lightcrl.features import Features
from lightcrl.features.base import item_keys
from lightcrl.features.table import SPLITS
from lightcrl.recipe import Recipe
from lightcrl.studies.clean.decisions import Decision, decide
from lightcrl.studies.clean.duplicates import Twins
from lightcrl.studies.clean.pairs import Layout
from lightcrl.studies.clean.verdict import Verdict


@dataclass(frozen=True)
class Catalog:
    """Groups and items by number.

    Attributes:
        layout: groups and items of the features.
        kinds: kind of item by modality.
        names: name of every group, [G].
        items: item of every row of the feature store, by modality.
    """

    layout: Layout
    kinds: Mapping[str, str]
    names: Sequence[str]
    items: Mapping[str, Sequence[Item]]

    def decide(
        self, verdicts: Mapping[str, Verdict], twins: Twins, threshold: float, splits: Sequence[str], *, merge: bool
    ) -> list[Decision]:
        """Return the decision on every item of a judged modality, by group.

        Args:
            verdicts: verdicts by modality; items without one are kept.
            twins: duplicates among the anchors.
            threshold: probability of being wrong above which a pair is dropped.
            splits: splits that are changed.
            merge: true to merge groups whose anchors have the same content.
        """
        merged, leaks, near = self._duplicates(twins, splits, merge)
        decisions = []
        for modality in self.layout.judged:
            links, verdict = self.layout.links[modality], verdicts.get(modality)
            wrong, score = np.full(len(links.rows), np.nan), np.full(len(links.rows), np.nan)
            if verdict is not None:
                wrong[verdict.links], score[verdict.links] = verdict.wrong, verdict.log_ratio
            for row, group, chance, ratio in zip(links.rows, links.groups, wrong, score, strict=True):
                split = SPLITS[self.layout.splits[group]]
                judged = not np.isnan(chance)
                word, reason = decide(float(chance) if judged else None, threshold, split in splits)
                if int(group) in leaks:
                    word, reason = "drop", "leak"
                item = self.items[modality][row]
                decisions.append(
                    Decision(
                        self.names[group],
                        split,
                        modality,
                        item.key,
                        item.source,
                        str(item.raw) if self.kinds[modality] == "text" else None,
                        round(float(chance), 6) if judged else None,
                        round(float(ratio), 4) if judged else None,
                        word,
                        reason,
                        duplicate_of=self._name(merged, group),
                        near=self._name(near, group),
                    )
                )
        order = {name: number for number, name in enumerate(self.names)}
        return sorted(decisions, key=lambda each: order[each.group])

    def edits(self, decisions: Sequence[Decision]) -> Edits:
        """Return the changes to the data set that carry out the decisions.

        Raises:
            CleaningError: an item moves into a group that the data does not have.
        """
        moved = {each.place: each.moved_to for each in decisions if each.decision == "move" and each.moved_to}
        if unknown := sorted({*moved.values()} - {*self.names}):
            raise CleaningError(f"an item moves into the group {unknown[0]!r}, which is not in the data.")
        leaks = {each.group for each in decisions if each.reason == "leak"}
        merged = {each.group: each.duplicate_of for each in decisions if each.duplicate_of is not None}
        total, left = Counter(each.group for each in decisions), Counter(moved.values())
        left.update(each.group for each in decisions if each.decision not in ("drop", "move"))
        # A group that loses all its judged items has nothing to learn from.
        empty = {group for group in total if not left[group]}
        splits = {
            name: SPLITS[code]
            for name, code in zip(self.names, self.layout.splits, strict=True)
            if name not in leaks | empty
        }
        return Edits(
            splits,
            frozenset(each.place for each in decisions if each.decision == "drop"),
            {each.place: each.replacement for each in decisions if each.decision == "recaption" and each.replacement},
            merged,
            self._copies(merged),
            moved,
        )

    def _name(self, table: Mapping[int, int], group: int) -> str | None:
        return self.names[table[int(group)]] if int(group) in table else None

    def _duplicates(
        self, twins: Twins, splits: Sequence[str], merge: bool
    ) -> tuple[dict[int, int], set[int], dict[int, int]]:
        """Return merged groups, groups that leak into another split, and groups with a near neighbour."""
        merged: dict[int, int] = {}
        leaks: set[int] = set()
        of_split = self.layout.splits
        for first, second in self._group_pairs(twins.exact):
            if of_split[first] == of_split[second]:
                if merge and SPLITS[of_split[first]] in splits:
                    merged[second] = merged.get(first, first)
            elif "train" in splits and 0 in (of_split[first], of_split[second]):
                leaks.add(first if of_split[first] == 0 else second)
        near = {second: first for first, second in self._group_pairs(twins.near)}
        return merged, leaks, near

    def _group_pairs(self, pairs: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yield the groups of each pair of anchors, the earlier one first; pairs within a group are left out."""
        anchors = self.layout.links[self.layout.anchor]
        group = dict(zip(reversed(anchors.rows.tolist()), reversed(anchors.groups.tolist()), strict=True))
        for first, second in pairs.tolist():
            if first in group and second in group and group[first] != group[second]:
                low, high = sorted((group[first], group[second]))
                yield low, high

    def _copies(self, merged: Mapping[str, str]) -> dict[tuple[str, str], Item]:
        """Return the kept anchor in place of that of each merged group."""
        anchors, anchor = self.layout.links[self.layout.anchor], self.layout.anchor
        number = {name: place for place, name in enumerate(self.names)}
        first: dict[int, int] = {}
        for row, group in zip(anchors.rows.tolist(), anchors.groups.tolist(), strict=True):
            first.setdefault(group, row)
        items = self.items[anchor]
        return {(anchor, items[first[number[name]]].key): items[first[number[into]]] for name, into in merged.items()}


def open_catalog(recipe: Recipe, features: Features, layout: Layout) -> Catalog:
    """Read the names of groups and the items of the features' rows."""
    dataset = load_dataset(recipe.data, recipe.kinds)
    items = {}
    for modality, store in features.stores.items():
        by_key = {item.key: item for item in dataset.items[modality]}
        items[modality] = [by_key[key] for key in item_keys(store)]
    names = [name for split in layout.starts for name in features.names(split)]
    return Catalog(layout, recipe.kinds, names, items)
