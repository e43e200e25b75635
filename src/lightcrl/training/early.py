"""What the data set and the encoders tell of a training before any item is encoded: refused now, not after hours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from lightcrl.data import Dataset
from lightcrl.encoders.base import Encoder
from lightcrl.encoders.tower import Tower, TuningSpec
from lightcrl.errors import EmptyDatasetError, EncoderError, TrainingError, first_line
from lightcrl.features.table import Split, make_members
from lightcrl.machine import physical_memory
from lightcrl.methods import METHODS
from lightcrl.methods.spec import MethodSpec, make_method
from lightcrl.tokens import TokenSpec
from lightcrl.training.plan import make_plan
from lightcrl.training.spec import TrainingSpec


def check_early(
    dataset: Dataset,
    encoders: Mapping[str, Encoder],
    methods: Iterable[MethodSpec],
    training: TrainingSpec,
    tuning: Mapping[str, TuningSpec],
    evaluated: str,
) -> None:
    """Refuse what would fail once all items are encoded, as far as that is certain.

    Args:
        dataset: of which encoding may still set items aside, so that it has at least what training will have.
        encoders: by modality.
        methods: all that are to be trained.
        training: how.
        tuning: by modality, how its encoder is trained too.
        evaluated: the split that is measured.

    Raises:
        EmptyDatasetError: that split has no groups.
        EncoderError: an encoder that cannot be trained, or not in this way.
        MissingExtraError: adapters without their package.
        ModalityError: a name that a method cannot have, or lacks.
        TrainingError: too few groups for the batch, or a method that cannot be made here.
    """
    if evaluated not in dataset.splits:
        raise EmptyDatasetError(
            f"evaluation.split is {evaluated!r}, but the data has no groups there. Give data.{evaluated}, or a "
            f"data.{evaluated}_fraction above 0."
        )
    for modality, spec in tuning.items():
        Tower(encoders[modality], spec)
    split = split_of(dataset, "train")
    for method in methods:
        make_plan(training.suited(METHODS.load(method.name)), split)
        check_method(method, encoders)


def split_of(dataset: Dataset, name: str) -> Split:
    """The groups of a split with item numbers in the place of rows, as if every item could be encoded."""
    chosen = np.array([split == name for split in dataset.splits], dtype=bool)
    number = np.cumsum(chosen) - 1
    members = {}
    for modality, links in dataset.links.items():
        kept = links[chosen[links[:, 1]]]
        members[modality] = make_members(kept[:, 0], number[kept[:, 1]], int(chosen.sum()))
    return Split(int(chosen.sum()), members)


def check_method(spec: MethodSpec, encoders: Mapping[str, Encoder]) -> None:
    """Make a method of this library without memory for its weights; one of the user's own is left alone.

    Raises:
        ModalityError: as its constructor.
        TrainingError: its sizes are beyond what can be made, or its weights beyond the machine's memory.
    """
    if ":" in spec.name:
        return
    try:
        shapes = {name: TokenSpec(found.dim, found.slots, found.sequence) for name, found in encoders.items()}
    except EncoderError:  # the user's own, whose width shows when it encodes
        return
    try:
        with torch.device("meta"):
            method = make_method(spec.name, shapes, spec.options, "info_nce")
    except (RuntimeError, OverflowError, TypeError) as error:
        raise TrainingError(
            f"method {spec.name!r} cannot be made with its options: {first_line(error)} Give smaller numbers."
        ) from None
    size = sum(parameter.numel() * parameter.element_size() for parameter in method.parameters())
    if size > (have := physical_memory()):
        raise TrainingError(
            f"method {spec.name!r} has weights of {size / 2**30:,.1f} GiB, and this machine {have / 2**30:,.1f} GiB of "
            "memory. Give smaller numbers in [method]."
        )
