"""`lightcrl check`: everything that can be known of a recipe before training, on a sample."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lightcrl.data import Dataset, Rejection, load_dataset
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import Encoder
from lightcrl.errors import DataError
from lightcrl.events import Tell
from lightcrl.features.spec import FeaturesSpec
from lightcrl.pipeline import check_groups
from lightcrl.recipe import Recipe
from lightcrl.studies.check.forecast import Prediction, fit, measured, predict
from lightcrl.studies.check.leaks import SHOWN, Leaks, find_leaks, shared_texts
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


@dataclass(frozen=True)
class Modality:
    """What was found of one modality.

    Attributes:
        kind: of its items.
        items: in the whole of the data, and `sampled` of them looked at.
        sampled: see `items`.
        milliseconds: to encode one.
        layout: the slots there are, and those taken.
        dimensions: effective ones of its features: how many equally strong directions would vary as much.
        siblings: share of items whose nearest other item is of their own group, where groups have several.
        shared: texts of more than one group, with the number of their groups; the most frequent first.
        leaks: between splits.
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
    """What was found of a pair of modalities; each is None where too few groups have both.

    Attributes:
        likeness: of the spaces as they are.
        baseline: the closed-form map.
        prediction: of the trained DFE.
    """

    likeness: Likeness | None
    baseline: Baseline | None
    prediction: Prediction | None


@dataclass(frozen=True)
class Check:
    """All that a check found.

    Attributes:
        name: of the recipe.
        seconds: that the check took.
        groups: by split, in the data.
        sampled: by split, groups looked at.
        alone: by split, groups with items of one modality only, which training cannot use.
        repeated: groups that reading the data set aside because they stand in two splits.
        modalities: by name.
        matches: by pair.
        selection: of slots.
        rejected: what was set aside, in the data and in the sample.
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
    """Look at a recipe's data and encoders before any training.

    Args:
        recipe: whose data and encoders; its method and training settings play no part.
        size: groups of train to look at; by default as many as can be encoded in about 45 seconds.
        tell: called with what happens: events `data`, `encode`.

    Raises:
        DataError: the data cannot be used, or has too few groups.
        EncoderError: an encoder cannot.
    """
    start = time.perf_counter()
    dataset = load_dataset(recipe.data, recipe.kinds)
    tell({"event": "data", "groups": dict(Counter(dataset.splits)), "rejected": len(dataset.rejected)})
    check_groups(dataset)
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
    """`check` of data and encoders that are there already."""
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
    matches = {pair: _match(dataset, sample, pair, selection) for pair in sample.pairs}
    return Check(
        name,
        time.perf_counter() - start,
        dict(Counter(dataset.splits)),
        {split: len(groups) for split, groups in sample.groups.items()},
        {split: int(((present == 1) & (splits == split)).sum()) for split in dict.fromkeys(dataset.splits)},
        sum(one.reason == "leak" for one in dataset.rejected),
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


def _match(dataset: Dataset, sample: Sample, pair: Pair, selection: Selection) -> Match:
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
    # Points of chance tell nothing of what training would bring.
    if baseline.interval[0] <= 2 * baseline.chance:
        return Match(likeness, baseline, None)
    calibration = fit(measured())
    if calibration is None:
        return Match(likeness, baseline, None)
    prediction = predict(
        calibration, closed_form, baseline.groups, int(groups), int(gallery), interval=baseline.interval
    )
    return Match(likeness, baseline, prediction)
