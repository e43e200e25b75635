"""A small recipe of the same kind: 64 groups of the data, and a few items of every task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data import Dataset, DataSpec
from lightcrl.data.base import Rejection, Row, digest
from lightcrl.data.table import is_table_file, raw_rows
from lightcrl.recipe import Recipe
from lightcrl.tasks.spec import TaskSpec

GROUPS = 64
"""Number of groups of a rehearsal."""
HELD_OUT = 16
"""Number of these in each split other than train."""
PER_CLASS = 3
"""Number of files of each class of a task."""

_HELD: dict[str, list[Row]] = {}


@dataclass(frozen=True)
class Held:
    """A source of rows that are held in memory, by their mark.

    Attributes:
        kinds: kind of item by modality.
        mark: name under which `hold` has kept the rows.
    """

    kinds: Mapping[str, str]
    mark: str

    def rows(self) -> Iterator[Row | Rejection]:
        """Yield the rows."""
        yield from _HELD[self.mark]


def hold(dataset: Dataset, evaluated: str, seed: int = 0) -> DataSpec:
    """Draw groups of a data set, keep their rows in memory, and return the `[data]` table that reads them.

    Args:
        dataset: all of the data.
        evaluated: split that is measured.
        seed: seed of the draw.
    """
    splits = np.array(dataset.splits)
    present = np.zeros(len(splits), int)
    for links in dataset.links.values():
        present += np.bincount(np.unique(links[:, 1]), minlength=len(splits)) > 0
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    held_out = list(dict.fromkeys(("dev", evaluated)))
    for split in ("train", *held_out):
        mine = rng.permutation(np.flatnonzero((splits == split) & (present >= min(2, present.max()))))
        chosen += sorted(mine[: GROUPS - HELD_OUT * len(held_out) if split == "train" else HELD_OUT].tolist())
    rows = _rows(dataset, chosen)
    mark = digest(*(row.key for row in rows), str(id(dataset)))
    _HELD[mark] = rows
    return DataSpec(source="lightcrl.studies.rehearse.sample:Held", options={"mark": mark}, max_rejected=1.0)


def release(spec: DataSpec) -> None:
    """Forget the rows of `hold`."""
    _HELD.pop(spec.options["mark"], None)


def _rows(dataset: Dataset, groups: list[int]) -> list[Row]:
    wanted = set(groups)
    cells: dict[int, dict[str, list[Any]]] = {group: {} for group in groups}
    for modality, links in dataset.links.items():
        for item, group in links[np.isin(links[:, 1], groups)].tolist():
            if group in wanted:
                cells[group].setdefault(modality, []).append(dataset.items[modality][item])
    return [Row(dataset.groups[group], cells[group], dataset.splits[group]) for group in groups]


@dataclass(frozen=True)
class SmallTask:
    """A task on a few of its items.

    Attributes:
        spec: its settings with a smaller data set; None if it is not rehearsed.
        files: number of pictures or sounds of the whole task.
        texts: number of texts of the whole task.
    """

    spec: TaskSpec | None
    files: int = 0
    texts: int = 0


def shrink(spec: TaskSpec, folder: Path) -> SmallTask:
    """Return a task on a few items: of class folders a few files per class, of tables a few rows.

    Args:
        spec: settings of the task.
        folder: folder for links and tables.
    """
    given = {key: Path(str(value)) for key in spec.PATHS if (value := getattr(spec, key, None)) and key != "output"}
    if not given or not all(path.is_dir() or is_table_file(path) for path in given.values()):
        return SmallTask(None)
    patterns = [str(getattr(spec, name)) for name in ("files", "test_files") if getattr(spec, name, None)]
    changed, files, texts = {}, 0, 0
    for key, path in given.items():
        place = folder / key
        if path.is_dir():
            files += _link_files(path, place, patterns)
            changed[key] = str(place)
        else:
            lines = [row.notes for row in raw_rows(path) if isinstance(row, Row)]
            texts += 2 * len(lines)
            kept = lines[:: max(1, len(lines) // GROUPS)]
            place.parent.mkdir(parents=True, exist_ok=True)
            changed[key] = str(place.with_suffix(".jsonl"))
            text = "".join(json.dumps(dict(line), default=str) + "\n" for line in kept)
            Path(changed[key]).write_text(text, encoding="utf-8")
    return SmallTask(spec.model_copy(update=changed), files, texts)


def _link_files(source: Path, target: Path, patterns: list[str]) -> int:
    """Link a few files of every folder below `source` to the same place below `target`; return the number of all."""
    count = 0
    for folder in (source, *(path for path in source.rglob("*") if path.is_dir())):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        chosen: list[Path] = []
        for pattern in patterns or ["*"]:
            fitting = [path for path in files if fnmatchcase(path.name, pattern)]
            count += len(fitting)
            chosen += fitting[:PER_CLASS]
        place = target / folder.relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for path in dict.fromkeys(chosen):
            (place / path.name).symlink_to(path.absolute())
    return count


def small_recipe(recipe: Recipe, data: DataSpec, tasks: Mapping[str, SmallTask], folder: Path) -> Recipe:
    """Return the recipe of a rehearsal in `folder`: two epochs of whole batches, one seed, small tasks."""
    evaluation = recipe.evaluation
    kept = {label: task.spec for label, task in tasks.items()}
    own: dict[str, Any] = {label: kept[label] for label in ("zero_shot", "text_similarity") if label in kept}
    own["tasks"] = {
        label: {"task": table["task"], **spec.model_dump(mode="json")}
        for label, table in evaluation.tasks.items()
        if (spec := kept.get(label)) is not None
    }
    training: dict[str, Any] = {"epochs": 2, "batch_size": "auto", "evaluate_every": 1, "patience": 0}
    return recipe.model_copy(
        update={
            "output": str(folder / "run"),
            "data": data,
            "features": recipe.features.model_copy(
                update={"folder": str(folder / "features"), "engine": "local", "actors": "auto", "actor_cpus": 1}
            ),
            "training": recipe.training.model_copy(update=training),
            "evaluation": evaluation.model_copy(update={"seeds": evaluation.seeds[:1], **own}),
        }
    )
