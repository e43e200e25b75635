"""Checks of a training against the data set and the encoders before any item is encoded, not hours later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from lightcrl.data import Dataset, DataSpec, load_dataset
from lightcrl.encoders.base import Encoder
from lightcrl.encoders.tower import Tower, TuningSpec
from lightcrl.errors import DataError, EmptyDatasetError, EncoderError, TrainingError, first_line
from lightcrl.events import Tell
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
    """Refuse a training that is certain to fail after encoding.

    Args:
        dataset: groups and items; encoding may still set items aside, so training has at most these.
        encoders: encoders by modality.
        methods: all methods to train.
        training: training settings.
        tuning: settings of the trained encoders, by modality.
        evaluated: the split that is measured.

    Raises:
        EmptyDatasetError: the evaluated split has no groups.
        EncoderError: an encoder cannot be trained, or not in this way.
        MissingExtraError: the package for adapters is missing.
        ModalityError: a modality's name is not allowed in a method, or is missing there.
        TrainingError: there are too few groups for the batch, or a method cannot be made on this machine.
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
    """Return the groups of a split with item numbers in place of rows, as if every item could be encoded."""
    chosen = np.array([split == name for split in dataset.splits], dtype=bool)
    number = np.cumsum(chosen) - 1
    members = {}
    for modality, links in dataset.links.items():
        kept = links[chosen[links[:, 1]]]
        members[modality] = make_members(kept[:, 0], number[kept[:, 1]], int(chosen.sum()))
    return Split(int(chosen.sum()), members)


def check_method(spec: MethodSpec, encoders: Mapping[str, Encoder]) -> None:
    """Make a method of this library without memory for its weights; skip a user's own method.

    Raises:
        ModalityError: see the method's constructor.
        TrainingError: its sizes are impossible, or its weights exceed the machine's memory.
    """
    if ":" in spec.name:
        return
    try:
        shapes = {name: TokenSpec(encoder.dim, encoder.slots, encoder.sequence) for name, encoder in encoders.items()}
    except EncoderError:  # a user's own encoder, whose width is known only when it encodes
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


def read_groups(data: DataSpec, kinds: Mapping[str, str], tell: Tell) -> Dataset:
    """Read the data, report its groups, and refuse unusable ones before hours of encoding.

    Raises:
        DataError: the data is unusable, or a modality or the dev split is empty.
        TrainingError: there are too few groups.
    """
    dataset = load_dataset(data, kinds)
    report_groups(dataset, tell)
    return dataset


def report_groups(dataset: Dataset, tell: Tell) -> None:
    """Report the groups of a data set, and refuse unusable ones; errors as in `read_groups`."""
    tell({"event": "data", "groups": dict(Counter(dataset.splits)), "rejected": len(dataset.rejected)})
    check_groups(dataset)


def check_groups(dataset: Dataset) -> None:
    """Refuse unusable groups; errors as in `read_groups`."""
    for modality, items in dataset.items.items():
        if not items:
            raise DataError(
                f"the data has no items of modality {modality!r}. Check data.columns, or leave the modality out of "
                "[encoders]."
            )
    counts = Counter(dataset.splits)
    if counts["train"] < 2:
        raise TrainingError(
            f"{counts['train']} groups in the training split ({len(dataset.groups)} in all; set aside: "
            f"{len(dataset.rejected)}); a contrastive loss needs two or more. Check data.key: rows of equal key are "
            "one group."
        )
    if counts["dev"] < 1:
        raise TrainingError(
            "no groups in the dev split, which chooses the best checkpoint. Give data.dev, or a data.dev_fraction "
            f"large enough for {len(dataset.groups)} groups."
        )
