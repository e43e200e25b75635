"""`lightcrl run --rehearse`: everything once on a few groups, and a forecast of the whole run.

The rehearsal works in a temporary folder: nothing stays in the run's folder or among the feature stores.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lightcrl.data import Dataset, load_dataset
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import Encoder
from lightcrl.errors import LightCRLError
from lightcrl.events import Tell
from lightcrl.features.extract import encode_modality
from lightcrl.features.store import FeatureStore
from lightcrl.files.remote import is_uri
from lightcrl.machine import physical_memory
from lightcrl.methods.spec import MethodSpec
from lightcrl.pipeline import check_methods, check_tasks, run
from lightcrl.recipe import Recipe
from lightcrl.studies.rehearse.forecast import (
    Forecast,
    existing_parent,
    forecast_encoding,
    forecast_run_bytes,
    peak_memory,
)
from lightcrl.studies.rehearse.rates import EncodingRate, TrainingRate, measure_encoding, measure_training
from lightcrl.studies.rehearse.sample import SmallTask, hold, release, shrink, small_recipe
from lightcrl.training.early import check_early, check_groups

T = TypeVar("T")

ENCODING_SECONDS = 8.0
"""Seconds for which the encoding of each modality is timed."""
TRAINING_SECONDS = 6.0
"""Seconds for which the training of each method is timed."""


@dataclass(frozen=True)
class Part:
    """A part of a rehearsal.

    Attributes:
        name: name of the part.
        seconds: its duration.
        processor: seconds of computing by this process, all of its threads together.
        outcome: its result in words.
    """

    name: str
    seconds: float
    processor: float
    outcome: str


@dataclass
class Rehearsal:
    """The result of a rehearsal.

    Attributes:
        name: name of the recipe.
        parts: finished parts, in order.
        problems: reasons for which the run would break.
        notes: remarks that do not break it.
        groups: number of groups of the whole data by split.
        forecast: needs of the whole run; None if the rehearsal broke before.
    """

    name: str
    parts: list[Part] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)
    forecast: Forecast | None = None

    @property
    def seconds(self) -> float:
        """The duration of the rehearsal."""
        return sum(part.seconds for part in self.parts)

    @contextmanager
    def part(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time a part; the given function takes its result in words."""
        start, computed, words = time.perf_counter(), time.process_time(), [""]
        yield lambda outcome: words.__setitem__(0, outcome)
        self.parts.append(Part(name, time.perf_counter() - start, time.process_time() - computed, words[0]))

    @property
    def cores(self) -> float:
        """Number of cores that this process had while rates were measured; below 1 on a busy machine."""
        timed = [part for part in self.parts if part.name.startswith("rate of")]
        return sum(part.processor for part in timed) / max(1e-9, sum(part.seconds for part in timed))

    def to_json(self) -> dict[str, Any]:
        """Return parts, problems and forecast as JSON."""
        content: dict[str, Any] = {
            "recipe": self.name,
            "seconds": round(self.seconds, 2),
            "parts": {part.name: {"seconds": round(part.seconds, 2), "outcome": part.outcome} for part in self.parts},
            "groups": self.groups,
            "problems": self.problems,
            "notes": self.notes,
        }
        if self.forecast is None:
            return {**content, "forecast": None}
        made = self.forecast
        forecast = {
            "hours": made.seconds / 3600,
            "core_hours": made.seconds * self.cores / 3600,
            "feature_bytes": round(made.feature_bytes),
            "run_bytes": round(made.run_bytes),
            "memory_bytes": round(made.memory),
            "encoding": {name: {**vars(each)} for name, each in made.encoding.items()},
            "tasks_seconds": made.tasks,
            "training": {
                name: {
                    "seeds": seeds,
                    "seconds": rate.seconds,
                    "steps": rate.plan.steps,
                    "step_seconds": rate.step,
                    "evaluation_seconds": rate.evaluation,
                }
                for name, (rate, seeds) in made.training.items()
            },
        }
        return {**content, "forecast": forecast}


class _StoppedError(Exception):
    """The deliberate end of the first training, which is then resumed."""


