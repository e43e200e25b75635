"""Forecast of a whole run: hours, disk and memory, from measured rates and the counts of the data."""

from __future__ import annotations

import io
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lightcrl.data import Dataset
from lightcrl.encoders.base import Encoder
from lightcrl.features.linked import linkable_files, metadata_lines
from lightcrl.features.packing import PACKED
from lightcrl.features.shards import shard_count
from lightcrl.features.siblings import Siblings
from lightcrl.features.store import METADATA, FeatureStore, format_of
from lightcrl.features.views import settled_views, view_dataset
from lightcrl.files.remote import folder_at
from lightcrl.recipe import Recipe
from lightcrl.studies.rehearse.rates import EncodingRate, TrainingRate

LINES = 4096
"""Number of items from whose metadata its size is measured."""
LOG_BYTES = 190
"""Size of a line of log.jsonl."""


@dataclass(frozen=True)
class Encoding:
    """The encoding of a modality in the whole run.

    Attributes:
        items: number of items, and of views of training items.
        stored: number of those that finished stores of this encoder hold already.
        seconds: seconds for the others.
        nbytes: size of the new store on disk.
        values: size of its values, which training may hold in memory.
    """

    items: int
    stored: int
    seconds: float
    nbytes: float
    values: float


@dataclass(frozen=True)
class Forecast:
    """The needs of a whole run.

    Attributes:
        encoding: encoding by modality.
        tasks: seconds for encoding the items of the evaluation's tasks.
        training: rate of each method, with the number of its seeds.
        run_bytes: size of the run's folder.
        memory: greatest memory of the process in bytes.
        held: true if training holds all features in memory.
    """

    encoding: Mapping[str, Encoding]
    tasks: float
    training: Mapping[str, tuple[TrainingRate, int]]
    run_bytes: float
    memory: float
    held: bool

    @property
    def seconds(self) -> float:
        """The duration of the run."""
        encoding = sum(each.seconds for each in self.encoding.values())
        return encoding + self.tasks + sum(rate.seconds * seeds for rate, seeds in self.training.values())

    @property
    def feature_bytes(self) -> float:
        """Size of the new feature stores."""
        return sum(each.nbytes for each in self.encoding.values())


def forecast_encoding(
    recipe: Recipe, encoder: Encoder, dataset: Dataset, modality: str, rate: EncodingRate, small: FeatureStore
) -> Encoding:
    """Return the forecast of a modality and its views; `small` is its store in the rehearsal."""
    spec = settled_views({modality: recipe.encoders[modality]}, dataset, recipe.tuning)[modality]
    further = [view_dataset(dataset, modality, number, spec) for number in range(1, 1 + spec.views.further)]
    items = [item for each in (dataset, *further) for item in each.items[modality]]
    readable = len(items) * (1 - len(rate.rejected) / max(1, rate.sampled))
    values = readable * rate.tokens * small.nbytes / max(1, small.tokens)
    wanted = {"format": format_of(recipe.features.dtype), "dtype": recipe.features.dtype}
    siblings = Siblings(folder_at(recipe.features.folder), wanted, encoder.fingerprint, exclude="")
    stored = len(siblings.find(items)[0])
    linked = recipe.features.dtype != PACKED and bool(linkable_files(folder_at(recipe.features.folder), encoder, items))
    shards = sum(shard_count(len(each.items[modality])) for each in (dataset, *further))
    manifests = (1 + len(further)) * (small.folder / "manifest.json").stat().st_size
    metadata = sum(_metadata_bytes(each, modality) for each in (dataset, *further))
    on_disk = shards * (2 * 128 + 2 * 700) + manifests + 8.0 * readable + metadata + (0.0 if linked else values)
    seconds = 0.0 if linked else (len(items) - stored) * rate.seconds
    return Encoding(len(items), stored, seconds, on_disk, values)


def _metadata_bytes(dataset: Dataset, modality: str) -> float:
    """Return the size of a modality's metadata, from that of its first items."""
    lines = len(dataset.links[modality])
    count = min(LINES, len(dataset.items[modality]))
    sample = metadata_lines(dataset, modality, 0, count)
    empty, full = _parquet_bytes({name: [] for name in sample}), _parquet_bytes(sample)
    each = (full - empty) / max(1, len(sample["row"]))
    return each * lines + empty * shard_count(len(dataset.items[modality]))


def _parquet_bytes(lines: Mapping[str, list[Any]]) -> int:
    stream = io.BytesIO()
    pq.write_table(pa.table(dict(lines), schema=METADATA), stream)
    return len(stream.getvalue())


def forecast_run_bytes(folder: Path, training: Mapping[str, tuple[TrainingRate, int]]) -> float:
    """Return the size of a run's folder, from that of the rehearsal's and the number of steps."""
    logs = (".jsonl", "tfevents")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.name.endswith(logs)]
    seeds = max((count for _, count in training.values()), default=1)
    steps = sum(rate.plan.steps * count for rate, count in training.values())
    return sum(sizes) * seeds + steps * LOG_BYTES


def peak_memory() -> float:
    """Return the greatest memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def existing_parent(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    place = Path(os.path.abspath(path))  # noqa: PTH100 - a missing path is not resolved
    while not place.exists():
        place = place.parent
    return place
