"""The plan of a training: settings resolved for the data and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lightcrl.errors import TrainingError
from lightcrl.features.table import Features, Split
from lightcrl.features.views import ViewedStore
from lightcrl.machine import multiplies_bfloat16
from lightcrl.methods import Method
from lightcrl.training.batches import Window, count_batches
from lightcrl.training.refusals import Combination, check_combination
from lightcrl.training.spec import TrainingSpec

# Share of the allowed memory for a window: there are two windows, one in use and one being read, and the rest of the
# process needs as much again.
WINDOW_SHARE = 1 / 4
# Number of blocks per window: more blocks are nearer to a full shuffle, but each read is shorter.
BLOCKS = 256


@dataclass(frozen=True)
class Plan:
    """Training settings resolved for the data.

    Attributes:
        batch_size: groups per step.
        items_per_group: items of each modality per group, as far as the group has them.
        epochs: greatest number of epochs.
        steps: greatest number of steps.
        steps_per_epoch: number of steps, the same for every epoch.
        window: shuffling of groups if stores are not held in memory.
    """

    batch_size: int
    items_per_group: int
    epochs: int
    steps: int
    steps_per_epoch: int
    window: Window | None = None


def make_plan(spec: TrainingSpec, split: Split) -> Plan:
    """Return batch size, items per group, epochs and steps for a training split.

    `"auto"`: the batch is a quarter of the groups, at least 16 and at most 1,024; a group has two items of each
    modality per batch if the richest modality has two or more on average; the number of epochs gives 400 steps, but is
    at least 20 and at most 100 (docs/LOG.md).

    Raises:
        TrainingError: fewer than two groups, or a batch larger than the data.
    """
    usable = len(split.usable)
    if usable < 2:
        raise TrainingError(
            f"{usable} groups with items of two modalities in the training split; a contrastive loss needs two or more."
        )
    check_batch(spec, usable)
    batch_size = min(1024, max(16, usable // 4), usable) if spec.batch_size == "auto" else min(spec.batch_size, usable)
    items = spec.items_per_group
    if items == "auto":
        means = [members.counts[members.counts > 0].mean() for members in split.members.values() if len(members.rows)]
        items = 2 if max(means) >= 2 else 1
    per_epoch = count_batches(split, batch_size, items)
    epochs = min(100, max(20, round(400 / per_epoch))) if spec.epochs == "auto" else spec.epochs
    return Plan(batch_size, items, epochs, epochs * per_epoch, per_epoch)


def check_batch(spec: TrainingSpec, usable: int) -> None:
    """Refuse a batch of the recipe that is larger than the data; a method's own batch size bends.

    Args:
        spec: training settings.
        usable: number of training groups with items of two modalities.

    Raises:
        TrainingError: the batch is larger.
    """
    if spec.batch_size != "auto" and spec.batch_size > usable and not spec.bends:
        raise TrainingError(
            f"training.batch_size is {spec.batch_size}, but only {usable} groups of the training split have items of "
            'two modalities. Give at most that, or "auto".'
        )


def make_window(features: Features, split: Split, plan: Plan, memory: float, sequences: bool) -> Window | None:
    """Return the shuffling of a split whose stores may take `memory` bytes; None if they are held in memory.

    It depends only on data and settings, so that a run can resume on any machine and with any number of processes.
    """
    if all(store.memory for store in features.stores.values()):
        return None
    size = 0.0
    for modality, members in split.members.items():
        store = features.store(modality)
        stores = store.stores if isinstance(store, ViewedStore) else (store,)
        item = store.nbytes / max(1, sum(each.rows for each in stores))
        if store.sequence and not sequences:
            item *= store.slots * store.rows / max(1, store.tokens)
        size += item * min(plan.items_per_group, len(members.rows) / max(1, len(split)))
    batches = max(1, int(memory * WINDOW_SHARE / max(1.0, size * plan.batch_size)))
    return Window(max(1, batches * plan.batch_size // BLOCKS), batches)


def learning_rate(spec: TrainingSpec, step: int, steps: int) -> float:
    """Return a step's rate: a linear rise to the peak, then half a cosine to zero, or the peak (plateau schedule)."""
    peak = float(spec.learning_rate)
    rising = round(spec.warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    if spec.schedule == "plateau":
        return peak
    return peak * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def bfloat16_pays(cpu: bool, batch_size: int) -> bool:
    """True if the machine has bfloat16 arithmetic and the products are large enough to gain from it."""
    return multiplies_bfloat16("cpu" if cpu else "cuda") and (batch_size >= 256 or not cpu)


def make_accelerator(spec: TrainingSpec, batch_size: int, method: Method, live: tuple[str, ...]) -> Accelerator:
    """Return device, precision and processes for a training with towers of the modalities `live`.

    Raises:
        TrainingError: there are too many processes for the batch, or the combination is in `REFUSALS`.
    """
    # Accelerate keeps a single precision per process; several trainings in a process may differ.
    AcceleratorState._reset_state(reset_partial_state=True)
    cpu = spec.device == "cpu" or (spec.device == "auto" and not torch.cuda.is_available())
    bfloat16 = spec.precision == "bfloat16" or (spec.precision == "auto" and bfloat16_pays(cpu, batch_size))
    accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if bfloat16 else "no")
    if accelerator.num_processes > batch_size // 2:
        raise TrainingError(
            f"launched as {accelerator.num_processes} processes for batches of {batch_size} groups; expected two "
            "groups or more for each."
        )
    check_combination(Combination(type(method), live, accelerator.num_processes, spec.loss, method.options))
    return accelerator
