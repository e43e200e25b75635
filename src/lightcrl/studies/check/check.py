"""`lightcrl check`: properties of a recipe's data and encoders before training, on a sample."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lightcrl.data import Dataset, Rejection
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import Encoder
from lightcrl.errors import DataError
from lightcrl.events import Tell
from lightcrl.features.spec import FeaturesSpec
from lightcrl.recipe import Recipe
from lightcrl.studies.check.forecast import Prediction, fit, measured, predict
from lightcrl.studies.check.leaks import SHOWN, Leaks, find_leaks, shared_texts
from lightcrl.studies.check.noise import Noise, estimate_noise
from lightcrl.studies.check.sample import Layout, Sample, take_sample
from lightcrl.studies.check.slots import Pair, Selection, select_slots
from lightcrl.studies.check.spaces import (
    Baseline,
    Likeness,
    Scaler,
    compare,
    effective_dimensions,
    fit_baseline,
    sibling_recall,
)
from lightcrl.studies.clean.pairs import choose_anchor
from lightcrl.training.early import read_groups

SIBLINGS = 1.5
"""Mean number of items of a group from which on the group is taken for one of several items."""


@dataclass(frozen=True)
class Modality:
    """The results for a modality.

    Attributes:
        kind: kind of its items.
        items: number of items in the data; `sampled` of them were examined.
        sampled: see `items`.
        milliseconds: time to encode an item.
        layout: available slots, and chosen slots.
        dimensions: effective dimensions of its features: the number of equally strong directions with the same
            variation.
        siblings: share of items whose nearest other item is in their own group, among groups with several items.
        shared: texts in more than one group, with the number of their groups; the most frequent first.
        leaks: leaks between splits.
    """

    kind: str
    items: int
    sampled: int
    milliseconds: float
    layout: Layout
    dimensions: float
    siblings: float | None
    shared: list[tuple[str, int]]
    leaks: Leaks


@dataclass(frozen=True)
class Match:
    """The results for a pair of modalities; each is None if too few groups have both.

    Attributes:
        likeness: similarity of the two spaces.
        baseline: the closed-form map.
        prediction: expected recall of the trained DFE; None near chance, and for two modalities of one kind whose
            groups have several items.
        noise: share of wrong pairs.
    """

    likeness: Likeness | None
    baseline: Baseline | None
    prediction: Prediction | None
    noise: Noise | None = None


@dataclass(frozen=True)
class Check:
    """All results of a check.

    Attributes:
        name: name of the recipe.
        seconds: duration of the check.
        groups: number of groups in the data, by split.
        sampled: number of examined groups, by split.
        alone: number of groups with items of only one modality, which training cannot use, by split.
        repeated: number of groups that were set aside because they are in two splits.
        modalities: results by modality.
        matches: results by pair.
        selection: selection of slots.
        rejected: items set aside, in the data and in the sample.
    """

    name: str
    seconds: float
    groups: dict[str, int]
    sampled: dict[str, int]
    alone: dict[str, int]
    repeated: int
    modalities: dict[str, Modality]
    matches: dict[Pair, Match]
    selection: Selection
    rejected: list[Rejection]


def check(recipe: Recipe, *, size: int | None = None, tell: Tell = lambda event: None) -> Check:
    """Examine a recipe's data and encoders before training.

    Args:
        recipe: recipe whose data and encoders are examined; its method and training settings are ignored.
        size: number of train groups to examine; by default as many as can be encoded in about 45 seconds.
        tell: function that is called with the events `data` and `encode`.

    Raises:
        DataError: the data is unusable, or has too few groups.
        EncoderError: an encoder is unusable.
    """
    start = time.perf_counter()
    dataset = read_groups(recipe.data, recipe.kinds, tell)
    encoders = {name: load_encoder(spec) for name, spec in recipe.encoders.items()}
    return examine(dataset, encoders, recipe.features, name=recipe.name, size=size, start=start, tell=tell)


def examine(
    dataset: Dataset,
    encoders: Mapping[str, Encoder],
    features: FeaturesSpec,
    *,
    name: str = "",
    size: int | None = None,
    start: float | None = None,
    tell: Tell = lambda event: None,
) -> Check:
    """Run `check` on loaded data and encoders."""
    start = time.perf_counter() if start is None else start
    sample = take_sample(dataset, encoders, features.folder, size=size, workers=features.workers, tell=tell)
    train = {modality: parts["train"] for modality, parts in sample.parts.items()}
    joint = [(a, b) for a, b in sample.pairs if len(np.intersect1d(train[a].groups, train[b].groups)) >= 50]
    if not joint:
        raise DataError(
            f"no two modalities share 50 of the {len(sample.groups['train'])} sampled groups of train. Check data.key: "
            "rows of equal key are one group; or give --sample a greater number."
        )
    tell({"event": "select", "slots": sum(len(layout.names) for layout in sample.layouts.values())})
    selection = select_slots(
        train,
        joint,
        len(sample.groups["train"]),
        {modality: layout.auto for modality, layout in sample.layouts.items()},
        {modality: range(len(layout.names)) if layout.free else () for modality, layout in sample.layouts.items()},
    )
    splits = np.array(dataset.splits)
    present = sum((np.bincount(links[:, 1], minlength=len(splits)) > 0).astype(int) for links in dataset.links.values())
    modalities = {each: _modality(dataset, sample, each, encoders[each].kind) for each in sample.parts}
    kinds = {name: encoder.kind for name, encoder in encoders.items()}
    matches = {pair: _match(dataset, sample, pair, selection, kinds) for pair in sample.pairs}
    return Check(
        name,
        time.perf_counter() - start,
        dict(Counter(dataset.splits)),
        {split: len(groups) for split, groups in sample.groups.items()},
        {split: int(((present == 1) & (splits == split)).sum()) for split in dict.fromkeys(dataset.splits)},
        sum(rejection.reason == "leak" for rejection in dataset.rejected),
        modalities,
        matches,
        selection,
        [*dataset.rejected, *sample.rejected],
    )


def _modality(dataset: Dataset, sample: Sample, name: str, kind: str) -> Modality:
    parts, layout = sample.parts[name], sample.layouts[name]
    scale = Scaler(parts["train"], layout.auto)
    train, dev = scale(parts["train"]), scale(parts["dev"])
    items = dataset.items[name]
    split = np.array(dataset.splits)[dataset.links[name][:, 1]]
    totals = [len(np.unique(dataset.links[name][split == wanted, 0])) for wanted in ("train", "dev")]
    return Modality(
        kind,
        len(items),
        len(parts["train"].items) + len(parts["dev"].items),
        sample.milliseconds[name],
        layout,
        effective_dimensions(train),
        sibling_recall(train, parts["train"].groups),
        shared_texts(dataset, name)[:SHOWN] if kind == "text" else [],
        find_leaks(
            dataset,
            name,
            (train, parts["train"].groups, [items[n] for n in parts["train"].items]),
            (dev, [items[n] for n in parts["dev"].items]),
            (totals[0], totals[1]),
        ),
    )


def _match(dataset: Dataset, sample: Sample, pair: Pair, selection: Selection, kinds: Mapping[str, str]) -> Match:
    a, b = pair
    slots = (selection.auto[a], selection.auto[b])
    likeness = compare(sample.parts[a]["train"], sample.parts[b]["train"], slots)
    baseline = fit_baseline((sample.parts[a], sample.parts[b]), slots, selection.ridge)
    if baseline is None:
        return Match(likeness, None, None)
    splits = np.array(dataset.splits)
    shared = np.intersect1d(dataset.links[a][:, 1], dataset.links[b][:, 1])
    groups, gallery = ((splits[shared] == split).sum() for split in ("train", "dev"))
    closed_form = {**baseline.smaller, baseline.gallery: baseline.recall}
    # Recall near chance has no information on the result of training, nor on pairs: right ones look random too.
    if baseline.near_chance:
        return Match(likeness, baseline, None)
    noise = _noise(sample, pair, selection, kinds)
    alike = kinds[a] == kinds[b]
    calibration = fit(measured(alike=alike))
    # Between two encoders of the same items, training brings all items of a group together; a linear map does not.
    if calibration is None or (alike and all(items_per_group(dataset, name) > SIBLINGS for name in pair)):
        return Match(likeness, baseline, None, noise)
    sizes = (baseline.groups, int(groups), int(gallery))
    prediction = predict(calibration, closed_form, *sizes, interval=baseline.interval)
    return Match(likeness, baseline, prediction, noise)


def items_per_group(dataset: Dataset, modality: str) -> float:
    """Return the mean number of items of a modality in the groups that have any."""
    groups = dataset.links[modality][:, 1]
    return len(groups) / max(1, len(np.unique(groups)))


def _noise(sample: Sample, pair: Pair, selection: Selection, kinds: Mapping[str, str]) -> Noise | None:
    """Return the noise rate of a pair of modalities: that of the texts beside what is not a text."""
    anchor = choose_anchor({name: kinds[name] for name in pair}, None)
    order = sorted(pair, key=lambda name: name != anchor)
    scaled = [(part := sample.parts[name]["train"], Scaler(part, selection.picked[name])(part)) for name in order]
    return estimate_noise(scaled[0], scaled[1], selection.ridge)
