"""Rates measured on this machine: encoding of a modality, and steps and evaluations of a training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data import Dataset
from lightcrl.encoders.base import Encoder
from lightcrl.errors import ItemError
from lightcrl.features import Features, encode_items
from lightcrl.features.base import Store, WrappedStore
from lightcrl.features.table import Split
from lightcrl.features.views import settled_views
from lightcrl.methods import METHODS
from lightcrl.methods.spec import MethodSpec, make_method
from lightcrl.pipeline import train_method
from lightcrl.recipe import Recipe
from lightcrl.tokens import TokenBatch
from lightcrl.training.early import split_of
from lightcrl.training.judge import by_retrieval
from lightcrl.training.plan import Plan, make_plan

CHUNK = 64
"""Number of items encoded at a time while a rate is measured."""
MOST_GROUPS = 20_000
"""Greatest number of groups of a timed training; times that grow with the data are scaled from there."""


@dataclass(frozen=True)
class EncodingRate:
    """Encoding of a modality, measured on a random sample.

    Attributes:
        seconds: seconds per item.
        tokens: mean number of tokens per item.
        sampled: number of items of the sample.
        rejected: those that could not be read, with reasons.
    """

    seconds: float
    tokens: float
    sampled: int
    rejected: tuple[str, ...]


def measure_encoding(
    encoder: Encoder, dataset: Dataset, modality: str, *, seconds: float, workers: int, seed: int = 0
) -> EncodingRate:
    """Encode random items for about `seconds`, after a first chunk that warms up."""
    items = dataset.items[modality]
    order = np.random.default_rng(seed).permutation(len(items))[:4096]
    counts: list[int] = []
    rejected: list[str] = []
    spent, timed = 0.0, 0
    for start in range(0, len(order), CHUNK):
        chunk = [items[number] for number in order[start : start + CHUNK]]
        began = time.perf_counter()
        for place, outcome in encode_items(encoder, chunk, workers=workers):
            if isinstance(outcome, ItemError):
                rejected.append(f"{chunk[place].source}: {outcome}")
            else:
                counts.append(len(outcome))
        taken = time.perf_counter() - began
        if start or len(order) <= CHUNK:
            spent, timed = spent + taken, timed + len(chunk)
        if spent > seconds:
            break
    sampled = len(counts) + len(rejected)
    return EncodingRate(spent / max(1, timed), float(np.mean(counts or [0])), sampled, tuple(rejected))


@dataclass(frozen=True)
class TrainingRate:
    """A training of one method with one seed.

    Attributes:
        plan: its plan on the whole data.
        start: seconds before the first step, such as a closed form.
        step: seconds per step.
        evaluation: seconds per evaluation on dev.
        evaluations: number of evaluations.
        figures: seconds of the figures at the end, with their intervals.
    """

    plan: Plan
    start: float
    step: float
    evaluation: float
    evaluations: int
    figures: float

    @property
    def seconds(self) -> float:
        """The duration of the training and its figures."""
        return self.start + self.plan.steps * self.step + self.evaluations * self.evaluation + self.figures


class _EnoughError(Exception):
    """The end of a timed training."""


def measure_training(
    recipe: Recipe,
    spec: MethodSpec,
    stores: Mapping[str, Store],
    dataset: Dataset,
    encoders: Mapping[str, Encoder],
    folder: Path,
    *,
    seconds: float,
) -> TrainingRate:
    """Time a training whose groups, batches and dev split are those of the whole data.

    The features are those of the rehearsal, repeated, so that nothing else is encoded.
    """
    features, scale = repeated(stores, dataset)
    training = recipe.training.suited(METHODS.load(spec.name))
    plan = make_plan(training, split_of(dataset, "train"))
    marks: list[tuple[str, float]] = []

    def report(event: Mapping[str, Any]) -> None:
        marks.append((event["event"], time.perf_counter()))
        steps = sum(name == "step" for name, _ in marks)
        if steps > 3 and marks[-1][1] - marks[0][1] > seconds:
            raise _EnoughError

    closed = METHODS.load(spec.name).closed_form
    with suppress(_EnoughError):
        train_method(recipe.model_copy(update={"tuning": {}}), spec, 0, folder, features, encoders, report)
    steps = [at for name, at in marks if name == "step"]
    gaps = np.diff(steps)
    # Steps after an evaluation include it.
    step = float(np.median(gaps)) if len(gaps) else 0.0
    first = steps[0] if steps else marks[-1][1]
    method = make_method(spec.name, features.specs, spec.options, training.loss, 0)
    # Of the time before the first step, nearly all goes into a closed form if there is one; it sees every view.
    settled = settled_views(recipe.encoders, dataset, recipe.tuning).values()
    views = 1 + max(each.views.further for each in settled) if method.solves else 1
    began = time.perf_counter()
    judgement = by_retrieval(method, features, 0)
    evaluation = time.perf_counter() - began
    began = time.perf_counter()
    judgement.result()
    figures = time.perf_counter() - began
    evaluations = 1 if closed else max(1, plan.epochs // training.evaluate_every)
    return TrainingRate(
        Plan(plan.batch_size, plan.items_per_group, plan.epochs, 0 if closed else plan.steps, plan.steps_per_epoch),
        max(0.0, first - marks[0][1] - step) * scale * views,
        step,
        evaluation,
        evaluations,
        2 * figures,
    )


class RepeatedStore(WrappedStore):
    """Many rows, each a row of a small store; so that a timing reads as much as a whole run."""

    def __init__(self, store: Store, rows: int) -> None:
        super().__init__(store.in_memory())
        share = rows / max(1, store.rows)
        self.rows, self.tokens, self.nbytes = rows, round(store.tokens * share), round(store.nbytes * share)

    def gather(self, rows: np.ndarray, *, sequence: bool = True) -> TokenBatch:
        """Return the tokens of `rows`, counted around the small store."""
        return self.wrapped.gather(np.asarray(rows) % max(1, self.wrapped.rows), sequence=sequence)


def repeated(stores: Mapping[str, Store], dataset: Dataset) -> tuple[Features, float]:
    """Return features with the groups and items of the whole data, of few different tokens, and the share left out.

    The second value is the number of groups of train over that of the features, 1 for most data.
    """
    splits: dict[str, Split] = {}
    scale = 1.0
    for name in dict.fromkeys(dataset.splits):
        split = split_of(dataset, name)
        if len(split) > MOST_GROUPS:
            scale = max(scale, len(split) / MOST_GROUPS) if name == "train" else scale
            split = split.subset(np.arange(MOST_GROUPS))
        splits[name] = split
    held = {name: RepeatedStore(each, len(dataset.items[name])) for name, each in stores.items()}
    return Features.of(held, splits), scale
