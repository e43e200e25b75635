"""Cells: the trainings of a comparison, and their files.

    cells/<method>-seed<N>[-<groups>]-<digest>/    the digest covers all settings that determine the training
      best/ last/ log.jsonl     as in every training
      outcomes.npz              the outcome of every task, item by item (`lightcrl.tasks.base.Outcome`)
      cell.json                 figures and settings; written last

A folder with a cell.json is finished and read. A folder without it resumes, in one process at a time: other processes
wait and then read its results.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.encoders.base import Encoder, fingerprint
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.files.local import whole_file, write_json
from lightcrl.files.locks import in_turn
from lightcrl.methods import METHODS
from lightcrl.methods.spec import MethodSpec
from lightcrl.metrics.retrieval import KS
from lightcrl.pipeline import prepare_named, train_method
from lightcrl.recipe import Recipe
from lightcrl.tasks.base import EMBEDDING, Outcome, Setting, Task, prepare_task
from lightcrl.tasks.retrieval import RetrievalSpec
from lightcrl.tasks.spec import RETRIEVAL

FORMAT = 2
"""Format of cells; greater where a method of equal settings has changed. From 2 on closed forms see all views."""


@dataclass(frozen=True)
class Ground:
    """The common setting of all trainings of a comparison.

    Attributes:
        recipe: training settings and measured tasks.
        folder: folder of the comparison.
        features: features in memory.
        encoders: encoders of the features.
        tasks: prepared tasks by label.
        tell: callback for events.
    """

    recipe: Recipe
    folder: Path
    features: Features
    encoders: Mapping[str, Encoder]
    tasks: Mapping[str, Task]
    tell: Tell

    @property
    def setting(self) -> Setting:
        """The setting in which the tasks were prepared."""
        recipe = self.recipe
        split = recipe.evaluation.split
        return Setting(self.encoders, recipe.features, self.tell, recipe.data, self.features, split)


@dataclass(frozen=True)
class Cell:
    """A finished training with its figures.

    Attributes:
        folder: folder of the cell.
        seed: seed of the training.
        groups: number of training groups.
        plan: batch size, greatest numbers of epochs and steps, and number of finished steps.
        parameters: number of trained parameters.
        seconds: duration of training, including its evaluations on dev.
        memory: peak resident set of the process during training, in bytes; None if the system does not provide it.
        dev: mean R@1 on dev of the best checkpoint.
        outcomes: outcome by label of the task.
        figures: values by measure; see `figures`.
        fresh: true if trained or measured in this call, false if read.
    """

    folder: Path
    seed: int
    groups: int
    plan: Mapping[str, int]
    parameters: int
    seconds: float
    memory: int | None
    dev: float
    outcomes: Mapping[str, Outcome]
    figures: Mapping[str, float]
    fresh: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; outcomes stay in their file."""
        given = {name: getattr(self, name) for name in ("seed", "groups", "plan", "parameters", "seconds", "memory")}
        return {**given, "dev_mean_recall@1": self.dev, "figures": dict(self.figures), "folder": self.folder.name}