def rehearse(
    recipe: Recipe, *, page: Callable[[Path], object] | None = None, tell: Tell = lambda event: None
) -> Rehearsal:
    """Run a recipe on 64 groups in a temporary folder, and forecast the whole run.

    Errors of the library end the rehearsal and are among its problems.

    Args:
        recipe: the recipe.
        page: function that makes the report of a run's folder.
        tell: function that is called with events.
    """
    done = Rehearsal(recipe.name)
    with tempfile.TemporaryDirectory(prefix="lightcrl-rehearsal-") as place:
        try:
            _rehearse(recipe, done, Path(place), page, tell)
        except LightCRLError as error:
            done.problems.append(f"{type(error).__name__}: {error}")
    return done


def _rehearse(recipe: Recipe, done: Rehearsal, place: Path, page: Callable[[Path], object] | None, tell: Tell) -> None:
    specs = recipe.methods()
    with done.part("settings") as say:
        check_methods(recipe, specs)
        check_tasks(recipe)
        say(f"{', '.join(spec.name for spec in specs)}; {len(recipe.evaluation.seeds)} seeds")
    with done.part("data") as say:
        dataset = load_dataset(recipe.data, recipe.kinds)
        check_groups(dataset)
        done.groups = dict(Counter(dataset.splits))
        say(", ".join(f"{count:,} {split}" for split, count in done.groups.items()) + " groups")
    _note_data(done, dataset)
    with done.part("encoders") as say:
        encoders = {modality: load_encoder(spec) for modality, spec in recipe.encoders.items()}
        check_early(dataset, encoders, specs, recipe.training, recipe.tuning, recipe.evaluation.split)
        say(", ".join(f"{modality} {spec.model}" for modality, spec in recipe.encoders.items()))
    data = hold(dataset, recipe.evaluation.split)
    try:
        tasks = {label: shrink(spec, place / "tasks" / label) for label, (_, spec) in recipe.evaluation.named().items()}
        done.notes += [f"the task {label} is not rehearsed" for label, task in tasks.items() if task.spec is None]
        small = small_recipe(recipe, data, tasks, place)
        stores = _run_small(small, done, encoders, page, tell)
        done.forecast = _forecast(recipe, small, done, dataset, encoders, stores, tasks, specs)
        _note_load(done, done.forecast)
        done.problems += find_problems(recipe, done.forecast)
    finally:
        release(data)


def _run_small(
    small: Recipe,
    done: Rehearsal,
    encoders: Mapping[str, Encoder],
    page: Callable[[Path], object] | None,
    tell: Tell,
) -> dict[str, FeatureStore]:
    """Encode, train, stop, resume, evaluate and report; return the stores of the rehearsal."""

    def stop(event: Mapping[str, Any]) -> None:
        tell(event)
        if event["event"] == "step" and event["epoch"] == 1:
            raise _StoppedError

    steps: list[int] = []

    def watch(event: Mapping[str, Any]) -> None:
        tell(event)
        if event["event"] == "step":
            steps.append(event["step"])

    stopped = False
    with done.part("shards, first steps, save") as say:
        try:
            run(small, tell=stop)
        except _StoppedError:
            stopped = True
        say("a shard per modality, an epoch, a checkpoint")
    with done.part("resume, evaluation") as say:
        finished = run(small, tell=watch)
        if stopped and steps and steps[0] == 0:
            done.problems.append("the training did not resume from its checkpoint")
        say(f"resumed at step {steps[0]}" if stopped and steps else "trained in one go")
    if page is not None:
        with done.part("report") as say:
            try:
                page(finished.folder)
                say("the page was made")
            except LightCRLError as error:
                done.notes.append(f"lightcrl report would stop: {error}")
                say("not made")
    dataset = load_dataset(small.data, small.kinds)
    return {
        modality: encode_modality(
            encoder, dataset, modality, small.features, lambda event: None, max_rejected=1.0
        ).store
        for modality, encoder in encoders.items()
    }


