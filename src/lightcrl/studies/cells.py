"""One training of a comparison, and what is kept of it.

    cells/<method>-seed<N>[-<groups>]-<digest>/    the digest stands for all that decides the training
      best/ last/ log.jsonl     as every training leaves them
      queries.npz               [Q, 3] how every query fares (`ranks.ranks`), and [Q] its group
      cell.json                 what was measured; written last

A folder with a cell.json is finished and read; one without is gone on with, by one process at a time: others wait
and read what it leaves.
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
from lightcrl.features.embed import embed_split
from lightcrl.files.local import whole_file, write_json
from lightcrl.files.locks import in_turn
from lightcrl.methods import METHODS
from lightcrl.methods.spec import MethodSpec
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.retrieval import KS, Retrieval
from lightcrl.pipeline import Tasks, train_method
from lightcrl.recipe import Recipe
from lightcrl.tasks.zero_shot import ZeroShot

FORMAT = 1


@dataclass(frozen=True)
class Ground:
    """What all trainings of a comparison share.

    Attributes:
        recipe: how to train and what to measure.
        folder: of the comparison.
        features: in memory.
        encoders: that made them.
        zero_shot: prepared, where the recipe asks for it.
        tell: called with what happens.
    """

    recipe: Recipe
    folder: Path
    features: Features
    encoders: Mapping[str, Encoder]
    zero_shot: ZeroShot | None
    tell: Tell


@dataclass(frozen=True)
class Cell:
    """A finished training with its figures.

    Attributes:
        folder: where it lies.
        seed: its seed.
        groups: training groups.
        plan: batch size, epochs and steps at most, and steps done.
        parameters: trained ones.
        seconds: of training, its evaluations on dev included.
        memory: peak of the process' resident set in bytes while it trained; None where the system does not tell.
        dev: mean R@1 on dev of the best checkpoint.
        queries: by direction, [Q, 3] how each query fares and [Q] its group; `zero_shot` for the items to classify.
        fresh: trained or measured just now, not read.
    """

    folder: Path
    seed: int
    groups: int
    plan: Mapping[str, int]
    parameters: int
    seconds: float
    memory: int | None
    dev: float
    queries: Mapping[str, tuple[np.ndarray, np.ndarray]]
    fresh: bool = False

    def figures(self) -> dict[str, float]:
        """Its figures by measure; see `figures`."""
        return figures(self.queries)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; queries stay in their file."""
        given = {name: getattr(self, name) for name in ("seed", "groups", "plan", "parameters", "seconds", "memory")}
        return {**given, "dev_mean_recall@1": self.dev, "figures": self.figures(), "folder": self.folder.name}