def figures(tasks: Mapping[str, Task], outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Return the figures of outcomes by measure, `mean_recall@K` over directions among them.

    The measures of retrieval are `<direction>/recall@K`, those of another task `<label>/<space>/<measure>`, without the
    space if there is only one.
    """
    values = {}
    for label, task in tasks.items():
        whole = np.ones((1, task.units))
        for space, measure in compared(label, task):
            figure = task.figures(space, outcomes[label].items[space])(whole)[measure]
            values[measure_name(label, space, measure)] = float(figure[0])
    return values | mean_recall(values, tasks[RETRIEVAL])


def compared(label: str, task: Task) -> list[tuple[str, str]]:
    """Return space and measure of what a comparison shows: of retrieval all recalls, of other tasks the headlines."""
    if label != RETRIEVAL:
        return list(task.headlines)
    return [(space, f"recall@{k}") for space, _ in task.headlines for k in KS]


def measure_name(label: str, space: str, measure: str) -> str:
    """Return the name of a task's figure in a comparison.

    >>> measure_name("retrieval", "image_to_text", "recall@1"), measure_name("zero_shot", "embedding", "top1")
    ('image_to_text/recall@1', 'zero_shot/top1')
    """
    parts = ([] if label == RETRIEVAL else [label]) + ([] if space == EMBEDDING else [space])
    return "/".join([*parts, measure])


def mean_recall(values: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Return `mean_recall@K` over the directions of a retrieval task, from values (or draws) by measure."""
    directions = [space for space, _ in task.headlines]
    return {f"mean_recall@{k}": sum(values[f"{name}/recall@{k}"] for name in directions) / len(directions) for k in KS}


def find_or_train(ground: Ground, label: str, spec: MethodSpec, seed: int, groups: int | None = None) -> Cell:
    """Return the cell of these settings, which is trained and measured if necessary.

    Args:
        ground: common setting of all cells.
        label: name of the cell in events.
        spec: method of the cell.
        seed: seed of weights, batches, dropout, and of the subset.
        groups: number of training groups; None for all. Subsets of a seed are nested, and the same for every method.

    Raises:
        TrainingError: see `lightcrl.training.loop.train`.
        LockedError: this process was stopped, and another process has taken the cell over.
    """
    recipe, features = ground.recipe, ground.features
    train_split = features.split("train")
    training = recipe.training.suited(METHODS.load(spec.name))
    settings = training.identity()
    corrected = [] if training.hubs is False else ["hubs", training.hubs]
    stores = [f"{modality} {store.fingerprint}" for modality, store in sorted(features.stores.items())]
    tuning = [recipe.model_dump(mode="json", include={"tuning"})] if recipe.tuning else []
    # For stores outside memory, the allowed memory determines the shuffling.
    windows = [] if all(store.memory for store in features.stores.values()) else [recipe.training.memory]
    identity = fingerprint(
        [FORMAT, spec.name, spec.options, settings, seed, groups, stores, *tuning, *windows, *corrected]
    )
    subset = "" if groups is None else f"-{groups}"
    name = re.sub(r"[^\w.-]", ".", spec.name)
    folder = ground.folder / "cells" / f"{name}-seed{seed}{subset}-{identity[:10]}"
    measured = fingerprint([identity, recipe.evaluation.split, _tasks_identity(ground)])
    if (cell := read_cell(folder, measured)) is not None:
        return cell
    if groups is not None:
        order = np.random.default_rng([seed, len(train_split)]).permutation(train_split.usable)
        features = features.replace_split("train", train_split.subset(order[:groups]))
    with in_turn(folder, ground.tell) as hold:
        # Another comparison may have trained it in the meantime.
        cell = read_cell(folder, measured)
        if cell is None:
            held = replace(ground, features=features, tell=hold.guard(ground.tell))
            cell = _train(held, label, spec, seed, folder, measured)
    return cell


def _train(ground: Ground, label: str, spec: MethodSpec, seed: int, folder: Path, measured: str) -> Cell:
    """Train and measure on all features of the ground; the cell's files are written last."""
    recipe, features = ground.recipe, ground.features

    def report(event: Mapping[str, Any]) -> None:
        ground.tell({"method": label, "seed": seed, **event})

    peak = PeakMemory()
    checkpoint, trained, features = train_method(recipe, spec, seed, folder, features, ground.encoders, report)
    memory = peak.read()
    tasks = ground.tasks
    if checkpoint.towers:  # towers encode the tasks' items themselves
        tasks = comparison_tasks(recipe, ground.setting.as_trained(checkpoint, features))
    outcomes = {label: task.measure(checkpoint, folder / "tasks" / label) for label, task in tasks.items()}
    plan = trained.plan
    cell = Cell(
        folder,
        seed,
        len(features.split("train").usable),
        {
            "batch_size": plan.batch_size,
            "epochs": plan.epochs,
            "steps": plan.steps,
            "steps_done": trained.progress.step,
        },
        sum(checkpoint.parts().values()),
        round(trained.progress.seconds, 3),
        memory,
        trained.result.metrics["mean_recall@1"],
        outcomes,
        figures(tasks, outcomes),
        fresh=True,
    )
    write_cell(cell, measured)
    ground.tell({"event": "trained", "method": label, "seed": seed, "seconds": cell.seconds, "folder": str(folder)})
    return cell


def comparison_tasks(recipe: Recipe, setting: Setting) -> dict[str, Task]:
    """Prepare the tasks of a comparison: those of a run, retrieval without its curves of precision."""
    retrieval = prepare_task(RETRIEVAL, RetrievalSpec(measures=("recall",)), setting)
    return {RETRIEVAL: retrieval} | prepare_named(recipe, setting)


def _tasks_identity(ground: Ground) -> list[Any] | None:
    """Return all settings that determine the tasks' outcomes, except the model; None for retrieval only."""
    others = {label: task for label, task in ground.tasks.items() if label != RETRIEVAL}
    return [[label, task.name, task.identity] for label, task in others.items()] or None


def write_cell(cell: Cell, measured: str) -> None:
    """Write a finished cell; `measured` identifies its settings and what it was measured on."""
    write_outcomes(cell.folder / "outcomes.npz", cell.outcomes)
    write_json(cell.folder / "cell.json", {"measured": measured, **cell.to_json()})


def write_outcomes(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Write outcomes by label into a file, atomically."""
    arrays: dict[str, Any] = {}
    for label, outcome in outcomes.items():
        arrays |= {f"{label}/items/{space}": rows for space, rows in outcome.items.items()}
        arrays |= {f"{label}/chosen/{space}": np.float64(value) for space, value in outcome.chosen.items()}
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """Read a file of `write_outcomes`.

    Raises:
        OSError: there is no such file.
        ValueError: the file does not contain outcomes.
    """
    outcomes: dict[str, Outcome] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays:
            label, part, space = re.split("/(items|chosen)/", key, maxsplit=1)
            items, value = part == "items", arrays[key]
            more = Outcome({space: value} if items else {}, {} if items else {space: float(value)})
            outcomes[label] = outcomes.get(label, Outcome({})).joined(more)
    return outcomes


def read_cell(folder: Path, measured: str) -> Cell | None:
    """Return a finished cell; None if it is not finished, or was measured on something else."""
    try:
        content = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
        old = folder / "queries.npz"
        outcomes = _read_queries(old) if old.exists() else read_outcomes(folder / "outcomes.npz")
    except (OSError, ValueError, KeyError):
        return None
    if content["measured"] != measured:
        return None
    given = {name: content[name] for name in ("seed", "groups", "plan", "parameters", "seconds", "memory")}
    return Cell(folder, **given, dev=content["dev_mean_recall@1"], outcomes=outcomes, figures=content["figures"])


def _read_queries(path: Path) -> dict[str, Outcome]:
    """Read retrieval's outcome from a file of version 0.1, which had only ranks and groups."""
    with np.load(path, allow_pickle=False) as arrays:
        names = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
        rows = {name: np.column_stack([arrays[f"{name}/ranks"], arrays[f"{name}/groups"]]) for name in names}
    return {RETRIEVAL: Outcome(rows)}


class PeakMemory:
    """The peak resident set of the process since the start of this object. Only Linux can reset an earlier peak."""

    def __init__(self) -> None:
        gc.collect()
        with suppress(AttributeError, OSError, TypeError):
            # Memory that earlier trainings left in the C library's allocator must not count.
            ctypes.CDLL(None).malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._told = True
        except OSError:
            self._told = False

    def read(self) -> int | None:
        """Return the peak in bytes."""
        if not self._told:
            return None
        status = Path("/proc/self/status").read_text(encoding="ascii")
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(match[1]) * 1024 if match else None