def _forecast(
    recipe: Recipe,
    small: Recipe,
    done: Rehearsal,
    dataset: Dataset,
    encoders: Mapping[str, Encoder],
    stores: Mapping[str, FeatureStore],
    tasks: Mapping[str, SmallTask],
    specs: tuple[MethodSpec, ...],
) -> Forecast:
    rates: dict[str, EncodingRate] = {}
    with done.part("rate of encoding") as say:
        for modality, encoder in encoders.items():
            rates[modality] = measure_encoding(
                encoder, dataset, modality, seconds=ENCODING_SECONDS, workers=recipe.features.workers
            )
        say(", ".join(f"{modality} {1 / max(rate.seconds, 1e-9):,.0f} a second" for modality, rate in rates.items()))
    _note_rejected(recipe, done, rates)
    encoding = {
        modality: forecast_encoding(recipe, encoder, dataset, modality, rates[modality], stores[modality])
        for modality, encoder in encoders.items()
    }
    training: dict[str, tuple[TrainingRate, int]] = {}
    with done.part("rate of training") as say:
        for number, spec in enumerate(specs):
            place = Path(small.folder).with_name(f"timed-{number}")
            rate = measure_training(recipe, spec, stores, dataset, encoders, place, seconds=TRAINING_SECONDS)
            training[spec.name] = rate, len(recipe.evaluation.seeds)
        if recipe.tuning:
            done.notes.append("the steps of a trained encoder and its stored states are not in the forecast")
        say(", ".join(f"{name} {rate.step * 1e3:,.0f} ms a step" for name, (rate, _) in training.items()))
    values = sum(each.values for each in encoding.values())
    limit = recipe.training.memory_bytes
    held = values <= limit
    # A timed training holds features as well, but few of them.
    memory = peak_memory() + (values if held else limit / 2)
    media = [rate.seconds for name, rate in rates.items() if encoders[name].kind != "text"]
    texts = [rate.seconds for name, rate in rates.items() if encoders[name].kind == "text"]
    seconds = sum(task.files * max(media, default=0.0) + task.texts * sum(texts) for task in tasks.values())
    run_bytes = forecast_run_bytes(small.folder, training)
    return Forecast(encoding, seconds, training, run_bytes, memory, held)


def _note_data(done: Rehearsal, dataset: Dataset) -> None:
    if dataset.rejected:
        reasons = Counter(rejection.reason for rejection in dataset.rejected).most_common(3)
        done.notes.append("set aside: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons))
    if done.groups.get("dev", 0) < 100:
        done.notes.append(f"{done.groups.get('dev', 0)} groups in dev: figures will have wide intervals")


def _note_load(done: Rehearsal, forecast: Forecast) -> None:
    """Say that times are those of a busy machine, where the system tells its load, and what the run computes."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load > 1.5 * cores:
        done.notes.append(
            f"{load:.0f} processes compete for {cores} cores, and this one had {done.cores:.2f} of a core: the run "
            f"takes {forecast.seconds / 3600:.1f} h at this load, for {forecast.seconds * done.cores / 60:.0f} "
            "core-minutes of computing"
        )


def _note_rejected(recipe: Recipe, done: Rehearsal, rates: Mapping[str, EncodingRate]) -> None:
    for modality, rate in rates.items():
        share = len(rate.rejected) / max(1, rate.sampled)
        if share > recipe.data.max_rejected:
            done.problems.append(
                f"{share:.0%} of {rate.sampled} sampled items of {modality} cannot be read; data.max_rejected is "
                f"{recipe.data.max_rejected:.0%}. The first: {rate.rejected[0]}"
            )
        elif rate.rejected:
            done.notes.append(f"{modality}: {len(rate.rejected)} of {rate.sampled} sampled items cannot be read")


def find_problems(recipe: Recipe, forecast: Forecast) -> list[str]:
    """Return the things that the machine lacks for a whole run."""
    problems = []
    wanted = {Path(recipe.folder): forecast.run_bytes}
    if not is_uri(recipe.features.folder):
        place = Path(recipe.features.folder)
        wanted[place] = wanted.get(place, 0.0) + forecast.feature_bytes
    for place, size in wanted.items():
        free = shutil.disk_usage(existing_parent(place)).free
        if size > free:
            problems.append(
                f"{place} needs {size / 2**30:.1f} GiB, and its disk has {free / 2**30:.1f} GiB free. Choose another "
                "folder (features.folder, output), or fewer layers (encoders.*.layers)."
            )
    if forecast.memory > physical_memory():
        problems.append(
            f"the run needs about {forecast.memory / 2**30:.1f} GiB of memory, and this machine has "
            f"{physical_memory() / 2**30:.1f} GiB. Set training.memory lower."
        )
    return problems