def figures(queries: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """`<direction>/recall@K`, `mean_recall@K` over directions, and `zero_shot/top1`, from `Cell.queries`."""
    found = {}
    directions = [name for name in queries if name != "zero_shot"]
    for k in KS:
        for name in directions:
            found[f"{name}/recall@{k}"] = float(hits(queries[name][0], k).mean())
        found[f"mean_recall@{k}"] = float(np.mean([found[f"{name}/recall@{k}"] for name in directions]))
    if "zero_shot" in queries:
        found["zero_shot/top1"] = float(hits(queries["zero_shot"][0], 1).mean())
    return found


def find_or_train(ground: Ground, label: str, spec: MethodSpec, seed: int, groups: int | None = None) -> Cell:
    """The cell of these settings, trained and measured unless that is done.

    Args:
        ground: what all cells share.
        label: what events call it.
        spec: the method.
        seed: of weights, batches, dropout, and of the subset.
        groups: how many training groups; None for all. Subsets of one seed are nested, and the same for every method.

    Raises:
        TrainingError: as `lightcrl.training.loop.train`.
        LockedError: this process was stopped, and another one has taken the cell over.
    """
    recipe, features = ground.recipe, ground.features
    train_split = features.split("train")
    settings = recipe.training.suited(METHODS.load(spec.name)).identity()
    stores = [f"{modality} {store.fingerprint}" for modality, store in sorted(features.stores.items())]
    tuning = [recipe.model_dump(mode="json", include={"tuning"})] if recipe.tuning else []
    # Where stores are not held, the memory allowed decides what is shuffled with what.
    windows = [] if all(store.memory for store in features.stores.values()) else [recipe.training.memory]
    identity = fingerprint([FORMAT, spec.name, spec.options, settings, seed, groups, stores, *tuning, *windows])
    subset = "" if groups is None else f"-{groups}"
    name = re.sub(r"[^\w.-]", ".", spec.name)
    folder = ground.folder / "cells" / f"{name}-seed{seed}{subset}-{identity[:10]}"
    measured = fingerprint([identity, recipe.evaluation.split, _zero_shot_identity(ground)])
    if (known := _read(folder, measured)) is not None:
        return known
    if groups is not None:
        order = np.random.default_rng([seed, len(train_split)]).permutation(train_split.usable)
        features = features.replace_split("train", train_split.subset(order[:groups]))
    with in_turn(folder, ground.tell) as hold:
        # Another comparison may have trained it in the meantime.
        known = _read(folder, measured)
        if known is None:
            held = replace(ground, features=features, tell=hold.guard(ground.tell))
            known = _train(held, label, spec, seed, folder, measured)
    return known


def _train(ground: Ground, label: str, spec: MethodSpec, seed: int, folder: Path, measured: str) -> Cell:
    """Train and measure on all of the ground's features; the cell's files come last."""
    recipe, features = ground.recipe, ground.features

    def report(event: Mapping[str, Any]) -> None:
        ground.tell({"method": label, "seed": seed, **event})

    peak = _PeakMemory()
    checkpoint, trained, features = train_method(recipe, spec, seed, folder, features, ground.encoders, report)
    memory = peak.read()
    vectors, links = embed_split(checkpoint.method, features, features.split(recipe.evaluation.split))
    queries = Retrieval(links).per_query(vectors)
    zero_shot = Tasks(ground.zero_shot).as_trained(recipe, checkpoint, ground.encoders).zero_shot
    if zero_shot is not None:
        counts = zero_shot.per_item(checkpoint.method)
        queries["zero_shot"] = counts, np.arange(len(counts))
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
        queries,
        fresh=True,
    )
    _write(cell, measured)
    ground.tell({"event": "trained", "method": label, "seed": seed, "seconds": cell.seconds, "folder": str(folder)})
    return cell


def _zero_shot_identity(ground: Ground) -> list[Any] | None:
    spec, prepared = ground.recipe.evaluation.zero_shot, ground.zero_shot
    if spec is None or prepared is None:
        return None
    text = ground.encoders[prepared.text].fingerprint
    return [
        prepared.items.modality,
        prepared.items.store.fingerprint,
        prepared.classes,
        spec.templates,
        prepared.text,
        text,
    ]


def _write(cell: Cell, measured: str) -> None:
    arrays: dict[str, Any] = {}
    for name, (counts, groups) in cell.queries.items():
        arrays[f"{name}/ranks"], arrays[f"{name}/groups"] = counts, groups
    with whole_file(cell.folder / "queries.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    write_json(cell.folder / "cell.json", {"measured": measured, **cell.to_json()})


def _read(folder: Path, measured: str) -> Cell | None:
    """A finished cell; None if it is not, or was measured on something else."""
    try:
        known = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
        with np.load(folder / "queries.npz", allow_pickle=False) as arrays:
            names = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
            queries = {name: (arrays[f"{name}/ranks"], arrays[f"{name}/groups"]) for name in names}
    except (OSError, ValueError, KeyError):
        return None
    if known["measured"] != measured:
        return None
    given = {name: known[name] for name in ("seed", "groups", "plan", "parameters", "seconds", "memory")}
    return Cell(folder, **given, dev=known["dev_mean_recall@1"], queries=queries)


class _PeakMemory:
    """The peak of the process' resident set from here on. Linux alone can forget an earlier peak."""

    def __init__(self) -> None:
        gc.collect()
        with suppress(AttributeError, OSError, TypeError):
            # What earlier trainings left with the C library's allocator is none of this one's.
            ctypes.CDLL(None).malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._told = True
        except OSError:
            self._told = False

    def read(self) -> int | None:
        """Bytes."""
        if not self._told:
            return None
        status = Path("/proc/self/status").read_text(encoding="ascii")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else None
